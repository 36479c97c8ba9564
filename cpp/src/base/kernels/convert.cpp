// Dense tiles in and out: conversion to and from the type that sums are kept in, transposition, and
// the epilogue. Row after row; transposes go block by block through registers.

#include "base/args.h"
#include "simd/exp.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

template <class T, class S>
void convert_rows(const ConvertTileArgs& a) {
  constexpr int W = kLanes<T>;
  const S* src = static_cast<const S*>(a.src);
  T* dst = static_cast<T*>(a.dst);
  const bool one_row = a.stride == a.cols && a.ld == a.cols;
  const std::int64_t rows = one_row ? 1 : a.rows, cols = one_row ? a.rows * a.cols : a.cols;
  for (std::int64_t r = 0; r < rows; ++r) {
    const S* from = src + r * a.stride;
    T* to = dst + r * a.ld;
    std::int64_t c = 0;
    for (; c + W <= cols; c += W) store<W>(to + c, load_real<W>(from + c));
    for (; c + W / 2 <= cols; c += W / 2) store<W / 2>(to + c, load_real<W / 2>(from + c));
    for (; c < cols; ++c) to[c] = to_float(from[c]);
  }
}

/// dst[j*ld + i] = src[i*stride + j] for i < m and j < n, 0 for m ≤ i < width; m, n and width are
/// at most B.
template <int B, class T, class S>
__attribute__((noinline)) void transpose_part(const S* src, std::int64_t stride, int m, int n,
                                              T* dst, std::int64_t ld, int width) {
  Vec<T, B> r[B] = {};
#pragma GCC unroll 16
  for (int i = 0; i < B; ++i) {
    if (i < m) {
      r[i] = n == B ? load_real<B>(src + i * stride) : load_first<B>(src + i * stride, n);
    }
  }
  transpose_registers<B>(r);
#pragma GCC unroll 16
  for (int j = 0; j < B; ++j) {
    if (j < n) store_first<B>(dst + j * ld, r[j], width);
  }
}

/// dst[j*ld + i] = src[i*stride + j] for i < m and j < n, 0 for m ≤ i < width. What is no whole
/// block goes through registers, too, where stores can be masked.
template <class T, class S>
void transpose(const S* src, std::int64_t stride, std::int64_t m, std::int64_t n, T* dst,
               std::int64_t ld, std::int64_t width) {
  constexpr int B = kLanes<T>;
  constexpr bool masked = kVectorBytes == 64 && sizeof(T) == 4;
  std::int64_t whole = m;
  if constexpr (masked) {
    const bool half = m % B == B / 2 && width == m;  // for which there are smaller blocks
    whole = half ? m : m / B * B;
    const std::int64_t columns = n / B * B;
    transpose_tile(src, stride, whole, half ? n : columns, dst, ld);
    const auto part = [&](std::int64_t i, std::int64_t j) {
      transpose_part<B>(src + i * stride + j, stride, static_cast<int>(min_i64(B, m - i)),
                        static_cast<int>(min_i64(B, n - j)), dst + j * ld + i, ld,
                        static_cast<int>(min_i64(B, width - i)));
    };
    for (std::int64_t i = 0; i < whole && !half && columns < n; i += B) part(i, columns);
    for (std::int64_t j = 0; j < n && whole < m; j += B) part(whole, j);
    if (whole < m) whole = min_i64(width, whole + B);
  } else {
    transpose_tile(src, stride, m, n, dst, ld);
  }
  for (std::int64_t j = 0; j < n && whole < width; ++j) {
    for (std::int64_t i = whole; i < width; ++i) dst[j * ld + i] = 0;
  }
}

template <class T, class S>
void convert(const ConvertTileArgs& a) {
  const std::int64_t width = a.pad ? a.ld : a.cols;
  T* dst = static_cast<T*>(a.dst);
  if (a.transposed) {
    return transpose(static_cast<const S*>(a.src), a.stride, a.cols, a.rows, dst, a.ld, width);
  }
  convert_rows<T, S>(a);
  for (std::int64_t r = 0; r < a.rows && a.cols < width; ++r) {
    for (std::int64_t c = a.cols; c < width; ++c) dst[r * a.ld + c] = 0;
  }
}

// GELU and SiLU tend to 0 towards -∞. There they are a product of x, which grows, and a power of e,
// which falls below the type's range: the power is not clamped before it is 0, and x is clamped
// where the product is 0 already. Else a clamped power times x, or 0 times ∞, would be the result.

