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
/// a block in memory. Few rows keep several partial sums each, of every S-th column; those of
/// blocks of a `Single` column, of every S-th block.
template <int R, bool Transposed, bool Single, int Tile, class T>
__attribute__((noinline)) void add_rows(const Meeting<T>* meetings, int count, std::int64_t row,
                                        std::int64_t cols, std::int64_t pitch, T* c,
                                        bool accumulate) {
  constexpr int W = min_int(Tile, kLanes<T>), J = Tile / W;
  constexpr int S = R * J >= 8 ? 1 : 8 / (R * J);
  Vec<T, W> sum[S][R][J] = {};
  if (accumulate) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sum[0][r][j] = load<W>(c + r * Tile + j * W);
    }
  }
  // Adds R elements of a column of a block, `a` and on, times a row of B.
  const auto add = [&](const T* a, const T* b, Vec<T, W>(&to)[R][J]) {
    Vec<T, W> from[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) from[j] = load<W>(b + j * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec<T, W> value = broadcast<W>(Transposed ? a[r] : a[r * pitch]);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) to[r][j] += value * from[j];
    }
  };
  const std::int64_t first = Transposed ? row : row * pitch, step = Transposed ? pitch : 1;
  if constexpr (Single) {
    int k = 0;
    for (; k + S <= count; k += S) {
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) add(meetings[k + s].block + first, meetings[k + s].b, sum[s]);
    }
    for (; k < count; ++k) add(meetings[k].block + first, meetings[k].b, sum[0]);
  } else {
    for (int k = 0; k < count; ++k) {
      const T* a = meetings[k].block + first;
      const T* b = meetings[k].b;
      std::int64_t col = 0;
      for (; col + S <= cols; col += S, b += S * Tile, a += S * step) {
#pragma GCC unroll 8
        for (int s = 0; s < S; ++s) add(a + s * step, b + s * Tile, sum[s]);
      }
#pragma GCC unroll 8
      for (int s = 0; s < S - 1; ++s) {
        if (col + s < cols) add(a + s * step, b + s * Tile, sum[s]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) {
      Vec<T, W> total = sum[0][r][j];
#pragma GCC unroll 8
      for (int s = 1; s < S; ++s) total = total + sum[s][r][j];
      store<W>(c + r * Tile + j * W, total);
    }
  }
}

/// The same for the rows from `row` on: R at a time, then the rest by halves.
template <int R, bool Transposed, bool Single, int Tile, class T>
void add_blocks(const Meeting<T>* meetings, int count, std::int64_t row, const BsrMatrix& a, T* c,
                bool accumulate) {
  for (; row + R <= a.rows; row += R) {
    add_rows<R, Transposed, Single, Tile>(meetings, count, row, a.cols, a.pitch, c + row * Tile,
                                          accumulate);
  }
  if constexpr (R > 1) {
    if (row < a.rows) {
      add_blocks<R / 2, Transposed, Single, Tile>(meetings, count, row, a, c, accumulate);
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
      const auto add = [&](auto transposed, auto single) {
        add_blocks<R, decltype(transposed)::value != 0, decltype(single)::value != 0, Tile>(
            meetings, count, 0, a, c, accumulate);
      };
      if (a.cols == 1) {
        a.transposed ? add(Int<1>{}, Int<1>{}) : add(Int<0>{}, Int<1>{});
      } else {
        a.transposed ? add(Int<1>{}, Int<0>{}) : add(Int<0>{}, Int<0>{});
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
