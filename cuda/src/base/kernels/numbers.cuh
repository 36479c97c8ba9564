#pragma once

// Element types and the type that their sums are kept in.

#include "base/device.cuh"
#include "gossamer/dtype.h"

namespace gossamer::cuda {

template <class T>
struct SumOf {
  using type = float;
};
template <>
struct SumOf<double> {
  using type = double;
};
template <class T>
using Sum = typename SumOf<T>::type;

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

/// Rounds to nearest even.
template <class T>
__device__ inline T narrow(Sum<T> x) {
  return static_cast<T>(x);
}
template <>
__device__ inline __half narrow<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

/// Element i of an array of float32, float16 or bfloat16, where a kernel is not worth compiling for
/// each.
__device__ inline float load_number(const void* data, DType type, std::int64_t i) {
  if (type == DType::f32) return static_cast<const float*>(data)[i];
  if (type == DType::f16) return widen(static_cast<const __half*>(data)[i]);
  return widen(static_cast<const __nv_bfloat16*>(data)[i]);
}
__device__ inline void store_number(void* data, DType type, std::int64_t i, float x) {
  if (type == DType::f32) {
    static_cast<float*>(data)[i] = x;
  } else if (type == DType::f16) {
    static_cast<__half*>(data)[i] = narrow<__half>(x);
  } else {
    static_cast<__nv_bfloat16*>(data)[i] = narrow<__nv_bfloat16>(x);
  }
}

/// Calls f(T{}) with the element type of `dtype`, a floating one.
template <class F>
void with_element_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f(double{});
    case DType::f16:
      return f(__half{});
    case DType::bf16:
      return f(__nv_bfloat16{});
    default:
      return f(float{});
  }
}

}  // namespace gossamer::cuda
