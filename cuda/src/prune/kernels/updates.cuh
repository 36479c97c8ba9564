#pragma once

// Elementwise updates of weights in place, and scores as an array.

#include "base/kernels/pack.cuh"
#include "prune/kernels/keys.cuh"

namespace gossamer::cuda {

inline constexpr int kUpdateThreads = 256;

enum class Update : std::uint8_t {
  soft,    // x = sign(x)·max(|x| - a, 0)
  shrink,  // x = mask ? x : a·x; 0 where a is 0
  decay,   // x = mask ? x : x + a·other
};

template <class T>
struct UpdateArgs {
  Update what;
  T* x;
  const T* other;            // may be null
  const std::uint8_t* mask;  // may be null
  std::int64_t stride, other_stride, mask_stride, rows, cols;
  Sum<T> a;
  bool wide;  // 16 bytes of x and of other may be accessed at once
};

template <class T>
__device__ inline T updated(const UpdateArgs<T>& args, T x, T other, bool stays) {
  using S = Sum<T>;
  const S v = widen(x), a = args.a;
  if (args.what == Update::soft) {
    if (v <= a && v >= -a) return narrow<T>(S{0});
    return narrow<T>(v > 0 ? v - a : v + a);
  }
  if (stays) return x;
  if (args.what == Update::shrink) return narrow<T>(a == 0 ? S{0} : v * a);
  return narrow<T>(v + a * widen(other));
}

/// A thread has the elements of 16 bytes of a row.
template <class T>
__global__ void __launch_bounds__(kUpdateThreads)
    update_rows(const __grid_constant__ UpdateArgs<T> a) {
  constexpr int kOwn = 16 / static_cast<int>(sizeof(T));
  const std::int64_t j =
      (static_cast<std::int64_t>(blockIdx.x) * kUpdateThreads + static_cast<int>(threadIdx.x)) *
      kOwn;
  if (j >= a.cols) return;
  const bool whole = a.wide && a.cols - j >= kOwn;
  for (std::int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
    T* x = a.x + row * a.stride + j;
    const T* other = a.other == nullptr ? x : a.other + row * a.other_stride + j;
    const std::uint8_t* mask = a.mask == nullptr ? nullptr : a.mask + row * a.mask_stride + j;
    const auto stays = [&](int e) { return mask != nullptr && mask[e] != 0; };
    if (whole) {
      auto own = load_pack<kOwn>(x);
      const auto others = load_pack<kOwn>(other);
#pragma unroll
      for (int e = 0; e < kOwn; ++e) own.at[e] = updated(a, own.at[e], others.at[e], stays(e));
      store_pack(x, own);
    } else {
      for (int e = 0; e < kOwn && j + e < a.cols; ++e) x[e] = updated(a, x[e], other[e], stays(e));
    }
  }
}

/// out[i] = the score of element i.
template <class S>
__global__ void __launch_bounds__(kUpdateThreads)
    score_elements(const __grid_constant__ ScoreArgs score, std::int64_t count, S* out) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kUpdateThreads + static_cast<int>(threadIdx.x);
  if (i < count) out[i] = score_at<S>(score, i);
}

}  // namespace gossamer::cuda
