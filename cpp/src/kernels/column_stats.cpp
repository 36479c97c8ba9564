// Column statistics in one pass: a strip of columns at a time, its rows in chunks whose float32
// sums go into float64 ones. A chunk's spread is summed about its first row, so that a mean far
// from zero costs no digits; chunks are merged as Chan, Golub and LeVeque do.

#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

constexpr std::int64_t kChunk = 64;  // rows

struct Column {
  double n, sum, sumsq, m2;
};

GOSSAMER_INLINE void merge(Column& to, const Column& from) {
  if (to.n > 0) {
    const double n = to.n + from.n;
    const double delta = from.sum / from.n - to.sum / to.n;
    to.m2 += from.m2 + delta * delta * (to.n * from.n / n);
  } else {
    to.m2 = from.m2;
  }
  to.n += from.n;
  to.sum += from.sum;
  to.sumsq += from.sumsq;
}

template <class T, int W, class S>
GOSSAMER_INLINE void strip(const S* x, const ColumnStatsArgs& args, std::int64_t j) {
  Column total[W] = {};
  for (std::int64_t r = 0; r < args.rows; r += kChunk) {
    const std::int64_t n = min_i64(kChunk, args.rows - r);
    const S* row = x + r * args.stride + j;
    const auto read = [&](std::int64_t i) {
      if constexpr (W == 1) {
        T value;
        assign(value, static_cast<T>(to_float(row[i * args.stride])));
        return Vec<T, 1>{value};
      } else {
        return load_real<W>(row + i * args.stride);
      }
    };
    const Vec<T, W> shift = read(0);
    Vec<T, W> sum = {}, sumsq = {}, off = {}, offsq = {};
    for (std::int64_t i = 0; i < n; ++i) {
      const Vec<T, W> v = read(i), d = v - shift;
      sum += v;
      sumsq += v * v;
      off += d;
      offsq += d * d;
    }
    const auto count = static_cast<double>(n);
    for (int l = 0; l < W; ++l) {
      const double o = static_cast<double>(off[l]);
      const double spread = static_cast<double>(offsq[l]) - o * o / count;
      merge(total[l], {count, static_cast<double>(sum[l]), static_cast<double>(sumsq[l]),
                       spread < 0 ? 0 : spread});
    }
  }
  for (int l = 0; l < W; ++l) {
    args.sum[j + l] = total[l].sum;
    args.sumsq[j + l] = total[l].sumsq;
    args.m2[j + l] = total[l].m2;
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
    for (; j + W <= args.cols; j += W) strip<T, W>(x, args, j);
    for (; j < args.cols; ++j) strip<T, 1>(x, args, j);
  });
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
