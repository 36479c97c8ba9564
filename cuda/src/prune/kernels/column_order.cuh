#pragma once

// What a search of column orders adds up (gossamer/detail/column_order.h), with the CPU's bits: 16
// lanes, half a warp, have the rows of a sum, and add 256 rows at a time in float before these sums
// are added in double.

#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"
#include "gossamer/detail/column_order.h"
#include "prune/kernels/keys.cuh"

namespace gossamer::cuda {

inline constexpr int kOrderThreads = 128;
inline constexpr int kOrderHalves = kOrderThreads / detail::kPermutationRows;
/// Columns of a part at most, and groups: m is 2 at least.
inline constexpr int kOrderColumns = 512 + 64, kOrderGroups = kOrderColumns / 2;

/// Numbers that a launch brings to the device.
struct OrderNumbersArgs {
  static constexpr int kMost = 900;
  std::int32_t* to;
  int count;
  std::int32_t number[kMost];
};

static __global__ void __launch_bounds__(kOrderThreads)
    order_numbers(const __grid_constant__ OrderNumbersArgs a) {
  for (int i = static_cast<int>(threadIdx.x); i < a.count; i += kOrderThreads) {
    a.to[i] = a.number[i];
  }
}

struct OrderLoadArgs {
  ScoreArgs score;
  bool f64;
  const std::int32_t* column;  // of a place
  std::int64_t rows, cols, ld;
  int exponent;
  float* x;                     // x[place*ld + row]
  unsigned long long* largest;  // bits of a double, 0 at first
};

/// x = score·2^-exponent, and the largest magnitude of the finite scores.
static __global__ void __launch_bounds__(kOrderThreads)
    order_load(const __grid_constant__ OrderLoadArgs a) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kOrderThreads + threadIdx.x;
  unsigned long long size = 0;
  if (i < a.cols * a.ld) {
    const std::int64_t place = i / a.ld, row = i % a.ld;
    double value = 0.0;
    if (row < a.rows) {
      const std::int64_t at = row * a.cols + a.column[place];
      value =
          a.f64 ? score_at<double>(a.score, at) : static_cast<double>(score_at<float>(a.score, at));
    }
    if (value != value) value = 0.0;
    if (fabs(value) - fabs(value) == 0.0) {
      size = static_cast<unsigned long long>(__double_as_longlong(fabs(value)));
    }
    if (a.exponent != 0) value = ldexp(value, -a.exponent);
    constexpr double kMost = detail::kLargestScore;
    a.x[i] = static_cast<float>(value < -kMost ? -kMost : value > kMost ? kMost : value);
  }
  for (int step = 16; step > 0; step /= 2) {
    const unsigned long long other = __shfl_xor_sync(kAllLanes, size, step);
    if (other > size) size = other;
  }
  if (threadIdx.x % 32 == 0 && size != 0) atomicMax(a.largest, size);
}

/// The columns of a part, or sums of some groups of them.
struct OrderArgs {
  const float* x;
  std::int64_t ld;
  int cols, n, m, count;  // groups that have changed
  float* next;            // [cols, ld], by position
  double* out;            // sums [count, m], totals [count], pairs [count·m, cols]
  std::uint16_t order[kOrderColumns], changed[kOrderGroups];
};

__device__ inline float larger(float a, float b) { return a > b ? a : b; }
__device__ inline float smaller(float a, float b) { return a > b ? b : a; }

