#pragma once

// DSnoT, a block of threads a row. The row's error is summed in the order of the columns, as on the
// CPU. A key stands for each weight that may move: negative, with its sign bit, where it may grow,
// else positive; +infinity where it may not move. A step searches for the least of either kind.

#include "prune/kernels/keys.cuh"

namespace gossamer::cuda {

inline constexpr int kDsnotThreads = 256, kDsnotColumnThreads = 1024;

/// x^power; exact where the CPU's is.
__device__ inline double power_of(double x, double power) {
  return power == 1.0 ? x : power == 0.0 ? 1.0 : pow(x, power);
}

/// What rows need of the columns of n rows of activations: T [3, cols], the mean, 1/variance^power
/// and the norm; the latter two times a power of two that brings the largest of them near 1.
struct DsnotColumnsArgs {
  const double *sum, *sumsq, *m2;
  double n, power;
  std::int64_t cols;
};

/// One block.
template <class T>
__global__ void __launch_bounds__(kDsnotColumnThreads)
    dsnot_columns(const __grid_constant__ DsnotColumnsArgs a, T* out) {
  __shared__ double most[2][kDsnotColumnThreads];
  const int t = static_cast<int>(threadIdx.x);
  const auto factor = [&](int which, std::int64_t j) {
    return which == 0 ? 1.0 / power_of(a.m2[j] / a.n, a.power) : sqrt(a.sumsq[j]);
  };
  for (int which = 0; which < 2; ++which) {
    double peak = 0;
    for (std::int64_t j = t; j < a.cols; j += kDsnotColumnThreads) {
      const double x = factor(which, j);
      if (isfinite(x) && x > peak) peak = x;
    }
    most[which][t] = peak;
  }
  __syncthreads();  // orders the writes before the reads of the reduction
  for (int half = kDsnotColumnThreads / 2; half > 0; half /= 2) {
    for (int which = 0; which < 2; ++which) {
      if (t < half && most[which][t + half] > most[which][t]) {
        most[which][t] = most[which][t + half];
      }
    }
    __syncthreads();  // orders each step's writes before the next one's reads
  }
  for (std::int64_t j = t; j < a.cols; j += kDsnotColumnThreads) {
    out[j] = static_cast<T>(a.sum[j] / a.n);
    for (int which = 0; which < 2; ++which) {
      const double peak = most[which][0];
      out[(1 + which) * a.cols + j] =
          static_cast<T>(peak == 0 ? factor(which, j) : ldexp(factor(which, j), -ilogb(peak)));
    }
  }
}

struct DsnotArgs {
  const void* w;
  DType type;
  std::int64_t ldw;
  std::uint8_t* mask;
  std::int64_t ldmask, rows;
  int cols;
  const void* columns;  // of dsnot_columns
  double tolerance;
  std::int64_t steps;
  int group;  // 0: the row
  bool same_sign;
  void* keys;  // T [blocks, cols]; null: in shared memory
};

template <class T>
__global__ void __launch_bounds__(kDsnotThreads) dsnot_rows(const __grid_constant__ DsnotArgs a) {
  constexpr int kWarps = kDsnotThreads / 32;
  constexpr T kNone = static_cast<T>(INFINITY);
  __shared__ double first_error;
  __shared__ T found[kWarps];
  __shared__ int places[kWarps];
  const int t = static_cast<int>(threadIdx.x), lane = t % 32;
  const T* mean = static_cast<const T*>(a.columns);
  T* keys = a.keys == nullptr
                ? dynamic_shared<T>()
                : static_cast<T*>(a.keys) + static_cast<std::int64_t>(blockIdx.x) * a.cols;
  // The first place in [begin, end) of the least key of a kind; -1 where there is none.
  const auto find = [&](int begin, int end, bool grows) {
    __syncthreads();  // orders the writes of keys before their reads
    T low = kNone;
    int at = 0x7fffffff;
    for (int j = begin + t; j < end; j += kDsnotThreads) {
      const T key = keys[j];
      if (key < low && signbit(key) == grows) {
        low = key;
        at = j;
      }
    }
    for (int step = 16; step > 0; step /= 2) {
      const T other = __shfl_xor_sync(0xffffffffu, low, step);
      const int there = __shfl_xor_sync(0xffffffffu, at, step);
      if (other < low || (other == low && there < at)) {
        low = other;
        at = there;
      }
    }
    if (lane == 0) {
      found[t / 32] = low;
      places[t / 32] = at;
    }
    __syncthreads();  // orders the warps' results before their reads
    for (int i = 0; i < kWarps; ++i) {
      if (found[i] < low || (found[i] == low && places[i] < at)) {
        low = found[i];
        at = places[i];
      }
    }
    return low == kNone ? -1 : at;
  };
  for (std::int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
    __syncthreads();  // orders the last row's accesses before the writes of keys
    std::uint8_t* mask = a.mask + r * a.ldmask;
    const auto weight = [&](int j) { return operand<T>(a.w, a.type, r * a.ldw + j); };
    const auto share = [&](int j) { return times(weight(j), mean[j]); };
    for (int j = t; j < a.cols; j += kDsnotThreads) keys[j] = mask[j] == 0 ? share(j) : T{0};
    __syncthreads();  // orders the writes of shares before their sum
    if (t == 0) {
      double sum = 0;
#pragma unroll 8
      for (int j = 0; j < a.cols; ++j) sum += static_cast<double>(keys[j]);
      first_error = sum;
    }
    __syncthreads();  // orders the write of the sum, and the reads of shares, before what follows
    double error = first_error;
    const T sign = error > 0 ? T{1} : T{-1};
    for (int j = t; j < a.cols; j += kDsnotThreads) {
      const T toward = sign * share(j);
      T key = kNone;
      if (mask[j] == 0) {
        const T best = times(-toward, mean[a.cols + j]);
        if (toward > 0 && best <= 0) key = best;
      } else if (!a.same_sign || toward < 0) {
        const T wanda = times(fabs(weight(j)), mean[2 * a.cols + j]);
        if (wanda < kNone) key = wanda;
      }
      keys[j] = key;
    }
    for (std::int64_t step = 0; step < a.steps; ++step) {
      if (!(fabs(error) > a.tolerance)) break;
      int grown = -1, dropped = -1;
      while (dropped < 0) {
        grown = find(0, a.cols, true);
        if (grown < 0) break;
        const int begin = a.group > 0 ? grown / a.group * a.group : 0;
        const int end = a.group > 0 ? begin + a.group : a.cols;
        dropped = find(begin, end, false);
        if (t == 0) keys[grown] = kNone;
        if (dropped < 0 && a.group == 0) break;
      }
      if (dropped < 0) break;
      if (t == 0) keys[dropped] = kNone;
      const double after =
          error + static_cast<double>(share(dropped)) - static_cast<double>(share(grown));
      if (static_cast<double>(sign) * after < 0) break;
      if (t == 0) {
        mask[grown] = 1;
        mask[dropped] = 0;
      }
      error = after;
    }
  }
}

}  // namespace gossamer::cuda
