#pragma once

// Vectors as wide as the instruction set level that the file is compiled for, on the compiler's
// vector extension: kernels use plain operators and are the same source at every level. Operations
// that have no operator (conversions, transposes) are here. Everything is in an anonymous
// namespace: a kernel object must not define symbols that the linker could choose for code that
// runs on lesser machines.

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "simd/types.h"

#define GOSSAMER_INLINE __attribute__((always_inline)) inline

namespace gossamer::detail {
namespace {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define GOSSAMER_AVX512 1
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define GOSSAMER_AVX2 1
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

constexpr int min_int(int a, int b) { return a < b ? a : b; }
constexpr std::int64_t min_i64(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

template <class T, int W>
struct VecTypes {
  typedef T aligned __attribute__((vector_size(W * sizeof(T))));
  typedef T unaligned __attribute__((vector_size(W * sizeof(T)), aligned(alignof(T)), may_alias));
};

/// W lanes of T. Hot code keeps W * sizeof(T) within kVectorBytes.
template <class T, int W = kLanes<T>>
using Vec = typename VecTypes<T, W>::aligned;

template <int W, class T>
GOSSAMER_INLINE Vec<T, W> load(const T* p) {
  return *reinterpret_cast<const typename VecTypes<T, W>::unaligned*>(p);
}

template <int W, class T>
GOSSAMER_INLINE void store(T* p, Vec<T, W> v) {
  *reinterpret_cast<typename VecTypes<T, W>::unaligned*>(p) = v;
}

template <int W, class T>
GOSSAMER_INLINE Vec<T, W> broadcast(T x) {
  return x - Vec<T, W>{};
}

/// a·b + c of vectors of kVectorBytes, rounded once where the level can. What the compiler makes of
/// the operators may be either, so sums that must not depend on the code around them take this.
template <class T>
GOSSAMER_INLINE Vec<T> multiply_add(Vec<T> a, Vec<T> b, Vec<T> c) {
#if defined(GOSSAMER_AVX512)
  if constexpr (sizeof(T) == 4) return Vec<T>(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
  if constexpr (sizeof(T) == 8) return Vec<T>(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(c)));
#elif defined(GOSSAMER_AVX2)
  if constexpr (sizeof(T) == 4) return Vec<T>(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
  if constexpr (sizeof(T) == 8) return Vec<T>(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(c)));
#elif defined(__aarch64__)
  if constexpr (sizeof(T) == 4) {
    return Vec<T>(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)));
  }
  if constexpr (sizeof(T) == 8) {
    return Vec<T>(vfmaq_f64(float64x2_t(c), float64x2_t(a), float64x2_t(b)));
  }
#else
  return a * b + c;
#endif
}

/// The 16-bit floating types as they are stored.
struct f16_t {
  std::uint16_t bits;
};
struct bf16_t {
  std::uint16_t bits;
};

template <class To, class From>
GOSSAMER_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

GOSSAMER_INLINE float to_float(float x) { return x; }
GOSSAMER_INLINE double to_float(double x) { return x; }
GOSSAMER_INLINE float to_float(bf16_t x) {
  return bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}
GOSSAMER_INLINE float to_float(f16_t x) {
#if defined(__F16C__)
  return _cvtsh_ss(x.bits);
#elif defined(__aarch64__)
  return bit_cast<__fp16>(x.bits);
#else
  // Multiplying by 2^112 rebiases the exponent from half to single, for subnormals too.
  const std::uint32_t magnitude = (x.bits & 0x7fffu) << 13;
  float value = bit_cast<float>(magnitude) * bit_cast<float>(0x77800000u);
  if ((x.bits & 0x7c00u) == 0x7c00u) value = bit_cast<float>(magnitude | 0x7f800000u);
  return bit_cast<float>(bit_cast<std::uint32_t>(value) | ((x.bits & 0x8000u) << 16));
#endif
}

/// All conversions here round to nearest, ties to even, and keep NaN.
GOSSAMER_INLINE bf16_t to_bf16(float x) {
  const std::uint32_t u = bit_cast<std::uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}
GOSSAMER_INLINE f16_t to_f16(float x) {
#if defined(__F16C__)
  return {static_cast<std::uint16_t>(_cvtss_sh(x, 0))};
#elif defined(__aarch64__)
  return bit_cast<f16_t>(static_cast<__fp16>(x));
#else
  const std::uint32_t u = bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
  const std::uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
  std::uint32_t half = 0;
  if (magnitude < 0x38800000u) {
    // After adding 0.5, the lowest bits of the mantissa are those of the rounded subnormal.
    const float shifted = bit_cast<float>(magnitude) + 0.5f;
    half = bit_cast<std::uint32_t>(shifted) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | half)};
#endif
}

