#pragma once

// y = activation(sum + bias [+ out]).

#include "gossamer/check.h"
#include "kernels/numbers.cuh"

namespace gossamer::cuda {

/// What becomes of a sum before it is written; `bias` is indexed by the row of the product.
template <class T>
struct Finish {
  const T* bias;
  Activation activation;
  bool accumulate;
  Sum<T> lo, hi;

  explicit Finish(const Product& product)
      : bias(static_cast<const T*>(product.bias)),
        activation(product.activation),
        accumulate(product.accumulate),
        lo(static_cast<Sum<T>>(product.lo)),
        hi(static_cast<Sum<T>>(product.hi)) {}

  __device__ void store(T* out, Sum<T> sum, int row) const {
    if (bias != nullptr) sum += widen(bias[row]);
    if (accumulate) sum += widen(*out);
    *out = narrow<T>(activate(sum));
  }

  __device__ Sum<T> activate(Sum<T> x) const {
    using S = Sum<T>;
    switch (activation) {
      case Activation::relu:
        return clamp(x, S(0), S(INFINITY));
      case Activation::relu6:
        return clamp(x, S(0), S(6));
      case Activation::clamp:
        return clamp(x, lo, hi);
      case Activation::gelu:
        return S(0.5) * x * erfc(x * S(-0.70710678118654752440));
      case Activation::silu:
        return x / (S(1) + exp(-x));
      default:
        return x;
    }
  }

  /// NaN passes, which min and max would drop.
  __device__ static Sum<T> clamp(Sum<T> x, Sum<T> low, Sum<T> high) {
    return x < low ? low : x > high ? high : x;
  }
};

}  // namespace gossamer::cuda
