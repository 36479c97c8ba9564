#pragma once

// out[l, s] = Σ_t left[l, t]·right[e, t] for value s of line l of an N:M matrix, which is element e
// of the line. Eight lanes share a value, and add their sums by shuffles in a fixed order.

#include "base/kernels/warp.cuh"
#include "formats/nm/kernels/nm_positions.cuh"
#include "products/kernels/nm_dots.cuh"

namespace gossamer::cuda {

template <class T>
struct NmSampleArgs {
  NmLines a;  // its values are not read
  const T* left;
  std::int64_t ldl;
  const T* right;
  std::int64_t ldr, depth;
  T* out;
  bool accumulate;
};

inline constexpr int kNmSampleLanes = 8;

template <class T>
__global__ void __launch_bounds__(kNmThreads) nm_sample(NmSampleArgs<T> a) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kNmSampleLanes;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * (kNmThreads / kNmSampleLanes) +
                         thread / kNmSampleLanes;
  const bool mine = i < a.a.lines * a.a.slots;
  Sum<T> sum = 0;
  if (mine) {
    const std::int64_t line = i / a.a.slots, slot = i % a.a.slots;
    const std::int64_t element =
        slot / a.a.n * a.a.m + nm_position(a.a.indices + line * a.a.index_bytes, slot, a.a.bits);
    const T *const left = a.left + line * a.ldl, *const right = a.right + element * a.ldr;
    for (std::int64_t t = lane; t < a.depth; t += kNmSampleLanes) {
      sum += widen(left[t]) * widen(right[t]);
    }
  }
  for (int mask = 1; mask < kNmSampleLanes; mask *= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, mask);
  }
  if (!mine || lane != 0) return;
  if (a.accumulate) sum += widen(a.out[i]);
  a.out[i] = narrow<T>(sum);
}

}  // namespace gossamer::cuda
