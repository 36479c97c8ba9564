// One block of a sampled product, by 4 x 4 dot products at a time, which share the loads of their
// rows. Each keeps a vector of partial sums, whose lanes are added at the end.

#include "products/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

template <int R, int C, class T>
GOSSAMER_INLINE void dots(const BsrDotsArgs& args, std::int64_t row, std::int64_t col) {
  constexpr int W = kLanes<T>;
  const T* a = static_cast<const T*>(args.a) + row * args.lda;
  const T* b = static_cast<const T*>(args.b) + col * args.ldb;
  Vec<T> sum[R][C] = {};
  std::int64_t d = 0;
  for (; d + W <= args.depth; d += W) {
    Vec<T> y[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) y[c] = load<W>(b + c * args.ldb + d);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec<T> x = load<W>(a + r * args.lda + d);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sum[r][c] += x * y[c];
    }
  }
  T* out = static_cast<T*>(args.out) + row * args.cols + col;
  for (int r = 0; r < R; ++r) {
    Vec<T> columns[4] = {sum[r][0], sum[r][C > 1 ? 1 : 0], sum[r][C > 2 ? 2 : 0],
                         sum[r][C > 3 ? 3 : 0]};
    const Vec<T, 4> total = sum_lanes4<T, W>(columns);
    for (int c = 0; c < C; ++c) {
      T rest = total[c];
      for (std::int64_t l = d; l < args.depth; ++l) {
        rest += a[r * args.lda + l] * b[c * args.ldb + l];
      }
      out[r * args.cols + c] = rest;
    }
  }
}

template <int R, class T>
void row_group(const BsrDotsArgs& a, std::int64_t row) {
  constexpr int C = kVectorBytes == 64 || R == 1 ? 4 : 2;
  std::int64_t col = 0;
  for (; col + C <= a.cols; col += C) dots<R, C, T>(a, row, col);
  for (; col < a.cols; ++col) dots<R, 1, T>(a, row, col);
}

template <class T>
void block(const BsrDotsArgs& a) {
  std::int64_t row = 0;
  for (; row + 4 <= a.rows; row += 4) row_group<4, T>(a, row);
  for (; row < a.rows; ++row) row_group<1, T>(a, row);
}

}  // namespace

void bsr_dots(const BsrDotsArgs& a);
void bsr_dots(const BsrDotsArgs& a) { a.f64 ? block<double>(a) : block<float>(a); }

}  // namespace gossamer::detail::GOSSAMER_LEVEL