template <int W, class T>
GOSSAMER_INLINE Vec<T, W> at_least(Vec<T, W> x, T bound) {
  return x < bound ? broadcast<W>(bound) : x;
}

/// Between these exponents exp_vec is e^x; beyond them it is that of the bound.
constexpr float kLowestExponent = -87.0f, kHighestExponent = 88.0f;

/// e^x, held at the ends of the range of normal numbers; NaN for NaN.
template <int W>
GOSSAMER_INLINE Vec<float, W> exp_vec(Vec<float, W> x) {
  using F = Vec<float, W>;
  const F hi = broadcast<W>(kHighestExponent), lo = broadcast<W>(kLowestExponent);
  const F v = x > hi ? hi : x;
  return exp_in_range<W>(v < lo ? lo : v);
}

/// x·Φ(x), with erfc(z) = t·P(t)·e^(−z²), t = 1/(1 + 0.4 z) for z ≥ 0: the tail keeps its relative
/// accuracy. P was fitted by weighted least squares over 0 ≤ z ≤ 10; relative error 7e-8.
template <int W>
GOSSAMER_INLINE Vec<float, W> gelu(Vec<float, W> x) {
  using F = Vec<float, W>;
  constexpr float c[9] = {0.22563778f, 0.22637908f, 0.20236996f,  0.19141425f, 0.08460388f,
                          0.08068325f, 0.09055844f, -0.14358801f, 0.04194144f};
  F z = (x < 0.0f ? -x : x) * 0.70710678f;
  z = z > 13.0f ? broadcast<W>(13.0f) : z;
  const F t = 1.0f / (z * 0.4f + 1.0f);
  F p = broadcast<W>(c[8]);
  for (int i = 7; i >= 0; --i) p = p * t + c[i];
  F power = exp_vec<W>(-z * z);
  if (const auto beyond = z * z > -kLowestExponent; any(beyond)) {
    const F root = exp_vec<W>(-z * z * 0.5f);
    power = beyond ? root * root : power;
  }
  const F half_tail = p * t * power * 0.5f;
  return at_least<W>(x, -1e6f) * (x < 0.0f ? half_tail : 1.0f - half_tail);
}

template <int W>
GOSSAMER_INLINE Vec<float, W> silu(Vec<float, W> x) {
  Vec<float, W> y = x / (exp_vec<W>(-x) + 1.0f);
  if (const auto beyond = x < -kHighestExponent; any(beyond)) {
    const Vec<float, W> root = exp_vec<W>(x * 0.5f);
    y = beyond ? at_least<W>(x, -1e6f) * root * root : y;
  }
  return y;
}

template <int W>
GOSSAMER_INLINE Vec<double, W> gelu(Vec<double, W> x) {
  const Vec<double, W> v = at_least<W>(x, -1e6);
  Vec<double, W> y;
  for (int i = 0; i < W; ++i) y[i] = 0.5 * v[i] * __builtin_erfc(-v[i] * 0.70710678118654752);
  return y;
}

template <int W>
GOSSAMER_INLINE Vec<double, W> silu(Vec<double, W> x) {
  const Vec<double, W> v = at_least<W>(x, -1e6);
  Vec<double, W> y;
  // Below -700 the denominator would overflow before the quotient is 0.
  for (int i = 0; i < W; ++i) {
    y[i] = v[i] < -700 ? v[i] * __builtin_exp(v[i]) : v[i] / (1.0 + __builtin_exp(-v[i]));
  }
  return y;
}

template <class T, int W>
GOSSAMER_INLINE Vec<T, W> activate(Vec<T, W> v, Activation activation, T lo, T hi) {
  using V = Vec<T, W>;
  switch (activation) {
    case Activation::none:
      return v;
    case Activation::gelu:
      return gelu<W>(v);
    case Activation::silu:
      return silu<W>(v);
    case Activation::relu:
      return v < T(0) ? V{} : v;
    case Activation::relu6:
    case Activation::clamp:
      v = v < lo ? broadcast<W>(lo) : v;
      return v > hi ? broadcast<W>(hi) : v;
  }
  return v;
}

