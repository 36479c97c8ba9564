#pragma once

// Products of small dense matrices in float32, for kernels that multiply tiles which they have
// packed themselves.

#include "simd/simd.h"

namespace gossamer::detail {
namespace {

/// c [R, J vectors] (+)= a [R, depth] · b [depth, J vectors]: all of c is kept in registers; for
/// each row of b, a column of a is broadcast.
template <int R, int J, bool Add>
__attribute__((noinline)) void multiply_registers(const float* a, std::int64_t lda, const float* b,
                                                  std::int64_t ldb, std::int64_t depth, float* c,
                                                  std::int64_t ldc) {
  constexpr int W = kLanes<float>;
  Vec<float> sum[R][J] = {};
  if constexpr (Add) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sum[r][j] = load<W>(c + r * ldc + j * W);
    }
  }
  for (std::int64_t k = 0; k < depth; ++k, b += ldb, ++a) {
    Vec<float> from[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) from[j] = load<W>(b + j * W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec<float> value = broadcast<W>(a[r * lda]);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sum[r][j] += value * from[j];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) store<W>(c + r * ldc + j * W, sum[r][j]);
  }
}

/// What is done between the parts of a product that are kept in registers: nothing.
struct Nothing {
  GOSSAMER_INLINE void operator()() const {}
};

/// The same for any number of rows: R at a time, then the rest.
template <int R, int J, bool Add, class Between>
GOSSAMER_INLINE void multiply_rows(std::int64_t rows, const float* a, std::int64_t lda,
                                   const float* b, std::int64_t ldb, std::int64_t depth, float* c,
                                   std::int64_t ldc, Between& between) {
  for (; rows >= R; rows -= R, a += R * lda, c += R * ldc) {
    between();
    multiply_registers<R, J, Add>(a, lda, b, ldb, depth, c, ldc);
  }
  if constexpr (R > 1) {
    // 64 rows are ten times 6 and once 4: fewer sums would not hide the latency of an addition.
    constexpr int kNext = R == 6 ? 4 : R / 2;
    if (rows > 0) multiply_rows<kNext, J, Add>(rows, a, lda, b, ldb, depth, c, ldc, between);
  }
}

/// c [rows, cols] (+)= a [rows, depth] · b [depth, cols], with cols a multiple of 16. Each element
/// is summed over the depth in order, whatever the other sizes.
template <bool Add, class Between>
GOSSAMER_INLINE void multiply(std::int64_t rows, std::int64_t cols, std::int64_t depth,
                              const float* a, std::int64_t lda, const float* b, std::int64_t ldb,
                              float* c, std::int64_t ldc, Between& between) {
  constexpr int W = kLanes<float>;
  // With 32 registers 24 sums hide the latency of an addition and leave some for a and b; with 16
  // of them, 12.
  constexpr int J = kVectorBytes == 64 ? 4 : 2, R = 6;
  std::int64_t n = 0;
  for (; n + J * W <= cols; n += J * W) {
    multiply_rows<R, J, Add>(rows, a, lda, b + n, ldb, depth, c + n, ldc, between);
  }
  if constexpr (J == 4) {
    if (n + 2 * W <= cols) {
      multiply_rows<2 * R, 2, Add>(rows, a, lda, b + n, ldb, depth, c + n, ldc, between);
      n += 2 * W;
    }
    if (n < cols)
      multiply_rows<2 * R, 1, Add>(rows, a, lda, b + n, ldb, depth, c + n, ldc, between);
  }
}

template <bool Add>
GOSSAMER_INLINE void multiply(std::int64_t rows, std::int64_t cols, std::int64_t depth,
                              const float* a, std::int64_t lda, const float* b, std::int64_t ldb,
                              float* c, std::int64_t ldc) {
  const Nothing between;
  multiply<Add>(rows, cols, depth, a, lda, b, ldb, c, ldc, between);
}

}  // namespace
}  // namespace gossamer::detail
