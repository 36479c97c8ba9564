// Blocks times a few vectors. Each block is read once, in vectors of its rows in memory. If it is
// stored as it is, four rows' dot products with every x are summed, and their lanes are added when
// the row of blocks is done. If it is stored transposed, its rows are multiplied by broadcast
// elements of x.

#include "products/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

template <class T, class I>
struct Blocks {
  const I* indices;
  const I* order;
  const T* values;
  std::int64_t size, cols;

  GOSSAMER_INLINE const T* block(std::int64_t k) const {
    return values + (order == nullptr ? k : static_cast<std::int64_t>(order[k])) * size;
  }
  GOSSAMER_INLINE std::int64_t column(std::int64_t k) const {
    return static_cast<std::int64_t>(indices[k]) * cols;
  }
};

/// The sum of the lanes.
template <class T, int W>
GOSSAMER_INLINE T sum_lanes(Vec<T, W> v) {
  if constexpr (W == 2) {
    return v[0] + v[1];
  } else {
    T part[W];
    store<W>(part, v);
    return sum_lanes<T, W / 2>(load<W / 2>(part) + load<W / 2>(part + W / 2));
  }
}

/// y[r] = rows [row, row+R) of a row of blocks, times each x.
template <int R, int W, int Batch, class T, class I>
GOSSAMER_INLINE void dots(const Blocks<T, I>& blocks, std::int64_t begin, std::int64_t end,
                          std::int64_t row, const T* x, std::int64_t ldx, T* y, std::int64_t ldy) {
  // Enough independent sums to hide the latency of the addition.
  constexpr int U = R > 1 ? 1 : Batch == 1 ? 4 : 2;
  Vec<T, W> sums[U][R][Batch] = {};
  const auto add = [&](std::int64_t k, Vec<T, W>(&sum)[R][Batch]) {
    const T* a = blocks.block(k) + row * blocks.cols;
    const T* from = x + blocks.column(k);
    for (std::int64_t c = 0; c < blocks.cols; c += W) {
      Vec<T, W> b[Batch];
#pragma GCC unroll 4
      for (int n = 0; n < Batch; ++n) b[n] = load<W>(from + n * ldx + c);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const Vec<T, W> value = load<W>(a + r * blocks.cols + c);
#pragma GCC unroll 4
        for (int n = 0; n < Batch; ++n) sum[r][n] += value * b[n];
      }
    }
  };
  std::int64_t k = begin;
  for (; k + U <= end; k += U) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) add(k + u, sums[u]);
  }
  for (; k < end; ++k) add(k, sums[0]);
  auto& sum = sums[0];
#pragma GCC unroll 4
  for (int n = 0; n < Batch; ++n) {
#pragma GCC unroll 4
    for (int u = 1; u < U; ++u) sum[0][n] += sums[u][0][n];
    if constexpr (R == 4) {
      Vec<T, W> rows[4] = {sum[0][n], sum[1][n], sum[2][n], sum[3][n]};
      store<4>(y + n * ldy, sum_lanes4<T, W>(rows));
    } else {
      y[n * ldy] = sum_lanes<T, W>(sum[0][n]);
    }
  }
}

/// y[0, W) = W rows of a row of transposed blocks, times each x.
template <int W, int Batch, class T, class I>
GOSSAMER_INLINE void multiples(const Blocks<T, I>& blocks, std::int64_t begin, std::int64_t end,
                               std::int64_t row, std::int64_t rows, const T* x, std::int64_t ldx,
                               T* y, std::int64_t ldy) {
  // Enough independent sums to hide the latency of the addition.
  constexpr int U = Batch == 1 ? 4 : Batch == 2 ? 2 : 1;
  Vec<T, W> sum[U][Batch] = {};
  std::int64_t k = begin;
  // Blocks of one column: U of them at a time.
  for (; blocks.cols == 1 && k + U <= end; k += U) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const Vec<T, W> value = load<W>(blocks.block(k + u) + row);
      const T* from = x + blocks.column(k + u);
#pragma GCC unroll 4
      for (int n = 0; n < Batch; ++n) sum[u][n] += value * broadcast<W>(from[n * ldx]);
    }
  }
  for (; k < end; ++k) {
    const T* a = blocks.block(k) + row;
    const T* from = x + blocks.column(k);
    std::int64_t c = 0;
    for (; c + U <= blocks.cols; c += U) {
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) {
        const Vec<T, W> value = load<W>(a + (c + u) * rows);
#pragma GCC unroll 4
        for (int n = 0; n < Batch; ++n) {
          sum[u][n] += value * broadcast<W>(from[n * ldx + c + u]);
        }
      }
    }
    for (; c < blocks.cols; ++c) {
      const Vec<T, W> value = load<W>(a + c * rows);
      for (int n = 0; n < Batch; ++n) sum[0][n] += value * broadcast<W>(from[n * ldx + c]);
    }
  }
