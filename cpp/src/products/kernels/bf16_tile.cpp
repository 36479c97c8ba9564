// Rows of A times a tile of B, both bfloat16. A few rows at a time keep their sums over the whole
// tile in registers; for two columns of A at a time, two rows of B are loaded as pairs and
// multiplied by each row's broadcast pair. The instruction takes subnormal numbers for zeros.

#include "products/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

GOSSAMER_INLINE __m512bh pair_at(const char* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

/// Rows [row, row+R).
template <int R, int J>
__attribute__((noinline)) void add_rows(const Bf16TileArgs& args, std::int64_t row) {
  constexpr int kTile = J * 16;
  float* c = args.c + row * kTile;
  const std::int64_t lda = args.lda * 2;
  __m512 sum[R][J];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) {
      sum[r][j] = args.accumulate ? _mm512_loadu_ps(c + r * kTile + j * 16) : _mm512_setzero_ps();
    }
  }
  const char* ahead = static_cast<const char*>(args.ahead) + row * args.ahead_row;
  const std::int64_t step = args.ahead_row * R * 2 / (args.depth * args.count);
  for (std::int64_t p = 0; p < args.count; ++p) {
    const char* a = static_cast<const char*>(args.pairs[p].a) + row * lda;
    const char* b = static_cast<const char*>(args.pairs[p].b);
    for (std::int64_t d = 0; d < args.depth; d += 2, a += 4, b += kTile * 4) {
      _mm_prefetch(ahead, _MM_HINT_T1);
      ahead += step;
      __m512bh from[J];
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) {
        from[j] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + j * 64));
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const __m512bh value = pair_at(a + r * lda);
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) sum[r][j] = _mm512_dpbf16_ps(sum[r][j], value, from[j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) _mm512_storeu_ps(c + r * kTile + j * 16, sum[r][j]);
  }
}

/// The rows from `row` on: R at a time, then the rest by halves.
template <int R, int J>
void all_rows(const Bf16TileArgs& args, std::int64_t row) {
  for (; row + R <= args.rows; row += R) add_rows<R, J>(args, row);
  if constexpr (R > 1) {
    if (row < args.rows) all_rows<R / 2, J>(args, row);
  }
}

}  // namespace

void bf16_tile(const Bf16TileArgs& a);
void bf16_tile(const Bf16TileArgs& a) {
  // Up to 24 sums leave registers for B and the pair of A.
  switch (a.tile) {
    case 16:
      return all_rows<12, 1>(a, 0);
    case 32:
      return all_rows<12, 2>(a, 0);
    case 48:
      return all_rows<8, 3>(a, 0);
    default:
      return all_rows<6, 4>(a, 0);
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
