// Dense tiles in and out: conversion to and from the type that sums are kept in, transposition, and
// the epilogue. Row after row; transposes go block by block through registers.

#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

template <class T, class S>
void convert_rows(const ConvertTileArgs& a) {
  constexpr int W = kLanes<T>;
  const S* src = static_cast<const S*>(a.src);
  T* dst = static_cast<T*>(a.dst);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const S* from = src + r * a.stride;
    T* to = dst + r * a.ld;
    std::int64_t c = 0;
    for (; c + W <= a.cols; c += W) store<W>(to + c, load_real<W>(from + c));
    for (; c < a.cols; ++c) to[c] = to_float(from[c]);
  }
}

template <class T, class S>
void convert(const ConvertTileArgs& a) {
  if (a.transposed) {
    transpose_tile(static_cast<const S*>(a.src), a.stride, a.cols, a.rows, static_cast<T*>(a.dst),
                   a.ld);
  } else {
    convert_rows<T, S>(a);
  }
  if (a.pad && a.cols < a.ld) {
    T* dst = static_cast<T*>(a.dst);
    for (std::int64_t r = 0; r < a.rows; ++r) {
      for (std::int64_t c = a.cols; c < a.ld; ++c) dst[r * a.ld + c] = 0;
    }
  }
}

/// e^x by x = n·ln2 + r and a degree-7 Taylor polynomial in r.
template <int W>
GOSSAMER_INLINE Vec<float, W> exp_vec(Vec<float, W> x) {
  using F = Vec<float, W>;
  using I = Vec<std::int32_t, W>;
  const F hi = broadcast<W>(88.0f), lo = broadcast<W>(-87.0f);
  F v = x > hi ? hi : x;
  v = v < lo ? lo : v;
  const F magic = broadcast<W>(12582912.0f);
  const F shifted = v * 1.44269504f + magic;
  const F n = shifted - magic;
  const F r = (v - n * 0.693145752f) - n * 1.42860677e-6f;
  F p = r * (1.0f / 5040) + (1.0f / 720);
  p = p * r + (1.0f / 120);
  p = p * r + (1.0f / 24);
  p = p * r + (1.0f / 6);
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const I exponent = (bit_cast<I>(shifted) - 0x4b400000) << 23;
  const I bits = bit_cast<I>(p) + exponent;
  return x != x ? x : bit_cast<F>(bits);
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
  const F half_tail = p * t * exp_vec<W>(-z * z) * 0.5f;
  return x * (x < 0.0f ? half_tail : 1.0f - half_tail);
}

template <int W>
GOSSAMER_INLINE Vec<float, W> silu(Vec<float, W> x) {
  return x / (exp_vec<W>(-x) + 1.0f);
}

template <int W>
GOSSAMER_INLINE Vec<double, W> gelu(Vec<double, W> x) {
  Vec<double, W> y;
  for (int i = 0; i < W; ++i) y[i] = 0.5 * x[i] * __builtin_erfc(-x[i] * 0.70710678118654752);
  return y;
}

template <int W>
GOSSAMER_INLINE Vec<double, W> silu(Vec<double, W> x) {
  Vec<double, W> y;
  for (int i = 0; i < W; ++i) y[i] = x[i] / (1.0 + __builtin_exp(-x[i]));
  return y;
}

template <class T, int W>
GOSSAMER_INLINE Vec<T, W> activate(Vec<T, W> v, Activate activation, T lo, T hi) {
  using V = Vec<T, W>;
  switch (activation) {
    case Activate::none:
      return v;
    case Activate::gelu:
      return gelu<W>(v);
    case Activate::silu:
      return silu<W>(v);
    case Activate::relu:
      return v < T(0) ? V{} : v;
    case Activate::relu6:
    case Activate::clamp:
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
  const T lo = a.activation == Activate::relu6 ? T(0) : static_cast<T>(a.lo);
  const T hi = a.activation == Activate::relu6 ? T(6) : static_cast<T>(a.hi);
  const T shared_bias = bias != nullptr && !bias_per_element ? to_float(*bias) : T(0);
  for (std::int64_t j = 0; j < n; j += W) {
    const auto left = static_cast<int>(min_i64(W, n - j));
    if (left == W) {
      Vec<T> v = load<W>(sums + j);
      if (bias != nullptr) {
        v = v + (bias_per_element ? load_real<W>(bias + j) : broadcast<W>(shared_bias));
      }
      if (a.accumulate) v = v + load_real<W>(out + j);
      store_real<W>(out + j, activate<T, W>(v, a.activation, lo, hi));
    } else {
      // The same arithmetic on a padded vector, so that a tail's bits do not differ.
      T padded[W] = {}, extra[W] = {}, before[W] = {};
      for (int l = 0; l < left; ++l) {
        padded[l] = sums[j + l];
        if (bias != nullptr) extra[l] = bias_per_element ? to_float(bias[j + l]) : shared_bias;
        if (a.accumulate) before[l] = to_float(out[j + l]);
      }
      Vec<T> v = load<W>(padded);
      if (bias != nullptr) v = v + load<W>(extra);
      if (a.accumulate) v = v + load<W>(before);
      store<W>(padded, activate<T, W>(v, a.activation, lo, hi));
      for (int l = 0; l < left; ++l) assign(out[j + l], padded[l]);
    }
  }
}

template <class T, class S>
void store_direct(const StoreTileArgs& a) {
  const T* tile = static_cast<const T*>(a.tile);
  S* out = static_cast<S*>(a.out);
  const S* bias = static_cast<const S*>(a.bias);
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
    if (bias == nullptr && a.activation == Activate::none && !a.accumulate) {
      transpose_tile(tile, a.ld, a.rows, a.cols, out, a.stride);
      return;
    }
  }
  constexpr std::int64_t kRows = 16, kCols = 64;
  T staging[kCols * kRows];
  for (std::int64_t r = 0; r < a.rows; r += kRows) {
    const std::int64_t m = min_i64(kRows, a.rows - r);
    for (std::int64_t c = 0; c < a.cols; c += kCols) {
      const std::int64_t n = min_i64(kCols, a.cols - c);
      transpose_tile(tile + r * a.ld + c, a.ld, m, n, staging, kRows);
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

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