#pragma GCC unroll 4
  for (int n = 0; n < Batch; ++n) {
    Vec<T, W> total = sum[0][n];
    for (int u = 1; u < U; ++u) total = total + sum[u][n];
    store<W>(y + n * ldy, total);
  }
}

template <int W, int Batch, class T, class I>
void rows(const BsrVectorsArgs& args) {
  const BsrMatrix& a = args.a;
  const I* indptr = static_cast<const I*>(a.indptr);
  const Blocks<T, I> blocks{static_cast<const I*>(a.indices), static_cast<const I*>(a.order),
                            static_cast<const T*>(a.values), a.rows * a.cols, a.cols};
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  for (std::int64_t i = args.row0; i < args.row1; ++i, y += a.rows) {
    const std::int64_t begin = indptr[i], end = indptr[i + 1];
    std::int64_t row = 0;
    if (a.transposed) {
      for (; row < a.rows; row += W) {
        multiples<W, Batch>(blocks, begin, end, row, a.rows, x, args.ldx, y + row, args.ldy);
      }
    } else {
      for (; row + 4 <= a.rows; row += 4) {
        dots<4, W, Batch>(blocks, begin, end, row, x, args.ldx, y + row, args.ldy);
      }
      for (; row < a.rows; ++row) {
        dots<1, W, Batch>(blocks, begin, end, row, x, args.ldx, y + row, args.ldy);
      }
    }
  }
}

template <int W, class T, class I>
void batches(const BsrVectorsArgs& a) {
  switch (a.batch) {
    case 1:
      return rows<W, 1, T, I>(a);
    case 2:
      return rows<W, 2, T, I>(a);
    case 3:
      return rows<W, 3, T, I>(a);
    default:
      return rows<W, 4, T, I>(a);
  }
}

/// Blocks of two elements times a single x, two of them in a vector.
template <class T, class I>
void pairs(const BsrVectorsArgs& args) {
  const BsrMatrix& a = args.a;
  const I* indptr = static_cast<const I*>(a.indptr);
  const Blocks<T, I> blocks{static_cast<const I*>(a.indices), static_cast<const I*>(a.order),
                            static_cast<const T*>(a.values), 2, a.cols};
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  constexpr int U = 4;
  for (std::int64_t i = args.row0; i < args.row1; ++i, y += a.rows) {
    Vec<T, 4> sum[U] = {};
    const auto add = [&](std::int64_t k, std::int64_t l, Vec<T, 4>& to) {
      const T *v = blocks.block(k), *w = blocks.block(l);
      const Vec<T, 4> value =
          blocks.order == nullptr ? load<4>(v) : Vec<T, 4>{v[0], v[1], w[0], w[1]};
      const T *p = x + blocks.column(k), *q = x + blocks.column(l);
      to += value * (a.cols == 1 ? Vec<T, 4>{*p, *p, *q, *q} : Vec<T, 4>{p[0], p[1], q[0], q[1]});
    };
    const std::int64_t end = indptr[i + 1];
    std::int64_t k = indptr[i];
    for (; k + 2 * U <= end; k += 2 * U) {
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) add(k + 2 * u, k + 2 * u + 1, sum[u]);
    }
    for (; k + 2 <= end; k += 2) add(k, k + 1, sum[0]);
    const Vec<T, 4> total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    T first = total[0] + total[2], second = total[1] + total[3];
    if (k < end) {
      const T *v = blocks.block(k), *p = x + blocks.column(k);
      first += v[0] * p[0];
      second += v[1] * p[a.cols - 1];
    }
    if (a.cols == 1) {
      y[0] = first;
      y[1] = second;
    } else {
      y[0] = first + second;
    }
  }
}

/// Chooses the widest vector that divides the length of the blocks' rows in memory.
template <class T, class I>
void widths(const BsrVectorsArgs& a) {
  constexpr int kLeast = 16 / static_cast<int>(sizeof(T));
  const std::int64_t length = a.a.transposed ? a.a.rows : a.a.cols;
  if constexpr (kLanes<T> >= 4 * kLeast) {
    if (length % (4 * kLeast) == 0) return batches<4 * kLeast, T, I>(a);
  }
  if constexpr (kLanes<T> >= 2 * kLeast) {
    if (length % (2 * kLeast) == 0) return batches<2 * kLeast, T, I>(a);
  }
  if constexpr (kLeast == 4) {
    if (length == 2) return pairs<T, I>(a);
  }
  batches<kLeast, T, I>(a);
}

template <class T>
void choose_index(const BsrVectorsArgs& a) {
  a.a.wide ? widths<T, std::int64_t>(a) : widths<T, std::int32_t>(a);
}

}  // namespace

void bsr_vectors(const BsrVectorsArgs& a);
void bsr_vectors(const BsrVectorsArgs& a) {
  a.f64 ? choose_index<double>(a) : choose_index<float>(a);
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
