#pragma once

// Sums of columns as on the CPU: float32 sums of 64 rows about the first of them, a warp's own, are
// merged in float64 by the formulas of Chan, Golub and LeVeque, in the order of the rows.

#include "base/kernels/numbers.cuh"
#include "base/kernels/pack.cuh"

namespace gossamer::cuda {

inline constexpr int kStatsRows = 64, kStatsWarps = 16;
/// Rows of a block of threads.
inline constexpr std::int64_t kStatsSegment = kStatsRows * kStatsWarps;

/// Of one column, to be merged; n rows.
struct Moments {
  double sum, sumsq, m2;
};

/// Adds `from` of n rows to `to` of `before` rows.
__device__ inline void merge_moments(Moments& to, double before, const Moments& from, double n) {
  if (n == 0) return;
  if (before == 0) {
    to = from;
    return;
  }
  const double delta = from.sum / n - to.sum / before;
  to.m2 += from.m2 + delta * delta * (before * n / (before + n));
  to.sum += from.sum;
  to.sumsq += from.sumsq;
}

__device__ inline bool squares_fit(float sum) { return sum >= 1e-30f && sum <= 3e38f; }
__device__ inline bool squares_fit(double /*sum*/) { return true; }

/// A column of a chunk with all sums in float64: for squares beyond float32. Not inlined: few need
/// it.
template <class T>
__device__ __attribute__((noinline)) Moments moments_widely(const T* x, int n,
                                                            std::int64_t stride) {
  const auto shift = static_cast<double>(widen(x[0]));
  double sum = 0, sumsq = 0, off = 0, offsq = 0;
#pragma unroll 1
  for (int i = 0; i < n; ++i) {
    const auto value = static_cast<double>(widen(x[i * stride]));
    const double d = value - shift;
    sum += value;
    sumsq += value * value;
    off += d;
    offsq += d * d;
  }
  return {sum, sumsq, largest(offsq - off * off / n, 0.0)};
}

template <class T>
__device__ inline Moments moments_of(const T* x, int n, std::int64_t stride) {
  using S = Sum<T>;
  const S shift = widen(x[0]);
  S sum = 0, sumsq = 0, off = 0, offsq = 0;
#pragma unroll 8
  for (int i = 0; i < n; ++i) {
    const S value = widen(x[i * stride]), d = value - shift;
    sum += value;
    sumsq += value * value;
    off += d;
    offsq += d * d;
  }
  if (!squares_fit(sumsq) || (offsq != 0 && !squares_fit(offsq))) {
    return moments_widely(x, n, stride);
  }
  const double o = off, squares = offsq, spread = squares - o * o / n;
  const bool overflows = squares > 1e308 && fabs(o) < 1e308;
  return {static_cast<double>(sum), static_cast<double>(sumsq),
          overflows ? squares : (spread < 0 ? 0 : spread)};
}

template <class T>
struct StatsArgs {
  const T* x;
  std::int64_t stride, rows, cols, segments;
  double* parts;  // [segments, 3, cols]
};

/// 32 columns and 1024 rows a block.
template <class T>
__global__ void __launch_bounds__(32 * kStatsWarps)
    stats_segments(const __grid_constant__ StatsArgs<T> a) {
  __shared__ Moments chunks[kStatsWarps][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.x) * 32 + lane;
  for (std::int64_t segment = blockIdx.y; segment < a.segments; segment += gridDim.y) {
    const std::int64_t first = segment * kStatsSegment;
    const auto count = static_cast<int>(least(kStatsSegment, a.rows - first));
    const int from = warp * kStatsRows, n = least(kStatsRows, count - from);
    if (col < a.cols && n > 0) {
      chunks[warp][lane] = moments_of(a.x + (first + from) * a.stride + col, n, a.stride);
    }
    __syncthreads();  // orders the writes of the chunks before their reads
    if (warp == 0 && col < a.cols) {
      Moments total = chunks[0][lane];
#pragma unroll 1
      for (int c = 1; c * kStatsRows < count; ++c) {
        merge_moments(total, c * kStatsRows, chunks[c][lane],
                      least(kStatsRows, count - c * kStatsRows));
      }
      double* part = a.parts + segment * 3 * a.cols + col;
      part[0] = total.sum;
      part[a.cols] = total.sumsq;
      part[2 * a.cols] = total.m2;
    }
    __syncthreads();  // orders these reads before the writes of the next segment
  }
}

/// Adds `parts` parts to the state of `before` rows, one after the other: part p has `each` rows,
/// the last one fewer where `rows` are less.
struct JoinStatsArgs {
  double *sum, *sumsq, *m2;
  const double *from_sum, *from_sumsq, *from_m2;
  std::int64_t cols, parts, stride, each, rows, before;
};

inline constexpr int kJoinThreads = 128;

__global__ void __launch_bounds__(kJoinThreads)
    stats_join(const __grid_constant__ JoinStatsArgs a) {
  const std::int64_t col =
      static_cast<std::int64_t>(blockIdx.x) * kJoinThreads + static_cast<int>(threadIdx.x);
  if (col >= a.cols) return;
  // All parts first, then the state: the parts' total does not depend on it.
  Moments total{a.from_sum[col], a.from_sumsq[col], a.from_m2[col]};
  auto seen = static_cast<double>(least(a.each, a.rows));
#pragma unroll 4
  for (std::int64_t p = 1; p < a.parts; ++p) {
    const std::int64_t at = p * a.stride + col;
    const auto n = static_cast<double>(least(a.each, a.rows - p * a.each));
    merge_moments(total, seen, {a.from_sum[at], a.from_sumsq[at], a.from_m2[at]}, n);
    seen += n;
  }
  Moments state{a.sum[col], a.sumsq[col], a.m2[col]};
  merge_moments(state, static_cast<double>(a.before), total, seen);
  a.sum[col] = state.sum;
  a.sumsq[col] = state.sumsq;
  a.m2[col] = state.m2;
}

/// out[j] = numerator[j]/n, float64 or float32.
__global__ void __launch_bounds__(kJoinThreads)
    stats_quotient(const double* numerator, double n, std::int64_t cols, void* out, bool f64) {
  const std::int64_t col =
      static_cast<std::int64_t>(blockIdx.x) * kJoinThreads + static_cast<int>(threadIdx.x);
  if (col >= cols) return;
  const double x = numerator[col] / n;
  if (f64) {
    static_cast<double*>(out)[col] = x;
  } else {
    static_cast<float*>(out)[col] = static_cast<float>(x);
  }
}

}  // namespace gossamer::cuda