/// out[j] = activation(sums[j] + bias [+ out[j]]), bias one value or one per element.
template <class T, class S>
GOSSAMER_INLINE void store_row(const StoreTileArgs& a, const T* sums, std::int64_t n, S* out,
                               const S* bias, bool bias_per_element) {
  constexpr int W = kLanes<T>;
  if (bias == nullptr && !a.accumulate && a.activation == Activation::none) {
    // Only the type changes: a loop of its own, which the choice of an activation does not slow.
    std::int64_t i = 0;
    for (; i + W <= n; i += W) store_real<W>(out + i, load<W>(sums + i));
    if (const auto left = static_cast<int>(n - i); left > 0) {
      store_first<W>(out + i, load_first<W>(sums + i, left), left);
    }
    return;
  }
  const T lo = a.activation == Activation::relu6 ? T(0) : static_cast<T>(a.lo);
  const T hi = a.activation == Activation::relu6 ? T(6) : static_cast<T>(a.hi);
  const T shared_bias = bias != nullptr && !bias_per_element ? to_float(*bias) : T(0);
  // A tail goes through the same arithmetic, so that its bits do not differ.
  const auto finish = [&](Vec<T> v, auto add, auto before) {
    if (bias != nullptr) v = v + (bias_per_element ? add() : broadcast<W>(shared_bias));
    if (a.accumulate) v = v + before();
    return activate<T, W>(v, a.activation, lo, hi);
  };
  std::int64_t j = 0;
  for (; j + W <= n; j += W) {
    store_real<W>(out + j, finish(
                               load<W>(sums + j), [&] { return load_real<W>(bias + j); },
                               [&] { return load_real<W>(out + j); }));
  }
  if (const auto left = static_cast<int>(n - j); left > 0) {
    store_first<W>(out + j,
                   finish(
                       load_first<W>(sums + j, left), [&] { return load_first<W>(bias + j, left); },
                       [&] { return load_first<W>(out + j, left); }),
                   left);
  }
}

template <class T, class S>
void store_direct(const StoreTileArgs& a) {
  const T* tile = static_cast<const T*>(a.tile);
  S* out = static_cast<S*>(a.out);
  const S* bias = static_cast<const S*>(a.bias);
  if (bias == nullptr && a.ld == a.cols && a.stride == a.cols) {
    return store_row<T, S>(a, tile, a.rows * a.cols, out, nullptr, false);
  }
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const S* row_bias = bias != nullptr && a.bias_by_row ? bias + r : bias;
    store_row<T, S>(a, tile + r * a.ld, a.cols, out + r * a.stride, row_bias, !a.bias_by_row);
  }
}

template <class T, class S>
void store_transposed(const StoreTileArgs& a) {
  const T* tile = static_cast<const T*>(a.tile);
  S* out = static_cast<S*>(a.out);
  const S* bias = static_cast<const S*>(a.bias);
  constexpr bool same = sizeof(T) == sizeof(S);
  if constexpr (same) {
    if (bias == nullptr && a.activation == Activation::none && !a.accumulate) {
      transpose(tile, a.ld, a.rows, a.cols, out, a.stride, a.rows);
      return;
    }
  }
  constexpr std::int64_t kRows = 16, kCols = 64;
  T staging[kCols * kRows];
  for (std::int64_t r = 0; r < a.rows; r += kRows) {
    const std::int64_t m = min_i64(kRows, a.rows - r);
    for (std::int64_t c = 0; c < a.cols; c += kCols) {
      const std::int64_t n = min_i64(kCols, a.cols - c);
      transpose(tile + r * a.ld + c, a.ld, m, n, staging, kRows, m);
      for (std::int64_t j = 0; j < n; ++j) {
        const S* col_bias = bias == nullptr ? nullptr : a.bias_by_row ? bias + r : bias + c + j;
        store_row<T, S>(a, staging + j * kRows, m, out + (c + j) * a.stride + r, col_bias,
                        a.bias_by_row);
      }
    }
  }
}

template <class T, class S>
void store_tile_as(const StoreTileArgs& a) {
  if (a.transposed) {
    store_transposed<T, S>(a);
  } else {
    store_direct<T, S>(a);
  }
}

}  // namespace

void convert_tile(const ConvertTileArgs& a);
void convert_tile(const ConvertTileArgs& a) {
  if (a.f64) return convert<double, double>(a);
  if (a.src_type == DType::bf16) return convert<float, bf16_t>(a);
  if (a.src_type == DType::f16) return convert<float, f16_t>(a);
  convert<float, float>(a);
}

void store_tile(const StoreTileArgs& a);
void store_tile(const StoreTileArgs& a) {
  if (a.f64) return store_tile_as<double, double>(a);
  if (a.out_type == DType::bf16) return store_tile_as<float, bf16_t>(a);
  if (a.out_type == DType::f16) return store_tile_as<float, f16_t>(a);
  store_tile_as<float, float>(a);
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
