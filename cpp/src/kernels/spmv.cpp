// y = A · x, row after row: gathered x times values, two vectors of partial sums (eight scalar ones
// below AVX-512, where a gather instruction is no faster than the loads it stands for).

#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

constexpr std::int64_t kAhead = 512;  // entries

template <int W, class T>
GOSSAMER_INLINE T sum_lanes(Vec<T, W> v) {
#if defined(GOSSAMER_AVX512)
  if constexpr (sizeof(T) == 4) {
    return _mm512_reduce_add_ps(bit_cast<__m512>(v));
  } else {
    return _mm512_reduce_add_pd(bit_cast<__m512d>(v));
  }
#else
  T part[W];
  store<W>(part, v);
  for (int h = W / 2; h > 0; h /= 2) {
    for (int i = 0; i < h; ++i) part[i] += part[i + h];
  }
  return part[0];
#endif
}

#if defined(GOSSAMER_AVX512)
GOSSAMER_INLINE Vec<float, 16> gather(const float* x, const std::int32_t* indices) {
  return bit_cast<Vec<float, 16>>(_mm512_i32gather_ps(_mm512_loadu_si512(indices), x, 4));
}
GOSSAMER_INLINE Vec<float, 16> gather(const float* x, const std::uint16_t* indices) {
  const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices));
  return bit_cast<Vec<float, 16>>(_mm512_i32gather_ps(_mm512_cvtepu16_epi32(narrow), x, 4));
}
GOSSAMER_INLINE Vec<double, 8> gather(const double* x, const std::int32_t* indices) {
  const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices));
  return bit_cast<Vec<double, 8>>(_mm512_i32gather_pd(narrow, x, 8));
}
#endif

#if defined(GOSSAMER_AVX512)
/// sum + values · x[indices] over the `left` < 16 entries at the end of a row.
GOSSAMER_INLINE Vec<float, 16> add_last(Vec<float, 16> sum, const float* values, const float* x,
                                        const std::int32_t* indices, int left) {
  const auto mask = static_cast<__mmask16>((1 << left) - 1);
  const __m512i index = _mm512_maskz_loadu_epi32(mask, indices);
  const __m512 picked = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, x, 4);
  return bit_cast<Vec<float, 16>>(_mm512_mask3_fmadd_ps(_mm512_maskz_loadu_ps(mask, values), picked,
                                                        bit_cast<__m512>(sum), mask));
}
GOSSAMER_INLINE Vec<float, 16> add_last(Vec<float, 16> sum, const float* values, const float* x,
                                        const std::uint16_t* indices, int left) {
  const auto mask = static_cast<__mmask16>((1 << left) - 1);
  const __m512i index = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, indices));
  const __m512 picked = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, x, 4);
  return bit_cast<Vec<float, 16>>(_mm512_mask3_fmadd_ps(_mm512_maskz_loadu_ps(mask, values), picked,
                                                        bit_cast<__m512>(sum), mask));
}
#endif

template <class T, class I>
GOSSAMER_INLINE Vec<T> gather(const T* x, const I* indices) {
  Vec<T> v;
  for (int i = 0; i < kLanes<T>; ++i) v[i] = x[indices[i]];
  return v;
}

template <class T, class P, class I, class S>
void rows(const SpmvArgs& a) {
  constexpr int W = kLanes<T>;
  // 32 bytes of sums and more: enough chains to hide the latency of the addition.
  constexpr int U = kVectorBytes == 64 ? 2 : 4;
  const P* indptr = static_cast<const P*>(a.indptr);
  const I* indices = static_cast<const I*>(a.indices);
  const S* values = static_cast<const S*>(a.values);
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  for (std::int64_t i = a.row0; i < a.row1; ++i) {
    std::int64_t p = indptr[i];
    const std::int64_t end = indptr[i + 1];
    Vec<T> sum[U] = {};
    for (; p + U * W <= end; p += U * W) {
      __builtin_prefetch(indices + p + kAhead);
      __builtin_prefetch(values + p + kAhead);
      __builtin_prefetch(values + p + kAhead + U * W / 2);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) {
        sum[u] += load_real<W>(values + p + u * W) * gather(x, indices + p + u * W);
      }
    }
    for (; p + W <= end; p += W) sum[0] += load_real<W>(values + p) * gather(x, indices + p);
    Vec<T> total = sum[0];
    for (int u = 1; u < U; ++u) total = total + sum[u];
    T tail = 0;
#if defined(GOSSAMER_AVX512)
    if constexpr (sizeof(S) == 4 && sizeof(I) <= 4) {
      if (p < end) total = add_last(total, values + p, x, indices + p, static_cast<int>(end - p));
      p = end;
    }
#endif
    for (; p < end; ++p) tail += to_float(values[p]) * x[indices[p]];
    y[i] = sum_lanes<W, T>(total) + tail;
  }
}

}  // namespace

void spmv(const SpmvArgs& a);
void spmv(const SpmvArgs& a) {
  with_index_kind(a.kind, [&](auto pointer, auto index) {
    using P = typename decltype(pointer)::type;
    using I = typename decltype(index)::type;
    with_float_type(a.value_type, [&](auto stored) {
      using S = typename decltype(stored)::type;
      if constexpr (sizeof(S) == 8) {
        rows<double, P, I, S>(a);
      } else {
        rows<float, P, I, S>(a);
      }
    });
  });
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
