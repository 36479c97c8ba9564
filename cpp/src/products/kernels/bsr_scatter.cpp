// One range of columns of C = Aᵀ · B, where A has blocks: a few rows of B that a row of blocks
// meets are held in registers, and each column of a block adds its multiples of them to a row of
// the tile of C, which the caller makes small enough for a cache.

#include "products/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// A run of blocks, each `rows` by `cols` one after the other.
template <class T, class I>
struct Blocks {
  const I* indices;
  const T* values;
  std::int64_t count, rows, cols;
};

/// Adds R rows of the blocks, from `row` on, times as many rows of B, `b`.
template <int R, int Tile, class T, class I>
__attribute__((noinline)) void add_rows(const Blocks<T, I>& a, std::int64_t row, const T* b,
                                        std::int64_t ldb, T* c) {
  constexpr int W = min_int(Tile, kLanes<T>), J = Tile / W;
  Vec<T, W> from[R][J];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) from[r][j] = load<W>(b + r * ldb + j * W);
  }
  const T* value = a.values + row * a.cols;
  for (std::int64_t k = 0; k < a.count; ++k, value += a.rows * a.cols) {
    T* to = c + static_cast<std::int64_t>(a.indices[k]) * a.cols * Tile;
    for (std::int64_t col = 0; col < a.cols; ++col, to += Tile) {
      Vec<T, W> sum[J];
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sum[j] = load<W>(to + j * W);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const Vec<T, W> times = broadcast<W>(value[r * a.cols + col]);
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) sum[j] += times * from[r][j];
      }
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) store<W>(to + j * W, sum[j]);
    }
  }
}

/// The rows from `row` on: R at a time, then the rest by halves.
template <int R, int Tile, class T, class I>
GOSSAMER_INLINE void add_blocks(const Blocks<T, I>& a, std::int64_t row, const T* b,
                                std::int64_t ldb, T* c) {
  for (; row + R <= a.rows; row += R) add_rows<R, Tile>(a, row, b + row * ldb, ldb, c);
  if constexpr (R > 1) {
    if (row < a.rows) add_blocks<R / 2, Tile>(a, row, b, ldb, c);
  }
}

template <class T, int Tile, class I>
void scatter(const SpmmScatterArgs& args) {
  constexpr int J = Tile / min_int(Tile, kLanes<T>);
  // As many rows of B as leave registers for a row of C.
  constexpr int R = J <= (kVectorBytes == 64 ? 4 : 2) ? 4 : 2;
  const I* begin = static_cast<const I*>(args.begin);
  const I* end = static_cast<const I*>(args.end);
  const I* indices = static_cast<const I*>(args.indices);
  const std::int64_t size = args.block_rows * args.block_cols;
  const T* b = static_cast<const T*>(args.b);
  T* c = static_cast<T*>(args.c) - args.col0 * args.block_cols * Tile;
  for (std::int64_t i = 0; i < args.rows; ++i, b += args.block_rows * args.ldb) {
    for_values<T>(args.values, args.value_type, begin[i] * size, end[i] * size,
                  [&](const T* values, std::int64_t p, std::int64_t n) {
                    add_blocks<R, Tile>(Blocks<T, I>{indices + p / size, values, n / size,
                                                     args.block_rows, args.block_cols},
                                        0, b, args.ldb, c);
                  });
  }
}

template <class T>
void tiles(const SpmmScatterArgs& a) {
  with_tile(a.tile, [&](auto tile) {
    constexpr int kTile = decltype(tile)::value;
    if constexpr (kTile <= 4 * kLanes<T>) {
      a.kind == IndexKind::i64_i64 ? scatter<T, kTile, std::int64_t>(a)
                                   : scatter<T, kTile, std::int32_t>(a);
    }
  });
}

}  // namespace

void bsr_scatter(const SpmmScatterArgs& a);
void bsr_scatter(const SpmmScatterArgs& a) { a.f64 ? tiles<double>(a) : tiles<float>(a); }

}  // namespace gossamer::detail::GOSSAMER_LEVEL