GOSSAMER_INLINE void assign(float& to, float x) { to = x; }
GOSSAMER_INLINE void assign(double& to, double x) { to = x; }
GOSSAMER_INLINE void assign(bf16_t& to, float x) { to = to_bf16(x); }
GOSSAMER_INLINE void assign(f16_t& to, float x) { to = to_f16(x); }

/// Loads W elements of storage type S, converted to the type that sums are kept in.
template <int W>
GOSSAMER_INLINE Vec<float, W> load_real(const float* p) {
  return load<W>(p);
}
template <int W>
GOSSAMER_INLINE Vec<double, W> load_real(const double* p) {
  return load<W>(p);
}
template <int W>
GOSSAMER_INLINE Vec<float, W> load_real(const bf16_t* p) {
  // GCC 12 widens a vector in halves, of which each takes an instruction, and puts them together.
#if defined(__AVX2__)
  if constexpr (W == 8) {
    return reinterpret_cast<Vec<float, W>>(_mm256_slli_epi32(
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
#endif
#if defined(GOSSAMER_AVX512)
  if constexpr (W == 16) {
    return reinterpret_cast<Vec<float, W>>(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
#endif
  const auto raw = load<W>(reinterpret_cast<const std::uint16_t*>(p));
  const auto wide = __builtin_convertvector(raw, Vec<std::uint32_t, W>) << 16;
  return bit_cast<Vec<float, W>>(wide);
}
template <int W>
GOSSAMER_INLINE Vec<float, W> load_real(const f16_t* p) {
#if defined(__F16C__)
  if constexpr (W == 8) {
    return reinterpret_cast<Vec<float, W>>(
        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
#endif
#if defined(GOSSAMER_AVX512)
  if constexpr (W == 16) {
    return reinterpret_cast<Vec<float, W>>(
        _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
  }
#endif
#if defined(__aarch64__)
  if constexpr (W == 4) {
    const uint16x4_t raw = vld1_u16(reinterpret_cast<const std::uint16_t*>(p));
    return bit_cast<Vec<float, W>>(vcvt_f32_f16(vreinterpret_f16_u16(raw)));
  }
#endif
  Vec<float, W> v;
  for (int i = 0; i < W; ++i) v[i] = to_float(p[i]);
  return v;
}

template <int W>
GOSSAMER_INLINE void store_real(float* p, Vec<float, W> v) {
  store<W>(p, v);
}
template <int W>
GOSSAMER_INLINE void store_real(double* p, Vec<double, W> v) {
  store<W>(p, v);
}
template <int W>
GOSSAMER_INLINE void store_real(bf16_t* p, Vec<float, W> v) {
  const auto u = bit_cast<Vec<std::uint32_t, W>>(v);
  const auto rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const auto quiet = (u >> 16) | 0x40u;
  const auto result = (u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
  store<W>(reinterpret_cast<std::uint16_t*>(p),
           __builtin_convertvector(result, Vec<std::uint16_t, W>));
}
template <int W>
GOSSAMER_INLINE void store_real(f16_t* p, Vec<float, W> v) {
#if defined(__F16C__)
  if constexpr (W == 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(reinterpret_cast<__m256>(v), 0));
    return;
  }
#endif
#if defined(GOSSAMER_AVX512)
  if constexpr (W == 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(reinterpret_cast<__m512>(v), 0));
    return;
  }
#endif
#if defined(__aarch64__)
  if constexpr (W == 4) {
    const uint16x4_t half = vreinterpret_u16_f16(vcvt_f16_f32(bit_cast<float32x4_t>(v)));
    vst1_u16(reinterpret_cast<std::uint16_t*>(p), half);
    return;
  }
#endif
  for (int i = 0; i < W; ++i) p[i] = to_f16(v[i]);
}

/// Loads the first `left` < W elements of p and fills the lanes after them with zeros. Reads
/// nothing behind them.
template <int W, class S>
GOSSAMER_INLINE auto load_first(const S* p, int left) {
#if defined(GOSSAMER_AVX512)
  if constexpr (W == 16 && sizeof(S) == 4) {
    return bit_cast<Vec<float, W>>(
        _mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << left) - 1), p));
  } else
#endif
  {
    S part[W] = {};
    for (int i = 0; i < left; ++i) part[i] = p[i];
    return load_real<W>(part);
  }
}

/// Stores the first `left` < W lanes, converted to S.
template <int W, class S, class V>
GOSSAMER_INLINE void store_first(S* p, V v, int left) {
#if defined(GOSSAMER_AVX512)
  if constexpr (W == 16 && sizeof(S) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1 << left) - 1), bit_cast<__m512>(v));
    return;
  }
#endif
  S part[W];
  store_real<W>(part, v);
  for (int i = 0; i < left; ++i) p[i] = part[i];
}

/// Is any lane of a comparison's result set?
template <class V>
GOSSAMER_INLINE bool any(V set) {
#if defined(GOSSAMER_AVX512)
  if constexpr (sizeof set == 64) {
    const auto wide = bit_cast<__m512i>(set);
    return _mm512_test_epi64_mask(wide, wide) != 0;
  }
#endif
  std::uint64_t words[sizeof(V) / 8], all = 0;
  __builtin_memcpy(words, &set, sizeof set);
  for (const std::uint64_t word : words) all |= word;
  return all != 0;
}

/// A type as a function argument.
template <class T>
struct Type {
  using type = T;
};

/// Calls f(Type<T>) with the element type T of a floating DType.
template <class F>
GOSSAMER_INLINE void with_float_type(DType type, F&& f) {
  switch (type) {
    case DType::f64:
      f(Type<double>{});
      break;
    case DType::f16:
      f(Type<f16_t>{});
      break;
    case DType::bf16:
      f(Type<bf16_t>{});
      break;
    default:
      f(Type<float>{});
      break;
  }
}

/// Lane numbers 0, …, N - 1 as template arguments, since kernels do not include <utility>.
template <int... I>
struct Lanes {};
template <int N, int... I>
struct MakeLanes : MakeLanes<N - 1, N - 1, I...> {};
template <int... I>
struct MakeLanes<0, I...> {
  using type = Lanes<I...>;
};

template <int H, class V, int... I>
GOSSAMER_INLINE void exchange_halves(V& a, V& b, Lanes<I...>) {
  constexpr int n = static_cast<int>(sizeof...(I));
  const V lo = __builtin_shufflevector(a, b, ((I & H) == 0 ? I : n + I - H)...);
  const V hi = __builtin_shufflevector(a, b, ((I & H) == 0 ? I + H : n + I)...);
  a = lo;
  b = hi;
}

/// Transposes B vectors of B lanes in log2(B) rounds; each exchanges the off-diagonal blocks of
/// half the size.
template <int B, int H = B / 2, class V>
GOSSAMER_INLINE void transpose_registers(V (&r)[B]) {
  for (int i = 0; i < B; ++i) {
    if ((i & H) == 0) exchange_halves<H>(r[i], r[i + H], typename MakeLanes<B>::type{});
  }
  if constexpr (H > 1) transpose_registers<B, H / 2>(r);
}

/// Lane l of the result is the sum over all lanes of v[l].
template <class T, int W>
GOSSAMER_INLINE Vec<T, 4> sum_lanes4(Vec<T, W> (&v)[4]) {
  if constexpr (W >= 4) {
    using L = typename MakeLanes<W>::type;
    exchange_halves<1>(v[0], v[1], L{});
    exchange_halves<1>(v[2], v[3], L{});
    Vec<T, W> low = v[0] + v[1], high = v[2] + v[3];
    exchange_halves<2>(low, high, L{});
    T part[W];
    store<W>(part, low + high);
    Vec<T, 4> sum = load<4>(part);
    if constexpr (W == 8) sum = sum + load<4>(part + 4);
    if constexpr (W == 16) {
      sum = (sum + load<4>(part + 8)) + (load<4>(part + 4) + load<4>(part + 12));
    }
    return sum;
  } else {
    return Vec<T, 4>{v[0][0] + v[0][1], v[1][0] + v[1][1], v[2][0] + v[2][1], v[3][0] + v[3][1]};
  }
}

/// dst[j*ld + i] = src[i*stride + j], converted to T, for a B x B block.
template <int B, class T, class S>
GOSSAMER_INLINE void transpose_block(const S* src, std::int64_t stride, T* dst, std::int64_t ld) {
  Vec<T, B> r[B];
#pragma GCC unroll 16
  for (int i = 0; i < B; ++i) r[i] = load_real<B>(src + i * stride);
  transpose_registers<B>(r);
#pragma GCC unroll 16
  for (int i = 0; i < B; ++i) store<B>(dst + i * ld, r[i]);
}

/// dst[j*ld + i] = src[i*stride + j], converted to T, for i < m and j < n.
template <class T, class S>
GOSSAMER_INLINE void transpose_tile(const S* src, std::int64_t stride, std::int64_t m,
                                    std::int64_t n, T* dst, std::int64_t ld) {
  constexpr int B = kLanes<T>;
  constexpr int H = B / 2;
  std::int64_t i = 0;
  for (; i + B <= m; i += B) {
    std::int64_t j = 0;
    for (; j + B <= n; j += B) {
      transpose_block<B>(src + i * stride + j, stride, dst + j * ld + i, ld);
    }
    for (; j < n; ++j) {
      for (int l = 0; l < B; ++l) assign(dst[j * ld + i + l], to_float(src[(i + l) * stride + j]));
    }
  }
  for (; i + H <= m; i += H) {
    std::int64_t j = 0;
    for (; j + H <= n; j += H) {
      transpose_block<H>(src + i * stride + j, stride, dst + j * ld + i, ld);
    }
    for (; j < n; ++j) {
      for (int l = 0; l < H; ++l) assign(dst[j * ld + i + l], to_float(src[(i + l) * stride + j]));
    }
  }
  for (; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) assign(dst[j * ld + i], to_float(src[i * stride + j]));
  }
}

