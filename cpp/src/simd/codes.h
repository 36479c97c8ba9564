#pragma once

// Codes of quantised groups, as numbers.

#include "simd/simd.h"

namespace gossamer::detail {
namespace {

#if defined(GOSSAMER_AVX2)
/// Eight codes of Bits bits, 4 or 8.
template <int Bits>
GOSSAMER_INLINE __m256 codes_to_floats(const std::uint8_t* codes) {
  __m256i code;
  if constexpr (Bits == 4) {
    int word;
    __builtin_memcpy(&word, codes, 4);
    const __m256i shift = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    code =
        _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(word), shift), _mm256_set1_epi32(15));
  } else {
    code = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
  }
  return _mm256_cvtepi32_ps(code);
}
#endif

}  // namespace
}  // namespace gossamer::detail
