#pragma once

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed so
// that every device and every rank draws the same number for an element.

#include <cstdint>

#if defined(__CUDACC__)
#define GOSSAMER_PHILOX __host__ __device__ inline
#else
#define GOSSAMER_PHILOX __attribute__((always_inline)) inline
#endif

namespace gossamer::kernels {
namespace {

struct Philox {
  std::uint32_t word[4];
};

/// Four words for a 128-bit counter, given as two numbers, and a 64-bit key.
GOSSAMER_PHILOX Philox philox(std::uint64_t low, std::uint64_t high, std::uint64_t key) {
  std::uint32_t c0 = static_cast<std::uint32_t>(low), c1 = static_cast<std::uint32_t>(low >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(high), c3 = static_cast<std::uint32_t>(high >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(0xD2511F53u) * c0;
    const std::uint64_t p1 = static_cast<std::uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// The random word of element `index` in `step`: word index mod 4 of counter (index/4, step).
GOSSAMER_PHILOX std::uint32_t random_word(std::uint64_t seed, std::uint64_t step,
                                          std::uint64_t index) {
  return philox(index >> 2, step, seed).word[index & 3];
}

}  // namespace
}  // namespace gossamer::kernels
