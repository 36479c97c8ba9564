#pragma once

// What softmax over lists of any length needs, for floats and doubles: powers of e, largest
// elements, sums, and the last part of a list, which does not fill a vector.

#include "simd/exp.h"
#include "simd/simd.h"

namespace gossamer::detail {
namespace {

/// e^x, 0 far below, for floats and doubles.
template <int W>
GOSSAMER_INLINE Vec<float, W> exp_weights(Vec<float, W> x) {
  return exp_or_zero<W>(x);
}
template <int W>
GOSSAMER_INLINE Vec<double, W> exp_weights(Vec<double, W> x) {
  Vec<double, W> y;
  for (int i = 0; i < W; ++i) y[i] = __builtin_exp(x[i]);
  return y;
}

GOSSAMER_INLINE float exp_weight(float x) { return exp_weights<4>(Vec<float, 4>{x, x, x, x})[0]; }
GOSSAMER_INLINE double exp_weight(double x) { return __builtin_exp(x); }

GOSSAMER_INLINE float log_real(float x) { return __builtin_logf(x); }
GOSSAMER_INLINE double log_real(double x) { return __builtin_log(x); }

template <class T>
constexpr T kMinusInfinity = static_cast<T>(-__builtin_inf());

/// The larger of the two, lane by lane or alone; NaN where one is.
template <class V>
GOSSAMER_INLINE V larger_or_nan(V a, V b) {
  return b > a || b != b ? b : a;
}
template <class T, int W>
GOSSAMER_INLINE Vec<T, W> larger_lanes(Vec<T, W> a, Vec<T, W> b) {
  const auto replaces = (b > a) | (b != b);
  return replaces ? b : a;
}

/// Numbers 0, 1, … in the type of a comparison's lanes.
template <class T, int W>
GOSSAMER_INLINE auto lane_numbers() {
  auto lanes = Vec<T, W>{} > Vec<T, W>{};
  for (int i = 0; i < W; ++i) lanes[i] = i;
  return lanes;
}

/// The first `left` < W elements of p as Real, the lanes after them `fill`.
template <int W, class T, class S>
GOSSAMER_INLINE Vec<T, W> load_filled(const S* p, int left, T fill) {
  const Vec<T, W> v = load_first<W>(p, left);
  const auto lanes = lane_numbers<T, W>();
  const auto inside = lanes < left;
  return inside ? v : broadcast<W>(fill);
}

template <class V, int... I>
GOSSAMER_INLINE auto low_half(V v, Lanes<I...>) {
  return __builtin_shufflevector(v, v, I...);
}
template <class V, int... I>
GOSSAMER_INLINE auto high_half(V v, Lanes<I...>) {
  return __builtin_shufflevector(v, v, (I + static_cast<int>(sizeof...(I)))...);
}

template <class T, int W>
GOSSAMER_INLINE T sum_lanes(Vec<T, W> v) {
  if constexpr (W == 2) {
    return v[0] + v[1];
  } else {
    using L = typename MakeLanes<W / 2>::type;
    return sum_lanes<T, W / 2>(low_half(v, L{}) + high_half(v, L{}));
  }
}

template <class T, int W>
GOSSAMER_INLINE T max_lanes(Vec<T, W> v) {
  if constexpr (W == 2) {
    return larger_or_nan<T>(v[0], v[1]);
  } else {
    using L = typename MakeLanes<W / 2>::type;
    return max_lanes<T, W / 2>(larger_lanes<T, W / 2>(low_half(v, L{}), high_half(v, L{})));
  }
}

}  // namespace
}  // namespace gossamer::detail
