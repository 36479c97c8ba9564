#pragma once

// Packed positions of N:M matrices: small numbers of one to five bits each, one after the other
// from the lowest bit of a byte on.

#include "simd/simd.h"

namespace gossamer::detail {
namespace {

/// Fetches all lines of the cache that hold some of these bytes, wherever in a line they begin.
GOSSAMER_INLINE void prefetch(const void* data, std::int64_t bytes) {
  constexpr std::int64_t kLine = 64;
  const auto* first = static_cast<const char*>(data);
  if (bytes == 0) return;  // The pointer may be null.
  for (std::int64_t at = 0; at < bytes; at += kLine) __builtin_prefetch(first + at);
  __builtin_prefetch(first + bytes - 1);
}

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

/// Bytes bytes as a number. A copy of three, five or six bytes to a number would go through the
/// stack, where the load that follows waits for the stores.
template <int Bytes>
GOSSAMER_INLINE std::uint64_t read_bytes(const std::uint8_t* from) {
  if constexpr (Bytes == 6) {
    return read_bytes<4>(from) | read_bytes<2>(from + 4) << 32;
  } else if constexpr (Bytes == 3 || Bytes == 5) {
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

#if defined(GOSSAMER_AVX512)
using Index = __m512i;
#elif defined(GOSSAMER_AVX2)
using Index = __m256i;
#endif

#if defined(GOSSAMER_AVX512) || defined(GOSSAMER_AVX2)
/// Positions that are unpacked at once, one in each lane of 32 bits.
constexpr int kPositions = kLanes<float>;
#endif

#if defined(GOSSAMER_AVX512)
/// kPositions packed positions: the bytes that hold them alone, since those behind may be of
/// another cache line, which nobody has asked for.
template <int Bits>
GOSSAMER_INLINE __m128i read_packed(const std::uint8_t* from) {
  if constexpr (Bits == 5) {
    return _mm_set_epi64x(static_cast<long long>(read_bytes<2>(from + 8)),
                          static_cast<long long>(read_bytes<8>(from)));
  } else {
    return _mm_cvtsi64_si128(static_cast<long long>(read_bytes<2 * Bits>(from)));
  }
}

/// Packed positions, one in each lane.
template <int Bits>
GOSSAMER_INLINE Index unpack(__m128i packed) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i bit = _mm512_mullo_epi32(lane, _mm512_set1_epi32(Bits));
  __m512i words = _mm512_broadcastd_epi32(packed), shift = bit;
  if constexpr (Bits > 2) {
    // A lane gets the two bytes that hold its position.
    const __m512i byte = _mm512_srli_epi32(bit, 3);
    const __m512i next = _mm512_slli_epi32(_mm512_add_epi32(byte, _mm512_set1_epi32(1)), 8);
    words = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(packed), _mm512_or_si512(byte, next));
    shift = _mm512_and_si512(bit, _mm512_set1_epi32(7));
  }
  return _mm512_and_si512(_mm512_srlv_epi32(words, shift), _mm512_set1_epi32((1 << Bits) - 1));
}
#elif defined(GOSSAMER_AVX2)
template <int Bits>
GOSSAMER_INLINE __m128i read_packed(const std::uint8_t* from) {
  return _mm_cvtsi64_si128(static_cast<long long>(read_bytes<Bits>(from)));
}

template <int Bits>
GOSSAMER_INLINE Index unpack(__m128i packed) {
  const __m256i bit =
      _mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits);
  __m256i words = _mm256_broadcastd_epi32(packed), shift = bit;
  if constexpr (Bits > 4) {
    // A lane gets the two bytes that hold its position.
    const __m256i byte = _mm256_srli_epi32(bit, 3);
    const __m256i next = _mm256_slli_epi32(_mm256_add_epi32(byte, _mm256_set1_epi32(1)), 8);
    words = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(packed), _mm256_or_si256(byte, next));
    shift = _mm256_and_si256(bit, _mm256_set1_epi32(7));
  }
  return _mm256_and_si256(_mm256_srlv_epi32(words, shift), _mm256_set1_epi32((1 << Bits) - 1));
}
#else
[[maybe_unused]]
__attribute__((noinline)) void read_any_offsets(int bits, const std::uint8_t* from,
                                                std::int64_t count, const std::uint32_t* base,
                                                std::uint32_t row, std::uint32_t* to) {
  for (std::int64_t s = 0; s < count; s += 64, from += 8 * bits) {
    std::uint8_t place[64];
    const std::int64_t part = min_i64(count - s, 64);
    read_any_positions(bits, from, part, place);
    for (std::int64_t i = 0; i < part; ++i) to[s + i] = base[s + i] + row * place[i];
  }
}
#endif

#if defined(GOSSAMER_AVX512)
/// The first `count` bytes, at most sixteen; zeros behind them.
GOSSAMER_INLINE __m128i read_first(const std::uint8_t* from, std::int64_t count) {
  return _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << count) - 1), from);
}
#elif defined(GOSSAMER_AVX2)
GOSSAMER_INLINE __m128i read_first(const std::uint8_t* from, std::int64_t count) {
  std::uint64_t packed = 0;
  for (std::int64_t i = 0; i < count; ++i) packed |= std::uint64_t{from[i]} << (8 * i);
  return _mm_cvtsi64_si128(static_cast<long long>(packed));
}
#endif

/// to[s] = base[s] + row·(position s) for s < count, positions of Bits bits from `from` on. Writes
/// up to the next multiple of sixteen, and reads as many of `base`.
template <int Bits>
GOSSAMER_INLINE void read_offsets(const std::uint8_t* from, std::int64_t count,
                                  const std::uint32_t* base, std::uint32_t row, std::uint32_t* to) {
#if defined(GOSSAMER_AVX512)
  const __m512i rows = _mm512_set1_epi32(static_cast<int>(row));
  const auto add = [&](std::int64_t s, __m128i packed) {
    const __m512i offsets = _mm512_mullo_epi32(unpack<Bits>(packed), rows);
    _mm512_storeu_si512(to + s, _mm512_add_epi32(_mm512_loadu_si512(base + s), offsets));
  };
#elif defined(GOSSAMER_AVX2)
  const __m256i rows = _mm256_set1_epi32(static_cast<int>(row));
  const auto add = [&](std::int64_t s, __m128i packed) {
    const __m256i offsets = _mm256_mullo_epi32(unpack<Bits>(packed), rows);
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(base + s));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + s), _mm256_add_epi32(first, offsets));
  };
#endif
#if defined(GOSSAMER_AVX512) || defined(GOSSAMER_AVX2)
  std::int64_t s = 0;
  for (; s + kPositions <= count; s += kPositions, from += kPositions / 8 * Bits) {
    add(s, read_packed<Bits>(from));
  }
  if (s < count) {
    add(s, read_first(from, ((count - s) * Bits + 7) / 8));
  }
#else
  read_any_offsets(Bits, from, count, base, row, to);
#endif
}

}  // namespace
}  // namespace gossamer::detail
