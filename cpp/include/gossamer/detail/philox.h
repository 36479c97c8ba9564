#pragma once

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a random
// number is a function of seed, step and element, so that every device and every process draws the
// same one for an element.

#include <cstdint>

#if defined(__CUDACC__)
#define GOSSAMER_PHILOX __host__ __device__ inline
#else
#define GOSSAMER_PHILOX __attribute__((always_inline)) inline
#endif

namespace gossamer::detail {
namespace {

struct Philox {
  std::uint32_t word[4];
};

inline constexpr int kPhiloxRounds = 10;
inline constexpr std::uint32_t kPhiloxFactor0 = 0xD2511F53u, kPhiloxFactor1 = 0xCD9E8D57u;
/// Added to the key after each round.
inline constexpr std::uint32_t kPhiloxStep0 = 0x9E3779B9u, kPhiloxStep1 = 0xBB67AE85u;
// Device code cannot read these.
inline constexpr std::uint32_t kPhiloxFactors[] = {kPhiloxFactor0, kPhiloxFactor1};
inline constexpr std::uint32_t kPhiloxSteps[] = {kPhiloxStep0, kPhiloxStep1};

/// Four random words for a 128-bit counter, given as its lower and upper half, and a 64-bit key.
GOSSAMER_PHILOX Philox philox(std::uint64_t low, std::uint64_t high, std::uint64_t key) {
  std::uint32_t c0 = static_cast<std::uint32_t>(low), c1 = static_cast<std::uint32_t>(low >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(high), c3 = static_cast<std::uint32_t>(high >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const std::uint64_t p0 = std::uint64_t{kPhiloxFactor0} * c0;
    const std::uint64_t p1 = std::uint64_t{kPhiloxFactor1} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += kPhiloxStep0;
    k1 += kPhiloxStep1;
  }
  return {{c0, c1, c2, c3}};
}

/// The random word of element `index` in `step`: word index mod 4 of counter (index/4, step).
GOSSAMER_PHILOX std::uint32_t random_word(std::uint64_t seed, std::uint64_t step,
                                          std::uint64_t index) {
  return philox(index >> 2, step, seed).word[index & 3];
}

// A random mask selects the elements with the largest keys. The key of element `index` has 40 bits.
// Its upper 8 are byte index mod 16 of the 16 bytes that counter (index/16, step) gives, the words
// in order and each from its lowest byte on. Its lower 32, the tail, are word 0 of counter
// (kKeyTails + index, step). So one counter serves 16 elements, and a tail is computed only for the
// few elements that the byte leaves undecided.
inline constexpr int kKeyBits = 40;
inline constexpr int kTailBits = 32;
inline constexpr std::uint64_t kKeyTails = std::uint64_t{1} << 63;

}  // namespace
}  // namespace gossamer::detail
