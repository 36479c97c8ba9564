#pragma once

// The channels that pass a threshold, compacted by one thread block: 1024 channels at a time, each
// warp counts its own by a ballot, and what the warps before found tells where they go. The list
// has one order, whatever the schedule. A layer has a few thousand channels, so that more blocks
// would save less than a second launch costs. For a stream of changes it also decides whether the
// sums are computed anew, and lists what they are made of then.

#include "base/kernels/numbers.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

template <class T>
struct ActivationSelectArgs {
  const T* x;  // [tokens, count], rows `stride` apart
  std::int64_t stride, tokens;
  int count;
  Sum<T> threshold;
  const void* thresholds;  // [count] of `type`, or null
  DType type;
  int* channels;   // [count]
  int* found;      // how many passed
  Sum<T>* values;  // [tokens, count], of each row the first *found
  // Of delta_linear, where `last` is not null.
  Sum<T>* last;  // [tokens, count]: less this, x is compared; where it passes, this becomes x
  bool refresh;
  int* sent;  // how many passed
  int* anew;  // whether the list is not of the changes but of what `last` has that is not zero
};

inline constexpr int kSelectThreads = 1024;

template <class S>
__device__ inline S number_at(const void* array, DType type, int i) {
  switch (type) {
    case DType::f64:
      return static_cast<S>(static_cast<const double*>(array)[i]);
    case DType::f16:
      return widen(static_cast<const __half*>(array)[i]);
    case DType::bf16:
      return widen(static_cast<const __nv_bfloat16*>(array)[i]);
    default:
      return static_cast<const float*>(array)[i];
  }
}

template <class T>
__global__ void __launch_bounds__(kSelectThreads, 1)
    activation_select(const ActivationSelectArgs<T> a) {
  using S = Sum<T>;
  __shared__ int counts[kSelectThreads / 32];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  for (bool again = false;; again = true) {
    const auto value = [&](std::int64_t t, std::int64_t j) {
      if (again) return a.last[t * a.count + j];
      const S x = widen(a.x[t * a.stride + j]);
      return a.last == nullptr ? x : x - a.last[t * a.count + j];
    };
    int before = 0;
    bool odd = false;  // a change is not finite
    for (std::int64_t base = 0; base < a.count; base += kSelectThreads) {
      const std::int64_t j = base + thread;
      bool passes = false;
      if (j < a.count) {
        const S limit = again || a.thresholds == nullptr
                            ? a.threshold
                            : number_at<S>(a.thresholds, a.type, static_cast<int>(j));
        for (std::int64_t t = 0; t < a.tokens; ++t) {
          const S v = value(t, j);
          passes = passes || (again ? v != S(0) : !((v < S(0) ? -v : v) < limit));  // a NaN passes
        }
      }
      const unsigned ballot = __ballot_sync(kAllLanes, passes);
      if (lane == 0) counts[warp] = __popc(ballot);
      __syncthreads();  // orders the writes of the counts before their reads
      int at = before;
      for (int w = 0; w < kSelectThreads / 32; ++w) {
        if (w < warp) at += counts[w];
        before += counts[w];
      }
      if (passes) {
        at += __popc(ballot & ((1u << lane) - 1));
        a.channels[at] = static_cast<int>(j);
#pragma unroll 1
        for (std::int64_t t = 0; t < a.tokens; ++t) {
          const S v = value(t, j);
          a.values[t * a.count + at] = v;
          if (again || a.last == nullptr) continue;
          odd = odd || !(v - v == S(0));
          a.last[t * a.count + j] = widen(a.x[t * a.stride + j]);
        }
      }
      __syncthreads();  // orders these reads before the next round's writes
    }
    if (thread == 0) {
      *a.found = before;
      if (a.last != nullptr && !again) *a.sent = before;
    }
    if (a.last == nullptr || again) return;
    const bool anew = __syncthreads_or(a.refresh || odd ? 1 : 0) != 0;
    if (thread == 0) *a.anew = anew ? 1 : 0;
    if (!anew) return;
  }
}

}  // namespace gossamer::cuda
