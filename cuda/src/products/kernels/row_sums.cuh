#pragma once

// out[i] = Σ_j x(i, j), in a fixed order. A thread block has 32 rows: where these are contiguous, a
// warp has four of them, and its lanes' sums are added by shuffles; where columns are, a lane has a
// row and the warps share its columns.

#include "base/kernels/numbers.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

template <class T>
struct RowSumsArgs {
  const T* x;  // x(i, j) = x[i*row + j*column], one of which is 1
  std::int64_t row, column, m, n;
  T* out;
  bool accumulate;
};

inline constexpr int kRowSumsThreads = 256;

template <class T>
__global__ void __launch_bounds__(kRowSumsThreads) row_sums(RowSumsArgs<T> a) {
  using S = Sum<T>;
  constexpr int kWarps = kRowSumsThreads / 32;
  __shared__ S sums[kWarps][33];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * 32;
  if (a.row == 1) {
    S sum = 0;
    if (row0 + lane < a.m) {
      for (std::int64_t j = warp; j < a.n; j += kWarps) {
        sum += widen(a.x[row0 + lane + j * a.column]);
      }
    }
    sums[warp][lane] = sum;
  } else {
    for (int r = warp; r < 32; r += kWarps) {
      S sum = 0;
      if (row0 + r < a.m) {
        for (std::int64_t j = lane; j < a.n; j += 32) sum += widen(a.x[(row0 + r) * a.row + j]);
      }
      for (int mask = 1; mask < 32; mask *= 2) sum += __shfl_xor_sync(kAllLanes, sum, mask);
      if (lane == 0) sums[0][r] = sum;
    }
  }
  __syncthreads();  // orders the writes of the sums before their reads
  if (warp != 0 || row0 + lane >= a.m) return;
  S total = sums[0][lane];
  if (a.row == 1) {
    for (int w = 1; w < kWarps; ++w) total += sums[w][lane];
  }
  T* const to = a.out + row0 + lane;
  if (a.accumulate) total += widen(*to);
  *to = narrow<T>(total);
}

}  // namespace gossamer::cuda
