// Column statistics in one pass over a strip of columns: float32 sums of 64 rows are added to
// float64 totals. The squared deviations of a chunk are summed about its first row, so that a mean
// far from zero costs no digits; chunks are merged by the formulas of Chan, Golub and LeVeque.

#include "prune/layerwise/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr std::int64_t kChunk = 64;  // rows

/// The statistics of K columns over `n` rows.
template <int K>
struct Columns {
  double n = 0, sum[K], sumsq[K], m2[K];
};

template <int K>
GOSSAMER_INLINE void merge(Columns<K>& to, const Columns<K>& from) {
  if (to.n == 0) {
    to = from;
    return;
  }
  const double n = to.n + from.n, weight = to.n * from.n / n;
  for (int l = 0; l < K; ++l) {
    const double delta = from.sum[l] / from.n - to.sum[l] / to.n;
    to.m2[l] += from.m2[l] + delta * delta * weight;
    to.sum[l] += from.sum[l];
    to.sumsq[l] += from.sumsq[l];
  }
  to.n = n;
}

/// Is a float32 sum of squares right? Not where squares may have overflowed or been subnormal.
GOSSAMER_INLINE bool in_range(float sum) { return sum >= 1e-30f && sum <= 3e38f; }

/// The statistics of column l of a chunk, with all sums in float64.
template <int K, class S>
[[gnu::noinline]] void sum_widely(const S* column, std::int64_t n, std::int64_t stride,
                                  Columns<K>& chunk, int l) {
  const auto shift = static_cast<double>(to_float(column[0]));
  double sum = 0, sumsq = 0, off = 0, offsq = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto value = static_cast<double>(to_float(column[i * stride])), d = value - shift;
    sum += value;
    sumsq += value * value;
    off += d;
    offsq += d * d;
  }
  const double spread = offsq - off * off / static_cast<double>(n);
  chunk.sum[l] = sum;
  chunk.sumsq[l] = sumsq;
  chunk.m2[l] = spread < 0 ? 0 : spread;
}

/// The statistics of N vectors of W columns, from column j on.
template <class T, int N, int W, class S>
GOSSAMER_INLINE void strip(const S* x, const ColumnStatsArgs& args, std::int64_t j) {
  Columns<N * W> total;
  for (std::int64_t r = 0; r < args.rows; r += kChunk) {
    const std::int64_t n = min_i64(kChunk, args.rows - r);
    const S* row = x + r * args.stride + j;
    const auto read = [&](std::int64_t i, int v) {
      if constexpr (W == 1) {
        T value;
        assign(value, static_cast<T>(to_float(row[i * args.stride])));
        return Vec<T, 1>{value};
      } else {
        return load_real<W>(row + i * args.stride + v * W);
      }
    };
    Vec<T, W> shift[N], sum[N] = {}, sumsq[N] = {}, off[N] = {}, offsq[N] = {};
    for (int v = 0; v < N; ++v) shift[v] = read(0, v);
    for (std::int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) {
        const Vec<T, W> value = read(i, v), d = value - shift[v];
        sum[v] += value;
        sumsq[v] += value * value;
        off[v] += d;
        offsq[v] += d * d;
      }
    }
    T part[4][N * W];
    for (int v = 0; v < N; ++v) {
      store<W>(part[0] + v * W, sum[v]);
      store<W>(part[1] + v * W, sumsq[v]);
      store<W>(part[2] + v * W, off[v]);
      store<W>(part[3] + v * W, offsq[v]);
    }
    Columns<N * W> chunk;
    chunk.n = static_cast<double>(n);
    for (int l = 0; l < N * W; ++l) {
      chunk.sum[l] = static_cast<double>(part[0][l]);
      chunk.sumsq[l] = static_cast<double>(part[1][l]);
      const double o = static_cast<double>(part[2][l]);
      const auto squares = static_cast<double>(part[3][l]);
      const double spread = squares - o * o / chunk.n;
      const bool overflows = squares > 1e308 && o == o && o < 1e308 && o > -1e308;  // not ∞ - ∞
      chunk.m2[l] = overflows ? squares : (spread < 0 ? 0 : spread);
      if constexpr (sizeof(T) == sizeof(float)) {
        const bool varies = part[3][l] != 0;
        if (!in_range(part[1][l]) || (varies && !in_range(part[3][l]))) [[unlikely]] {
          sum_widely(row + l, n, args.stride, chunk, l);
        }
      }
    }
    merge(total, chunk);
  }
  for (int l = 0; l < N * W; ++l) {
    args.sum[j + l] = total.sum[l];
    args.sumsq[j + l] = total.sumsq[l];
    args.m2[j + l] = total.m2[l];
  }
}

}  // namespace

void column_stats(const ColumnStatsArgs& args);
void column_stats(const ColumnStatsArgs& args) {
  with_float_type(args.type, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = decltype(to_float(S{}));
    constexpr int W = kLanes<T>;
    const S* x = static_cast<const S*>(args.x);
    std::int64_t j = 0;
    // As many vectors as there are registers for: where rows are far apart, reading more than one
    // cache line of each pays.
    constexpr int N = kVectorBytes == 64 ? 4 : 2;
    for (; j + N * W <= args.cols; j += N * W) strip<T, N, W>(x, args, j);
    for (; j + W <= args.cols; j += W) strip<T, 1, W>(x, args, j);
    for (; j < args.cols; ++j) strip<T, 1, 1>(x, args, j);
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