/// The sum of 16 lanes, in the CPU's order; in double.
__device__ inline double sum_of_lanes(float x) {
#pragma unroll
  for (int step = 8; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return static_cast<double>(x);
}

/// Half a warp has a group of M columns (M = 0: of up to 64).
template <int M>
__global__ void __launch_bounds__(kOrderThreads) order_groups(const __grid_constant__ OrderArgs a) {
  constexpr int kMost = M == 0 ? 64 : M;
  const int m = M == 0 ? a.m : M, lane = static_cast<int>(threadIdx.x) % 16;
  const int own = static_cast<int>(blockIdx.x) * kOrderHalves + static_cast<int>(threadIdx.x) / 16;
  // A warp's halves shuffle together.
  const bool valid = own < a.count;
  const int i = valid ? own : 0, first = a.changed[i] * m;
  double total = 0.0, sum[kMost];
#pragma unroll
  for (int j = 0; j < m; ++j) sum[j] = 0.0;
  for (std::int64_t begin = 0; begin < a.ld; begin += detail::kPermutationChunk) {
    const std::int64_t end = least(begin + detail::kPermutationChunk, a.ld);
    float all = 0.0f, rest[kMost];
#pragma unroll
    for (int j = 0; j < m; ++j) rest[j] = 0.0f;
    for (std::int64_t r = begin + lane; r < end; r += detail::kPermutationRows) {
      float sorted[kMost], mine[kMost];
#pragma unroll
      for (int j = 0; j < m; ++j) {
        float x = mine[j] = a.x[a.order[first + j] * a.ld + r];
#pragma unroll
        for (int k = 0; k < j; ++k) {
          const float held = sorted[k];
          sorted[k] = larger(held, x);
          x = smaller(held, x);
        }
        sorted[j] = x;
      }
      float most = 0.0f, before = 0.0f, nth = 0.0f, after = 0.0f;
#pragma unroll
      for (int j = 0; j < m; ++j) {
        if (j < a.n - 1) most += sorted[j];
        if (j == a.n - 2) before = sorted[j];
        if (j == a.n - 1) nth = sorted[j];
        if (j == a.n) after = sorted[j];
      }
      const float both = most + nth;
      all += both;
#pragma unroll
      for (int j = 0; j < m; ++j) {
        if (valid) a.next[(first + j) * a.ld + r] = mine[j] >= nth ? after : nth;
        if (a.n > 1) rest[j] += mine[j] >= before ? both - mine[j] : most;
      }
    }
    total += sum_of_lanes(all);
#pragma unroll
    for (int j = 0; j < m; ++j) sum[j] += sum_of_lanes(rest[j]);
  }
  if (!valid || lane != 0) return;
#pragma unroll
  for (int j = 0; j < m; ++j) a.out[i * m + j] = sum[j];
  a.out[a.count * m + i] = total;
}

inline constexpr int kOrderPairs = 4;

/// Half a warp has a position and four columns.
static __global__ void __launch_bounds__(kOrderThreads)
    order_pairs(const __grid_constant__ OrderArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % 16;
  const int wide = (a.cols + kOrderPairs - 1) / kOrderPairs, positions = a.count * a.m;
  const int own = static_cast<int>(blockIdx.x) * kOrderHalves + static_cast<int>(threadIdx.x) / 16;
  const bool valid = own < positions * wide;
  const int at = valid ? own / wide : 0, c0 = valid ? own % wide * kOrderPairs : 0;
  const float* const next = a.next + (a.changed[at / a.m] * a.m + at % a.m) * a.ld;
  const float* x[kOrderPairs];
#pragma unroll
  for (int q = 0; q < kOrderPairs; ++q) x[q] = a.x + least(c0 + q, a.cols - 1) * a.ld;
  double total[kOrderPairs] = {};
  for (std::int64_t begin = 0; begin < a.ld; begin += detail::kPermutationChunk) {
    const std::int64_t end = least(begin + detail::kPermutationChunk, a.ld);
    float sum[kOrderPairs] = {};
    for (std::int64_t r = begin + lane; r < end; r += detail::kPermutationRows) {
      const float held = next[r];
#pragma unroll
      for (int q = 0; q < kOrderPairs; ++q) sum[q] += larger(held, x[q][r]);
    }
#pragma unroll
    for (int q = 0; q < kOrderPairs; ++q) total[q] += sum_of_lanes(sum[q]);
  }
  if (!valid || lane != 0) return;
  double* const out = a.out + positions + a.count + static_cast<std::int64_t>(at) * a.cols;
#pragma unroll
  for (int q = 0; q < kOrderPairs; ++q) {
    if (c0 + q < a.cols) out[c0 + q] = total[q];
  }
}

struct OrderSubsetsArgs {
  static constexpr int kMost = 1800;
  const float* x;
  std::int64_t ld;
  int n, count, lists, sets;  // lists of `count` columns, of each of which there are so many sets
  double* out;                // [lists, sets]
  std::uint16_t column[kMost];
};

/// Half a warp has a set of four columns.
static __global__ void __launch_bounds__(kOrderThreads)
    order_subsets(const __grid_constant__ OrderSubsetsArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % 16;
  const int own = static_cast<int>(blockIdx.x) * kOrderHalves + static_cast<int>(threadIdx.x) / 16;
  const bool valid = own < a.lists * a.sets;
  const int list = valid ? own / a.sets : 0;
  // The set of this number, in lexicographic order.
  int left = valid ? own % a.sets : 0, next = 0;
  const float* x[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    for (;; ++next) {
      // Sets that go on from here: of 3 - i of the columns behind.
      const int behind = a.count - 1 - next;
      const int with = i == 3   ? 1
                       : i == 2 ? behind
                       : i == 1 ? behind * (behind - 1) / 2
                                : behind * (behind - 1) * (behind - 2) / 6;
      if (left < with) break;
      left -= with;
    }
    x[i] = a.x + a.column[list * a.count + next] * a.ld;
    ++next;
  }
  double total = 0.0;
  for (std::int64_t begin = 0; begin < a.ld; begin += detail::kPermutationChunk) {
    const std::int64_t end = least(begin + detail::kPermutationChunk, a.ld);
    float sum = 0.0f;
    for (std::int64_t r = begin + lane; r < end; r += detail::kPermutationRows) {
      const float high = larger(x[0][r], x[1][r]), low = smaller(x[0][r], x[1][r]);
      const float other_high = larger(x[2][r], x[3][r]), other_low = smaller(x[2][r], x[3][r]);
      float kept = larger(high, other_high);
      if (a.n > 1) {
        const float rest = smaller(high, other_high), second = larger(low, other_low);
        kept += a.n == 2 ? larger(rest, second) : rest + second;
      }
      sum += kept;
    }
    total += sum_of_lanes(sum);
  }
  if (valid && lane == 0) a.out[own] = total;
}

struct OrderKeptArgs {
  const float* x;
  std::int64_t ld, rows, groups;
  const std::int32_t* place;  // of a position
  int n, m;
  double* out;  // [groups]
};

/// A thread adds up what is kept of a group, in double.
static __global__ void __launch_bounds__(kOrderThreads)
    order_kept(const __grid_constant__ OrderKeptArgs a) {
  const std::int64_t g = static_cast<std::int64_t>(blockIdx.x) * kOrderThreads + threadIdx.x;
  if (g >= a.groups) return;
  double sum = 0.0;
  float sorted[64];
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (int j = 0; j < a.m; ++j) {
      float x = a.x[a.place[g * a.m + j] * a.ld + r];
      for (int k = 0; k < j; ++k) {
        const float held = sorted[k];
        sorted[k] = larger(held, x);
        x = smaller(held, x);
      }
      sorted[j] = x;
    }
    for (int j = 0; j < a.n; ++j) {
      const float x = sorted[j];
      sum += x >= detail::kLargestScore    ? static_cast<double>(INFINITY)
             : x <= -detail::kLargestScore ? -static_cast<double>(INFINITY)
                                           : static_cast<double>(x);
    }
  }
  a.out[g] = sum;
}

}  // namespace gossamer::cuda
