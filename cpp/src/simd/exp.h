#pragma once

// e^x: for activations, and for softmax, where x ≤ 0 but for rounding, and −∞ for what is masked.

#include "simd/simd.h"

namespace gossamer::detail {
namespace {

/// e^x for −87.3 ≤ x ≤ 88 to 2 units in the last place, NaN for NaN, anything for other x:
/// x = n·ln2 + r, a polynomial in r that is off by 3e-9 at most, and 2ⁿ, whose bits are those of n
/// moved: the exponent's bias comes with the number that rounds. Bits of NaN may overflow, so they
/// are unsigned.
template <int W>
GOSSAMER_INLINE Vec<float, W> exp_in_range(Vec<float, W> x) {
  using F = Vec<float, W>;
  using U = Vec<std::uint32_t, W>;
  const F magic = broadcast<W>(12582912.0f + 127.0f);
  const F shifted = x * 1.44269504f + magic;
  const F n = shifted - magic;
  const F r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  F p = r * 1.38146021e-3f + 8.36871520e-3f;
  p = p * r + 4.16683879e-2f;
  p = p * r + 1.66665206e-1f;
  p = p * r + 0.499999934f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * bit_cast<F>(bit_cast<U>(shifted) << 23);
}

/// e^x for x ≤ 88; 0 below −87.3, where e^x leaves the normal numbers; NaN for NaN.
template <int W>
GOSSAMER_INLINE Vec<float, W> exp_or_zero(Vec<float, W> x) {
  using F = Vec<float, W>;
  const F e = exp_in_range<W>(x);
  return x < broadcast<W>(-87.3f) ? F{} : e;
}

/// tanh(x) = sign·(1 - e)/(1 + e), e = e^(-2|x|); by its series where that would cancel.
template <int W>
GOSSAMER_INLINE Vec<float, W> tanh_vec(Vec<float, W> x) {
  using F = Vec<float, W>;
  const F size = x < 0 ? -x : x;
  const F e = exp_or_zero<W>(size * -2.0f);
  const F far = (1.0f - e) / (1.0f + e);
  const F s = x * x;
  F series = s * (62.0f / 2835) - (17.0f / 315);
  series = series * s + (2.0f / 15);
  series = series * s - (1.0f / 3);
  series = (series * s) * size + size;
  const F result = size < 0.25f ? series : far;
  return x < 0 ? -result : result;
}

template <int H, class V, int... I>
GOSSAMER_INLINE V swap_halves(V v, Lanes<I...>) {
  return __builtin_shufflevector(v, v, (I ^ H)...);
}

/// The largest lane; NaN lanes are passed over unless they come first.
template <int W, int H = W / 2>
GOSSAMER_INLINE float max_of(Vec<float, W> v) {
  const Vec<float, W> other = swap_halves<H>(v, typename MakeLanes<W>::type{});
  v = other > v ? other : v;
  if constexpr (H > 1) {
    return max_of<W, H / 2>(v);
  } else {
    return v[0];
  }
}

template <int W, int H = W / 2>
GOSSAMER_INLINE float sum_of(Vec<float, W> v) {
  v = v + swap_halves<H>(v, typename MakeLanes<W>::type{});
  if constexpr (H > 1) {
    return sum_of<W, H / 2>(v);
  } else {
    return v[0];
  }
}

}  // namespace
}  // namespace gossamer::detail
