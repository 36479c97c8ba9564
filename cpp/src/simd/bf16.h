#pragma once

// Vectors of 32 bfloat16 numbers, for the levels that multiply pairs of them.

#include "simd/simd.h"

namespace gossamer::detail {
namespace {

/// The first `count` of 32 numbers, or all; nothing behind them is read.
GOSSAMER_INLINE __m512i first_of(const std::uint16_t* p, std::int64_t count) {
  if (count >= 32) return _mm512_loadu_si512(p);
  if (count <= 0) return _mm512_setzero_si512();
  return _mm512_maskz_loadu_epi16((1U << count) - 1, p);
}

/// sum + a·b, where each lane of a and b is a pair. Written out because GCC 12 keeps the
/// intrinsic's operands in half of the registers, and spills beside 24 sums.
GOSSAMER_INLINE __m512 add_pairs(__m512 sum, __m512i a, __m512i b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

/// The same pair in all lanes.
GOSSAMER_INLINE __m512i pair_at(const char* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return _mm512_set1_epi32(pair);
}

/// Which of 128 elements the positions of 32 groups of 2:4 name, of which `bytes` are there. A
/// nibble has the two positions of a group, from which a table gives its four bits.
GOSSAMER_INLINE void bits_of_2_of_4(const std::uint8_t* indices, std::int64_t bytes,
                                    std::uint32_t (&bits)[4]) {
  // For nibble i, bits i%4 and i/4.
  const __m128i table = _mm_setr_epi8(1, 3, 5, 9, 3, 2, 6, 10, 5, 6, 4, 12, 9, 10, 12, 8);
  const __m128i low = _mm_set1_epi8(15);
  const __m128i packed =
      bytes >= 16 ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(indices))
                  : _mm_maskz_loadu_epi8(static_cast<__mmask16>((1 << bytes) - 1), indices);
  const __m128i even = _mm_shuffle_epi8(table, _mm_and_si128(packed, low));
  const __m128i odd = _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(packed, 4), low));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(bits), _mm_or_si128(even, _mm_slli_epi16(odd, 4)));
}

}  // namespace
}  // namespace gossamer::detail
