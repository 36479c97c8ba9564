#pragma once

// y = activation(sum + bias [+ out]).

#include "base/kernels/numbers.cuh"
#include "base/kernels/pack.cuh"
#include "gossamer/detail/product_checks.h"

namespace gossamer::cuda {

/// Turns a sum into an element of the result. `bias` is indexed by the row of the product.
template <class T>
struct Finish {
  const T* bias;
  Activation activation;
  bool accumulate;
  Sum<T> lo, hi;

  explicit Finish(const detail::Product& product)
      : bias(static_cast<const T*>(product.bias)),
        activation(product.activation),
        accumulate(product.accumulate),
        lo(static_cast<Sum<T>>(product.lo)),
        hi(static_cast<Sum<T>>(product.hi)) {}

  __device__ void store(T* out, Sum<T> sum, std::int64_t row) const {
    sum += bias_of(row);
    if (accumulate) sum += widen(*out);
    *out = narrow<T>(activate(sum));
  }

  /// The same for N neighbours in one row.
  template <int N>
  __device__ void store_pack(T* out, const Sum<T> (&sums)[N], std::int64_t row) const {
    const Sum<T> row_bias = bias_of(row);
    Pack<T, N> y;
    Sum<T> x[N];
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = sums[i] + row_bias;
    if (accumulate) {
      y = load_pack<N>(out);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] += widen(y.at[i]);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) y.at[i] = narrow<T>(activate(x[i]));
    cuda::store_pack<N>(out, y);
  }

  __device__ Sum<T> bias_of(std::int64_t row) const {
    return bias == nullptr ? Sum<T>(0) : widen(bias[row]);
  }

  __device__ Sum<T> activate(Sum<T> x) const {
    using S = Sum<T>;
    switch (activation) {
      case Activation::relu:
        return x < S(0) ? S(0) : x;
      case Activation::relu6:
        return clamp(x, S(0), S(6));
      case Activation::clamp:
        return clamp(x, lo, hi);
      // GELU and SiLU are 0 below the bound, where -∞ would become NaN.
      case Activation::gelu:
        x = x < S(-1e6) ? S(-1e6) : x;
        // erfc keeps its relative accuracy in the tail.
        return S(0.5) * x * erfc(x * S(-0.70710678118654752440));
      case Activation::silu:
        x = x < S(-1e6) ? S(-1e6) : x;
        return x / (S(1) + exp(-x));
      default:
        return x;
    }
  }

  /// Passes NaN on, which min and max would drop.
  __device__ static Sum<T> clamp(Sum<T> x, Sum<T> low, Sum<T> high) {
    return x < low ? low : x > high ? high : x;
  }
};

}  // namespace gossamer::cuda
