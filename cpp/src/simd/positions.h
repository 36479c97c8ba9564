#pragma once

// Packed positions of N:M matrices: small numbers of one to five bits each, one after the other
// from the lowest bit of a byte on.

#include "simd/simd.h"

namespace gossamer::detail {
namespace {

/// Calls f(Int<bits>).
template <class F>
GOSSAMER_INLINE void with_bits(int bits, F&& f) {
  switch (bits) {
    case 0:
      f(Int<0>{});
      break;
    case 1:
      f(Int<1>{});
      break;
    case 2:
      f(Int<2>{});
      break;
    case 3:
      f(Int<3>{});
      break;
    case 4:
      f(Int<4>{});
      break;
    default:
      f(Int<5>{});
      break;
  }
}

/// Bytes bytes as a number. A copy of three or five bytes to a number would go through the stack,
/// where the load that follows waits for the stores.
template <int Bytes>
GOSSAMER_INLINE std::uint64_t read_bytes(const std::uint8_t* from) {
  if constexpr (Bytes == 3 || Bytes == 5) {
    return read_bytes<Bytes - 1>(from) | std::uint64_t{from[Bytes - 1]} << (8 * (Bytes - 1));
  } else {
    std::uint64_t number = 0;
    __builtin_memcpy(&number, from, Bytes);
    return number;
  }
}

/// Eight positions of Bits bits, one in each byte.
template <int Bits>
GOSSAMER_INLINE std::uint64_t spread(std::uint64_t packed) {
  constexpr std::uint64_t kOne = (std::uint64_t{1} << Bits) - 1;
#if defined(__BMI2__)
  return _pdep_u64(packed, kOne * 0x0101010101010101u);
#else
  // The upper half of the positions moves to the upper half of the word, then within the halves.
  constexpr std::uint64_t kFour = (std::uint64_t{1} << (4 * Bits)) - 1;
  constexpr std::uint64_t kTwo = (std::uint64_t{1} << (2 * Bits)) - 1;
  std::uint64_t x = (packed & kFour) | ((packed >> (4 * Bits) & kFour) << 32);
  x = (x & kTwo * 0x0000000100000001u) | ((x >> (2 * Bits) & kTwo * 0x0000000100000001u) << 16);
  x = (x & kOne * 0x0001000100010001u) | ((x >> Bits & kOne * 0x0001000100010001u) << 8);
  return x;
#endif
}

/// to[0, count) = the positions from `from` on, a byte each. Writes up to the next multiple of
/// eight; reads the bytes that hold them alone.
template <int Bits>
GOSSAMER_INLINE void read_positions(const std::uint8_t* from, std::int64_t count,
                                    std::uint8_t* to) {
  std::int64_t s = 0;
  for (; s + 8 <= count; s += 8, from += Bits) {
    const std::uint64_t wide = spread<Bits>(read_bytes<Bits>(from));
    __builtin_memcpy(to + s, &wide, 8);
  }
  if (s < count) {
    std::uint64_t packed = 0;
    const std::int64_t bytes = ((count - s) * Bits + 7) / 8;
    for (std::int64_t i = 0; i < bytes; ++i) {
      packed |= static_cast<std::uint64_t>(from[i]) << (8 * i);
    }
    const std::uint64_t wide = spread<Bits>(packed);
    __builtin_memcpy(to + s, &wide, 8);
  }
}

/// The same where the number of bits is not known to the compiler.
[[maybe_unused]] __attribute__((noinline)) void read_any_positions(int bits,
                                                                   const std::uint8_t* from,
                                                                   std::int64_t count,
                                                                   std::uint8_t* to) {
  with_bits(bits, [&](auto width) { read_positions<decltype(width)::value>(from, count, to); });
}

}  // namespace
}  // namespace gossamer::detail
