// Rows of blocks times a tile of B. A few rows of A at a time keep their sums over the whole tile
// in registers; for each column of a block, a row of B is loaded as vectors and multiplied by the
// block's broadcast elements.

#include "products/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// A block and the rows of B that it is multiplied by.
template <class T>
struct Meeting {
  const T* block;
  const T* b;
};

/// How many blocks are looked up at a time.
constexpr int kMeetings = 64;

/// c (+)= rows [row, row+R) of the blocks times their rows of B. `pitch` is the length of a row of
/// a block in memory.
template <int R, bool Transposed, int Tile, class T>
__attribute__((noinline)) void add_rows(const Meeting<T>* meetings, int count, std::int64_t row,
                                        std::int64_t cols, std::int64_t pitch, T* c,
                                        bool accumulate) {
  constexpr int W = min_int(Tile, kLanes<T>), J = Tile / W;
  Vec<T, W> sum[R][J] = {};
  if (accumulate) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sum[r][j] = load<W>(c + r * Tile + j * W);
    }
  }
  for (int k = 0; k < count; ++k) {
    const T* a = meetings[k].block + (Transposed ? row : row * pitch);
    const T* b = meetings[k].b;
    for (std::int64_t col = 0; col < cols; ++col, b += Tile, a += Transposed ? pitch : 1) {
      Vec<T, W> from[J];
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) from[j] = load<W>(b + j * W);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vec<T, W> value = broadcast<W>(Transposed ? a[r] : a[r * pitch]);
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) sum[r][j] += value * from[j];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) store<W>(c + r * Tile + j * W, sum[r][j]);
  }
}

/// The same for the rows from `row` on: R at a time, then the rest by halves.
template <int R, bool Transposed, int Tile, class T>
void add_blocks(const Meeting<T>* meetings, int count, std::int64_t row, const BsrMatrix& a, T* c,
                bool accumulate) {
  for (; row + R <= a.rows; row += R) {
    add_rows<R, Transposed, Tile>(meetings, count, row, a.cols, a.pitch, c + row * Tile,
                                  accumulate);
  }
  if constexpr (R > 1) {
    if (row < a.rows) {
      add_blocks<R / 2, Transposed, Tile>(meetings, count, row, a, c, accumulate);
    }
  }
}

template <class T, int Tile, class I>
void rows(const BsrTileArgs& args) {
  constexpr int J = Tile / min_int(Tile, kLanes<T>);
  // As many rows as hide the latency of an addition while their sums take half of the registers.
  constexpr int R = (kVectorBytes == 64 ? 16 : 8) / J > 8 ? 8 : (kVectorBytes == 64 ? 16 : 8) / J;
  const BsrMatrix& a = args.a;
  const I* indptr = static_cast<const I*>(a.indptr);
  const I* indices = static_cast<const I*>(a.indices);
  const I* order = static_cast<const I*>(a.order);
  const T* values = static_cast<const T*>(a.values);
  const T* b = static_cast<const T*>(args.b);
  T* c = static_cast<T*>(args.c);
  Meeting<T> meetings[kMeetings];
  for (std::int64_t i = args.row0; i < args.row1; ++i, c += a.rows * Tile) {
    std::int64_t k = indptr[i];
    const std::int64_t end = indptr[i + 1];
    bool accumulate = false;
    do {
      const auto count = static_cast<int>(min_i64(kMeetings, end - k));
      for (int m = 0; m < count; ++m, ++k) {
        const std::int64_t p = order == nullptr ? k : static_cast<std::int64_t>(order[k]);
        meetings[m] = {values + p * a.rows * a.cols,
                       b + static_cast<std::int64_t>(indices[k]) * a.cols * Tile};
      }
      if (a.transposed) {
        add_blocks<R, true, Tile>(meetings, count, 0, a, c, accumulate);
      } else {
        add_blocks<R, false, Tile>(meetings, count, 0, a, c, accumulate);
      }
      accumulate = true;
    } while (k < end);
  }
}

template <class T>
void tiles(const BsrTileArgs& a) {
  with_tile(a.tile, [&](auto tile) {
    constexpr int kTile = decltype(tile)::value;
    if constexpr (kTile <= 4 * kLanes<T>) {
      a.a.wide ? rows<T, kTile, std::int64_t>(a) : rows<T, kTile, std::int32_t>(a);
    }
  });
}

}  // namespace

void bsr_tile(const BsrTileArgs& a);
void bsr_tile(const BsrTileArgs& a) { a.f64 ? tiles<double>(a) : tiles<float>(a); }

}  // namespace gossamer::detail::GOSSAMER_LEVEL
