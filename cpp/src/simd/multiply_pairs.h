#pragma once

// Products of small dense matrices of pairs of bfloat16, each in 32 bits: what
// multiply.h does, two elements of the depth at a time.

#include "simd/multiply.h"

namespace gossamer::detail {
namespace {

/// sum + the products of two pairs in each lane.
#if defined(GOSSAMER_AVX512)
#define GOSSAMER_PAIRS __attribute__((target("avx512bf16")))
GOSSAMER_PAIRS GOSSAMER_INLINE Vec<float> add_pairs(Vec<float> sum, Vec<float> a, Vec<float> b) {
  return bit_cast<Vec<float>>(
      _mm512_dpbf16_ps(bit_cast<__m512>(sum), bit_cast<__m512bh>(a), bit_cast<__m512bh>(b)));
}
#elif defined(__aarch64__)
#define GOSSAMER_PAIRS __attribute__((target("arch=armv8.2-a+bf16")))
GOSSAMER_PAIRS GOSSAMER_INLINE Vec<float> add_pairs(Vec<float> sum, Vec<float> a, Vec<float> b) {
  return bit_cast<Vec<float>>(vbfdotq_f32(bit_cast<float32x4_t>(sum), bit_cast<bfloat16x8_t>(a),
                                          bit_cast<bfloat16x8_t>(b)));
}
#endif

#if defined(GOSSAMER_PAIRS)
/// c [R, J vectors] (+)= a [R, depth] · b [depth, J vectors], both pairs of bfloat16.
template <int R, int J, bool Add>
GOSSAMER_PAIRS __attribute__((noinline)) void multiply_pairs(const float* a, std::int64_t lda,
                                                             const float* b, std::int64_t ldb,
                                                             std::int64_t depth, float* c,
                                                             std::int64_t ldc) {
  constexpr int W = kLanes<float>;
  Vec<float> sum[R][J];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) sum[r][j] = Add ? load<W>(c + r * ldc + j * W) : Vec<float>{};
  }
  for (std::int64_t k = 0; k < depth; ++k, b += ldb, ++a) {
    Vec<float> from[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) from[j] = load<W>(b + j * W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec<float> pair = broadcast<W>(a[r * lda]);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sum[r][j] = add_pairs(sum[r][j], pair, from[j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) store<W>(c + r * ldc + j * W, sum[r][j]);
  }
}

template <int R, int J, bool Add, class Between>
void multiply_pair_rows(std::int64_t rows, const float* a, std::int64_t lda, const float* b,
                        std::int64_t ldb, std::int64_t depth, float* c, std::int64_t ldc,
                        Between& between) {
  for (; rows >= R; rows -= R, a += R * lda, c += R * ldc) {
    between();
    multiply_pairs<R, J, Add>(a, lda, b, ldb, depth, c, ldc);
  }
  if constexpr (R > 1) {
    if (rows > 0) multiply_pair_rows<R / 2, J, Add>(rows, a, lda, b, ldb, depth, c, ldc, between);
  }
}
#endif

/// v rounded to bfloat16, side by side, in half of the vector's bytes, where products of pairs are.
GOSSAMER_INLINE void store_for_pairs(float* to, Vec<float> v) {
#if defined(GOSSAMER_AVX512)
  // The instruction takes subnormal numbers for zeros, as those that multiply pairs do.
  __m256i rounded;
  asm("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(v));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded);
#else
  store_real<kLanes<float>>(reinterpret_cast<bf16_t*>(to), v);
#endif
}

/// c [rows, cols] (+)= a [rows, depth] · b [depth, cols], of float32 or of pairs; cols is a
/// multiple of 16.
template <bool Add, class Between>
void multiply_as(bool pairs, std::int64_t rows, std::int64_t cols, std::int64_t depth,
                 const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* c,
                 std::int64_t ldc, Between& between) {
#if defined(GOSSAMER_PAIRS)
  if (pairs) {
    std::int64_t n = 0;
    if constexpr (kVectorBytes == 16) {
      for (; n < cols; n += 16) {
        multiply_pair_rows<6, 4, Add>(rows, a, lda, b + n, ldb, depth, c + n, ldc, between);
      }
      return;
    }
    for (; n + 64 <= cols; n += 64) {
      multiply_pair_rows<6, 4, Add>(rows, a, lda, b + n, ldb, depth, c + n, ldc, between);
    }
    for (; n + 32 <= cols; n += 32) {
      multiply_pair_rows<12, 2, Add>(rows, a, lda, b + n, ldb, depth, c + n, ldc, between);
    }
    if (n < cols)
      multiply_pair_rows<12, 1, Add>(rows, a, lda, b + n, ldb, depth, c + n, ldc, between);
    return;
  }
#endif
  static_cast<void>(pairs);
  multiply<Add>(rows, cols, depth, a, lda, b, ldb, c, ldc, between);
}

template <bool Add>
void multiply_as(bool pairs, std::int64_t rows, std::int64_t cols, std::int64_t depth,
                 const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* c,
                 std::int64_t ldc) {
  const Nothing between;
  multiply_as<Add>(pairs, rows, cols, depth, a, lda, b, ldb, c, ldc, between);
}

}  // namespace
}  // namespace gossamer::detail
