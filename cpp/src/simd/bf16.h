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

}  // namespace
}  // namespace gossamer::detail
