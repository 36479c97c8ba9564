#pragma once

#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

inline constexpr int kScanThreads = 1024;
/// How many neighbours each thread adds up by itself.
inline constexpr int kScanItems = 8;

/// Prefix sums of totals[0, n), in place, by one block of kScanThreads.
template <class N>
__device__ inline void scan_totals(N* totals, int n) {
  __shared__ N warp_sums[kScanThreads / 32];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  N before = 0;
  for (std::int64_t base = 0; base < n; base += kScanThreads * kScanItems) {
    const std::int64_t first = base + thread * kScanItems;
    N item[kScanItems], sum = 0;
#pragma unroll
    for (int i = 0; i < kScanItems; ++i) {
      sum += first + i < n ? totals[first + i] : N{0};
      item[i] = sum;
    }
    N up_to = sum;
    for (int step = 1; step < 32; step *= 2) {
      const N left = __shfl_up_sync(kAllLanes, up_to, static_cast<unsigned>(step));
      if (lane >= step) up_to += left;
    }
    if (lane == 31) warp_sums[warp] = up_to;
    __syncthreads();  // orders the writes of the warps' sums before their reads
    N start = before + up_to - sum, all = 0;
    for (int w = 0; w < kScanThreads / 32; ++w) {
      if (w < warp) start += warp_sums[w];
      all += warp_sums[w];
    }
    before += all;
#pragma unroll
    for (int i = 0; i < kScanItems; ++i) {
      if (first + i < n) totals[first + i] = start + item[i];
    }
    __syncthreads();  // orders these reads before the next round's writes
  }
}

[[maybe_unused]] static __global__ void __launch_bounds__(kScanThreads)
    inclusive_scan(int* totals, int n) {
  scan_totals(totals, n);
}

}  // namespace gossamer::cuda
