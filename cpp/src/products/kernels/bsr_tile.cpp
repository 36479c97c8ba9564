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

/// The blocks [begin, end) of a row of blocks.
template <class T, class I>
struct Row {
  const I* indices;
  const I* order;
  const T* values;
  std::int64_t begin, end, size;

  GOSSAMER_INLINE const T* block(std::int64_t k) const {
    return values + (order == nullptr ? k : static_cast<std::int64_t>(order[k])) * size;
  }
};

/// sum += R elements of a column of a block, `a` and on, times a row of B.
template <int R, bool Transposed, int W, int J, class T>
GOSSAMER_INLINE void add_column(const T* a, std::int64_t pitch, const T* b,
                                Vec<T, W> (&sum)[R][J]) {
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

/// c = the partial sums, added.
template <int S, int R, int W, int J, class T>
GOSSAMER_INLINE void store_sums(Vec<T, W> (&sum)[S][R][J], T* c) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) {
      Vec<T, W> total = sum[0][r][j];
#pragma GCC unroll 8
      for (int s = 1; s < S; ++s) total = total + sum[s][r][j];
      store<W>(c + (r * J + j) * W, total);
    }
  }
}

/// Few rows keep several partial sums each.
template <int R, int J>
constexpr int kSums = R * J >= 8 ? 1 : 8 / (R * J);

/// c = rows [row, row+R) of a row of blocks of so few columns, Cols, that several blocks fill the
/// partial sums.
template <int R, int Cols, int Tile, class T, class I>
__attribute__((noinline)) void multiply_narrow(const Row<T, I>& a, std::int64_t row, const T* b,
                                               T* c) {
  constexpr int W = min_int(Tile, kLanes<T>), J = Tile / W;
  constexpr int S = kSums<R, J>, Blocks = S > Cols ? S / Cols : 1;
  Vec<T, W> sum[S][R][J] = {};
  const auto add = [&](std::int64_t k, int first) {
    const T* from = b + static_cast<std::int64_t>(a.indices[k]) * (Cols * Tile);
#pragma GCC unroll 4
    for (int col = 0; col < Cols; ++col) {
      add_column<R, true, W, J>(a.block(k) + row + col, 0, from + col * Tile,
                                sum[(first + col) % S]);
    }
  };
  std::int64_t k = a.begin;
  for (; k + Blocks <= a.end; k += Blocks) {
#pragma GCC unroll 8
    for (int s = 0; s < Blocks; ++s) add(k + s, s * Cols);
  }
  for (; k < a.end; ++k) add(k, 0);
  store_sums<S, R, W, J>(sum, c);
}

/// The same for the rows from `row` on: R at a time, then the rest by halves.
template <int R, int Tile, class T, class I>
void multiply_columns(const Row<T, I>& a, std::int64_t row, const T* b, T* c) {
  for (; row + R <= a.size; row += R) multiply_narrow<R, 1, Tile>(a, row, b, c + row * Tile);
  if constexpr (R > 1) {
    if (row < a.size) multiply_columns<R / 2, Tile>(a, row, b, c);
  }
}

/// c (+)= rows [row, row+R) of the blocks times their rows of B. `pitch` is the length of a row of
/// a block in memory. Partial sums are of every S-th column.
template <int R, bool Transposed, int Tile, class T>
__attribute__((noinline)) void add_rows(const Meeting<T>* meetings, int count, std::int64_t row,
                                        std::int64_t cols, std::int64_t pitch, T* c,
                                        bool accumulate) {
  constexpr int W = min_int(Tile, kLanes<T>), J = Tile / W;
  constexpr int S = kSums<R, J>;
  Vec<T, W> sum[S][R][J] = {};
  if (accumulate) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sum[0][r][j] = load<W>(c + r * Tile + j * W);
    }
  }
  const std::int64_t first = Transposed ? row : row * pitch, step = Transposed ? pitch : 1;
  for (int k = 0; k < count; ++k) {
    const T* a = meetings[k].block + first;
    const T* b = meetings[k].b;
    std::int64_t col = 0;
    for (; col + S <= cols; col += S, b += S * Tile, a += S * step) {
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) {
        add_column<R, Transposed, W, J>(a + s * step, pitch, b + s * Tile, sum[s]);
      }
    }
#pragma GCC unroll 8
    for (int s = 0; s < S - 1; ++s) {
      if (col + s < cols) {
        add_column<R, Transposed, W, J>(a + s * step, pitch, b + s * Tile, sum[s]);
      }
    }
  }
  store_sums<S, R, W, J>(sum, c);
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
  const T* b = static_cast<const T*>(args.b);
  T* c = static_cast<T*>(args.c);
  Meeting<T> meetings[kMeetings];
  for (std::int64_t i = args.row0; i < args.row1; ++i, c += a.rows * Tile) {
    const Row<T, I> row{static_cast<const I*>(a.indices),
                        static_cast<const I*>(a.order),
                        static_cast<const T*>(a.values),
                        indptr[i],
                        indptr[i + 1],
                        a.rows * a.cols};
    // A block of one column is the same in both orders.
    if (a.cols == 1) {
      multiply_columns<R, Tile>(row, 0, b, c);
      continue;
    }
    if (a.rows == 1 && a.cols == 2) {
      multiply_narrow<1, 2, Tile>(row, 0, b, c);
      continue;
    }
    if (a.rows == 1 && a.cols == 4) {
      multiply_narrow<1, 4, Tile>(row, 0, b, c);
      continue;
    }
    std::int64_t k = row.begin;
    bool accumulate = false;
    do {
      const auto count = static_cast<int>(min_i64(kMeetings, row.end - k));
      for (int m = 0; m < count; ++m, ++k) {
        meetings[m] = {row.block(k), b + static_cast<std::int64_t>(row.indices[k]) * a.cols * Tile};
      }
      if (a.transposed) {
        add_blocks<R, true, Tile>(meetings, count, 0, a, c, accumulate);
      } else {
        add_blocks<R, false, Tile>(meetings, count, 0, a, c, accumulate);
      }
      accumulate = true;
    } while (k < row.end);
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
