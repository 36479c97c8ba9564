// Rows of the "dense" layout: 64 elements to a word of bits. No branch depends on the bits.

#include "formats/packed/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Writes 64 elements; returns the next of `from`. 64 of `from` may be read.
template <class T>
GOSSAMER_INLINE const T* expand(std::uint64_t word, const T* from, T* to) {
#if defined(GOSSAMER_AVX512)
  if constexpr (sizeof(T) == 8) {
#pragma GCC unroll 8
    for (int part = 0; part < 8; ++part, word >>= 8, to += 8) {
      const auto mask = static_cast<__mmask8>(word);
      _mm512_storeu_si512(to, _mm512_maskz_expand_epi64(mask, _mm512_loadu_si512(from)));
      from += __builtin_popcount(mask);
    }
  } else {
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part, word >>= 16, to += 16) {
      const auto mask = static_cast<__mmask16>(word);
      if constexpr (sizeof(T) == 4) {
        _mm512_storeu_si512(to, _mm512_maskz_expand_epi32(mask, _mm512_loadu_si512(from)));
      } else {
        // What expands 16-bit lanes is not of this level.
        const __m512i wide =
            _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                            _mm512_cvtepi32_epi16(_mm512_maskz_expand_epi32(mask, wide)));
      }
      from += __builtin_popcount(mask);
    }
  }
#else
  for (int j = 0; j < 64; ++j, word >>= 1U) {
    const std::uint64_t bit = word & 1U;
    to[j] = static_cast<T>(*from & (T{0} - static_cast<T>(bit)));
    from += bit;
  }
#endif
  return from;
}

template <class T>
void expand_all(const ExpandRowsArgs& a) {
  const T* const end = static_cast<const T*>(a.source) + a.nnz;
  for (std::int64_t row = a.row0; row < a.row1; ++row) {
    const T* from = static_cast<const T*>(a.source) + a.row_begin[row];
    T* const to = static_cast<T*>(a.values) + row * a.cols;
    for (std::int64_t first = 0; first < a.cols; first += 64) {
      std::uint64_t word = a.bits[row * a.words + first / 64];
      if (first + 64 <= a.cols && end - from >= 64) {
        from = expand(word, from, to + first);
        continue;
      }
      for (std::int64_t j = first; j < min_i64(first + 64, a.cols); ++j, word >>= 1U) {
        to[j] = (word & 1U) != 0 ? *from++ : T{0};
      }
    }
  }
}

}  // namespace

void expand_rows(const ExpandRowsArgs& a);
void expand_rows(const ExpandRowsArgs& a) {
  if (a.size == 2) {
    expand_all<std::uint16_t>(a);
  } else if (a.size == 4) {
    expand_all<std::uint32_t>(a);
  } else {
    expand_all<std::uint64_t>(a);
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
