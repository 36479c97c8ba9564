#pragma once

#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

inline constexpr int kTotalThreads = 1024;

/// *total = counts[0] + … + counts[n-1] in 64 bits, computed by one block.
static __global__ void __launch_bounds__(kTotalThreads)
    total_count(const int* __restrict__ counts, int n, std::int64_t* total) {
  __shared__ std::int64_t sums[kTotalThreads / 32];
  const int thread = static_cast<int>(threadIdx.x);
  std::int64_t sum = 0;
  for (std::int64_t i = thread; i < n; i += kTotalThreads) sum += counts[i];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (thread % 32 == 0) sums[thread / 32] = sum;
  __syncthreads();  // orders the writes of the warps' sums before their reads
  if (thread != 0) return;
  for (int w = 1; w < kTotalThreads / 32; ++w) sum += sums[w];
  *total = sum;
}

}  // namespace gossamer::cuda