/// Calls f(values, offset, n) for consecutive parts of the entries [begin, end), as T: the stored
/// values themselves where their type is T, else converted in chunks. values[0] is entry `offset`.
template <class T, class F>
GOSSAMER_INLINE void for_values(const void* values, DType type, std::int64_t begin,
                                std::int64_t end, F&& f) {
  if (sizeof(T) == 8 || type == DType::f32) {
    f(static_cast<const T*>(values) + begin, begin, end - begin);
    return;
  }
  if constexpr (sizeof(T) == 4) {
    constexpr int W = kLanes<float>;
    constexpr std::int64_t kChunk = 512;
    T chunk[kChunk];
    for (std::int64_t p = begin; p < end; p += kChunk) {
      const std::int64_t n = min_i64(kChunk, end - p);
      with_float_type(type, [&](auto stored) {
        using S = typename decltype(stored)::type;
        if constexpr (sizeof(S) == 2) {
          const S* from = static_cast<const S*>(values) + p;
          std::int64_t i = 0;
          for (; i + W <= n; i += W) store<W>(chunk + i, load_real<W>(from + i));
          for (; i < n; ++i) chunk[i] = to_float(from[i]);
        }
      });
      f(static_cast<const T*>(chunk), p, n);
    }
  }
}

/// Calls f(Type<row pointer>, Type<index>) with the types that an IndexKind names.
template <class F>
GOSSAMER_INLINE void with_index_kind(IndexKind kind, F&& f) {
  switch (kind) {
    case IndexKind::i32_u16:
      f(Type<std::int32_t>{}, Type<std::uint16_t>{});
      break;
    case IndexKind::i32_i32:
      f(Type<std::int32_t>{}, Type<std::int32_t>{});
      break;
    case IndexKind::i64_i64:
      f(Type<std::int64_t>{}, Type<std::int64_t>{});
      break;
  }
}

/// A compile-time integer as a function argument.
template <int N>
struct Int {
  static constexpr int value = N;
};

/// Calls f(Int<width>) with one of kTileWidths.
template <class F>
GOSSAMER_INLINE void with_tile(int tile, F&& f) {
  switch (tile) {
    case 8:
      f(Int<8>{});
      break;
    case 16:
      f(Int<16>{});
      break;
    case 32:
      f(Int<32>{});
      break;
    default:
      f(Int<64>{});
      break;
  }
}

}  // namespace
}  // namespace gossamer::detail
