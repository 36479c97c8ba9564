// Evaluates scores in chunks that stay in the L1 cache: operands of other types are converted into
// buffers first, so that the formula runs over plain arrays of one type.

#include "prune/score/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr std::int64_t kChunk = 256;

GOSSAMER_INLINE float root(float x) { return __builtin_sqrtf(x); }
GOSSAMER_INLINE double root(double x) { return __builtin_sqrt(x); }
GOSSAMER_INLINE float magnitude(float x) { return __builtin_fabsf(x); }
GOSSAMER_INLINE double magnitude(double x) { return __builtin_fabs(x); }

/// Elements [first, first + n) of an operand as T: the array itself if it has this type, else
/// converted into `chunk`.
template <class T>
const T* fetch(const void* data, DType type, std::int64_t first, std::int64_t n, T* chunk) {
  if (data == nullptr) return nullptr;
  const T* result = chunk;
  with_float_type(type, [&](auto stored) {
    using S = typename decltype(stored)::type;
    const S* from = static_cast<const S*>(data) + first;
    if constexpr (sizeof(S) == sizeof(T)) {
      result = reinterpret_cast<const T*>(from);
    } else if constexpr (sizeof(S) < sizeof(T)) {
      std::int64_t i = 0;
      if constexpr (sizeof(T) == 4) {
        constexpr int W = kLanes<float>;
        for (; i + W <= n; i += W) store<W>(chunk + i, load_real<W>(from + i));
      }
      for (; i < n; ++i) chunk[i] = static_cast<T>(to_float(from[i]));
    }
  });
  return result;
}

/// E|x|/√Var|x| of x ~ N(mean, deviation²). With t = |mean|/deviation and d = E|x|/deviation - t,
/// the variance divided by deviation² is 1 - d(2t + d), which is no difference of large squares.
GOSSAMER_INLINE double snr(double mean, double deviation) {
  const double t = __builtin_fabs(mean) / deviation;
  if (deviation == 0.0) return mean == 0.0 ? 0.0 : __builtin_fabs(mean) * __builtin_inf();
  const double density = 0.39894228040143267794 * __builtin_exp(-0.5 * t * t);
  const double d = 2.0 * density - t * __builtin_erfc(t * 0.70710678118654752440);
  return (t + d) / __builtin_sqrt(1.0 - d * (2.0 * t + d));
}

template <class T, class F>
GOSSAMER_INLINE void each(std::int64_t n, T* out, F&& f) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = f(i);
}

template <class T>
void formula(const ScoreTileArgs& a, std::int64_t n, const T* w, const T* g, const T* m, const T* v,
             const T* factor, T* __restrict out) {
  const T alpha = static_cast<T>(a.alpha), beta = static_cast<T>(a.beta);
  const T eps = static_cast<T>(a.eps);
  switch (a.kind) {
    case prune::ScoreKind::value:
      return each(n, out, [=](std::int64_t i) { return w[i]; });
    case prune::ScoreKind::magnitude:
      return each(n, out, [=](std::int64_t i) { return magnitude(w[i]); });
    case prune::ScoreKind::snip:
      return each(n, out, [=](std::int64_t i) { return magnitude(w[i] * g[i]); });
    case prune::ScoreKind::taylor2:
      return each(n, out, [=](std::int64_t i) { return (w[i] * g[i]) * (w[i] * g[i]); });
    case prune::ScoreKind::sign:
      return each(n, out, [=](std::int64_t i) { return w[i] * g[i]; });
    case prune::ScoreKind::wanda:
      return each(n, out, [=](std::int64_t i) { return magnitude(w[i]) * factor[i]; });
    case prune::ScoreKind::obs:
      return each(n, out, [=](std::int64_t i) {
        const T ratio = w[i] / factor[i];
        return ratio * ratio;
      });
    case prune::ScoreKind::adam:
      return each(n, out, [=](std::int64_t i) { return magnitude(m[i]) / (root(v[i]) + eps); });
    case prune::ScoreKind::sum3:
      each(n, out, [=](std::int64_t i) { return magnitude(w[i]); });
      if (g != nullptr) {
        each(n, out, [=](std::int64_t i) { return out[i] + alpha * magnitude(g[i]); });
      }
      if (m != nullptr) {
        each(n, out, [=](std::int64_t i) { return out[i] + beta * magnitude(m[i]); });
      }
      return;
    case prune::ScoreKind::zo:
      return each(n, out, [=](std::int64_t i) { return (w[i] * w[i]) * (g[i] * g[i]); });
    case prune::ScoreKind::snr_abs:
      return each(n, out, [=](std::int64_t i) { return static_cast<T>(snr(w[i], v[i])); });
  }
}

template <class T>
void tile(const ScoreTileArgs& a) {
  alignas(64) T buffers[4][kChunk];
  std::int64_t column = a.column;
  for (std::int64_t i = 0; i < a.count;) {
    std::int64_t n = min_i64(kChunk, a.count - i);
    const T* factor = nullptr;
    if (a.factor != nullptr) {
      n = min_i64(n, a.columns - column);
      factor = static_cast<const T*>(a.factor) + column;
      column = column + n == a.columns ? 0 : column + n;
    }
    T* out = static_cast<T*>(a.out) + i;
    formula<T>(a, n, fetch<T>(a.w, a.w_type, i, n, buffers[0]),
               fetch<T>(a.g, a.g_type, i, n, buffers[1]), fetch<T>(a.m, a.m_type, i, n, buffers[2]),
               fetch<T>(a.v, a.v_type, i, n, buffers[3]), factor, out);
    if (a.scale != 1.0) {
      const T scale = static_cast<T>(a.scale);
      for (std::int64_t e = 0; e < n; ++e) out[e] *= scale;
    }
    i += n;
  }
}

template <class T>
void factors(const ScoreFactorArgs& a) {
  T chunk[kChunk];
  T* out = static_cast<T*>(a.out);
  for (std::int64_t i = 0; i < a.count; i += kChunk) {
    const std::int64_t n = min_i64(kChunk, a.count - i);
    const T* x = fetch<T>(a.x, a.type, i, n, chunk);
    for (std::int64_t e = 0; e < n; ++e) out[i + e] = a.root ? root(x[e]) : x[e];
  }
}

}  // namespace

void score_tile(const ScoreTileArgs& a);
void score_tile(const ScoreTileArgs& a) {
  if (a.f64) {
    tile<double>(a);
  } else {
    tile<float>(a);
  }
}

void score_factor(const ScoreFactorArgs& a);
void score_factor(const ScoreFactorArgs& a) {
  if (a.f64) {
    factors<double>(a);
  } else {
    factors<float>(a);
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
