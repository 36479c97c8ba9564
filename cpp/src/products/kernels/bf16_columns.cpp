// Columns of B in pairs of rows. Two rows are interleaved; where the columns lie in memory as rows,
// sixteen by sixteen pairs are transposed in registers.

#include "products/args.h"
#include "simd/bf16.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Sixteen columns of the tile, of which `cols` are B's.
void interleave(const Bf16ColumnsArgs& a, const std::uint16_t* from, std::int64_t cols,
                std::uint32_t* to) {
  const auto some = static_cast<__mmask16>(cols >= 16 ? 0xffff : (1 << cols) - 1);
  std::int64_t d = 0;
  for (; d + 2 <= a.depth; d += 2, from += 2 * a.stride, to += a.tile) {
    const __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, from));
    const __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, from + a.stride));
    _mm512_storeu_si512(to, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
  }
  if (d < a.depth) {
    _mm512_storeu_si512(to, _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, from)));
    d += 2;
    to += a.tile;
  }
  for (; d < a.padded; d += 2, to += a.tile) _mm512_storeu_si512(to, _mm512_setzero_si512());
}

void transpose(const Bf16ColumnsArgs& a, const std::uint16_t* from, std::int64_t cols,
               std::uint32_t* to) {
  for (std::int64_t d = 0; d < a.padded; d += 32) {
    Vec<float, 16> r[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      r[j] = bit_cast<Vec<float, 16>>(j < cols ? first_of(from + j * a.stride + d, a.depth - d)
                                               : _mm512_setzero_si512());
    }
    transpose_registers<16>(r);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i, to += a.tile) _mm512_storeu_si512(to, bit_cast<__m512i>(r[i]));
  }
}

}  // namespace

void bf16_columns(const Bf16ColumnsArgs& a);
void bf16_columns(const Bf16ColumnsArgs& a) {
  const auto* from = static_cast<const std::uint16_t*>(a.from);
  auto* to = static_cast<std::uint32_t*>(a.to);
  for (std::int64_t j = 0; j < a.tile; j += 16, to += 16) {
    const std::int64_t cols = a.cols - j < 0 ? 0 : min_i64(16, a.cols - j);
    if (a.transposed) {
      transpose(a, from + j * a.stride, cols, to);
    } else {
      interleave(a, from + j, cols, to);
    }
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
