#pragma once

// Scores and their keys, as docs/selection.md describes them: unsigned integers of which a larger
// one is selected earlier. Keys of 16-bit and 32-bit elements have 32 bits, of float64 ones 64.

#include <cstdint>

#include "base/kernels/numbers.cuh"
#include "gossamer/detail/philox.h"
#include "gossamer/prune/enums.h"

namespace gossamer::cuda {

/// A kind of score that the kernels of select_scan.cuh alone know: random keys
/// (gossamer/detail/philox.h) as double, which has room for their 40 bits.
inline constexpr auto kRandomKey = static_cast<prune::ScoreKind>(0xff);

/// A score of each element of w (gossamer/prune/score.h). Operands that the kind does not read are
/// null.
struct ScoreArgs {
  const void* w;
  const void* g;
  const void* m;
  const void* v;
  const void* col;
  std::int64_t columns, column;  // of col, and the first element's; its number for random keys
  union {
    double alpha;
    std::uint64_t seed;
  };
  union {
    double beta;
    std::uint64_t step;
  };
  double eps, scale;
  prune::ScoreKind kind;
  DType w_type, g_type, m_type, v_type, col_type;
};

/// Element i of an operand, converted to S.
template <class S>
__device__ inline S operand(const void* data, DType type, std::int64_t i) {
  switch (type) {
    case DType::f64:
      return static_cast<S>(static_cast<const double*>(data)[i]);
    case DType::f16:
      return static_cast<S>(widen(static_cast<const __half*>(data)[i]));
    case DType::bf16:
      return static_cast<S>(widen(static_cast<const __nv_bfloat16*>(data)[i]));
    default:
      return static_cast<S>(static_cast<const float*>(data)[i]);
  }
}

/// Products that are not contracted into what is added to them: the CPU's bits.
__device__ inline float times(float a, float b) { return __fmul_rn(a, b); }
__device__ inline double times(double a, double b) { return __dmul_rn(a, b); }

/// E|x|/√Var|x| of x ~ N(mean, deviation²), as on the CPU.
__device__ inline double snr_abs(double mean, double deviation) {
  const double t = fabs(mean) / deviation;
  if (deviation == 0.0) return mean == 0.0 ? 0.0 : fabs(mean) * INFINITY;
  const double density = times(0.39894228040143267794, exp(times(-0.5, times(t, t))));
  const double d = times(2.0, density) - times(t, erfc(times(t, 0.70710678118654752440)));
  return (t + d) / sqrt(1.0 - times(d, times(2.0, t) + d));
}

/// The random key of element i.
__device__ inline double random_key(std::uint64_t seed, std::uint64_t step, std::uint64_t i) {
  const detail::Philox shared = detail::philox(i / 16, step, seed);
  const unsigned low = (i & 4) != 0 ? shared.word[1] : shared.word[0];
  const unsigned high = (i & 4) != 0 ? shared.word[3] : shared.word[2];
  const unsigned byte = ((i & 8) != 0 ? high : low) >> (8 * (i & 3)) & 0xffu;
  const unsigned tail = detail::philox(detail::kKeyTails + i, step, seed).word[0];
  return static_cast<double>(std::uint64_t{byte} << detail::kTailBits | tail);
}

/// The score of element i in S, float or double. `Random` adds the random keys, for which kernels
/// that are short of registers would spill. Not inlined: the selections read sixteen elements a
/// thread.
template <class S, bool Random = false>
__device__ __attribute__((noinline)) S score_at(const ScoreArgs& a, std::int64_t i) {
  const auto root = [](S x) { return static_cast<S>(sqrt(x)); };
  const auto w = [&] { return operand<S>(a.w, a.w_type, i); };
  const auto g = [&] { return operand<S>(a.g, a.g_type, i); };
  const auto m = [&] { return operand<S>(a.m, a.m_type, i); };
  const auto v = [&] { return operand<S>(a.v, a.v_type, i); };
  const auto col = [&] { return operand<S>(a.col, a.col_type, (i + a.column) % a.columns); };
  S score = 0;
  if constexpr (Random && sizeof(S) == 8) {
    if (a.kind == kRandomKey) {
      return random_key(a.seed, a.step, static_cast<std::uint64_t>(i + a.column));
    }
  }
  switch (a.kind) {
    case prune::ScoreKind::value:
      score = w();
      break;
    case prune::ScoreKind::magnitude:
      score = fabs(w());
      break;
    case prune::ScoreKind::snip:
      score = fabs(times(w(), g()));
      break;
    case prune::ScoreKind::taylor2: {
      const S product = times(w(), g());
      score = times(product, product);
      break;
    }
    case prune::ScoreKind::sign:
      score = times(w(), g());
      break;
    case prune::ScoreKind::wanda:
      score = times(fabs(w()), root(col()));
      break;
    case prune::ScoreKind::obs: {
      const S ratio = w() / col();
      score = times(ratio, ratio);
      break;
    }
    case prune::ScoreKind::adam:
      score = fabs(m()) / (root(v()) + static_cast<S>(a.eps));
      break;
    case prune::ScoreKind::sum3:
      score = fabs(w());
      if (a.g != nullptr) score += times(static_cast<S>(a.alpha), fabs(g()));
      if (a.m != nullptr) score += times(static_cast<S>(a.beta), fabs(m()));
      break;
    case prune::ScoreKind::zo: {
      const S x = w(), y = g();
      score = times(times(x, x), times(y, y));
      break;
    }
    case prune::ScoreKind::snr_abs:
      score = static_cast<S>(snr_abs(static_cast<double>(w()), static_cast<double>(v())));
      break;
  }
  return a.scale == 1.0 ? score : times(score, static_cast<S>(a.scale));
}

/// How elements become keys.
template <class K>
struct KeyMap {
  K sign;      // the bit of the sign
  K infinity;  // its bits
  K nan;       // the key of NaN
  K flip;      // exclusive-or'ed with the keys of numbers: reverses the order
  K top;       // the greatest key
};

template <class K>
__device__ inline K key_of(K bits, bool magnitude, const KeyMap<K>& map) {
  const K size = bits & static_cast<K>(map.sign - 1);
  if (size > map.infinity) return map.nan;
  return (magnitude || (bits & map.sign) == 0 ? map.sign + size : map.sign - size) ^ map.flip;
}

/// Elements of one array of a selection.
struct SelectPart {
  ScoreArgs score;
  std::int64_t count;
  const std::uint8_t* within;  // may be null: all are eligible
  std::uint8_t* mask;          // bytes, or packed bits; may be null: none are marked
  std::int64_t first_tile;     // of all parts' tiles
  std::int64_t first;          // of all parts' elements
  bool direct;                 // keys are made of w's bits
  bool magnitude;              // of their magnitudes
  bool wide;                   // w, within and mask may be accessed 16 bytes at a time
};

__device__ inline unsigned bits_of(float x) { return __float_as_uint(x); }
__device__ inline unsigned long long bits_of(double x) {
  return static_cast<unsigned long long>(__double_as_longlong(x));
}

template <class K>
struct ScoreOf {
  using type = float;
};
template <>
struct ScoreOf<unsigned long long> {
  using type = double;
};

/// The key of element i; `Random` as of score_at.
template <bool Random = false, class K>
__device__ inline K key_at(const SelectPart& part, const KeyMap<K>& map, std::int64_t i) {
  if (!part.direct) {
    const auto score = score_at<typename ScoreOf<K>::type, Random>(part.score, i);
    return key_of<K>(bits_of(score), false, map);
  }
  if constexpr (sizeof(K) == 4) {
    if (part.score.w_type != DType::f32) {
      return key_of<K>(static_cast<const std::uint16_t*>(part.score.w)[i], part.magnitude, map);
    }
  }
  return key_of<K>(static_cast<const K*>(part.score.w)[i], part.magnitude, map);
}

}  // namespace gossamer::cuda
