// Rows of A times a few vectors, both bfloat16. A part of the depth, for which the vectors stay in
// L1, is taken for all rows before the next. A few rows at a time are read 32 elements at a time,
// what is sparse is expanded in registers, and multiplied by each vector; lanes are added at the
// end. Subnormal numbers count as zeros.

#include "products/args.h"
#include "simd/bf16.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Readers of a row: next() is its next 32 elements, from `values` on. They prefetch the row that
/// is so many rows ahead.
struct Dense {
  const std::uint16_t* values;
  std::int64_t ahead;

  Dense(const Bf16Source& a, std::int64_t /*row*/, std::int64_t /*column*/, int rows,
        const std::uint16_t* from)
      : values(from), ahead(rows * a.cols) {}
  GOSSAMER_INLINE __m512i next() {
    _mm_prefetch(values + ahead, _MM_HINT_T1);
    const __m512i found = _mm512_loadu_si512(values);
    values += 32;
    return found;
  }
};

struct Bits {
  const char* bits;
  const std::uint16_t* values;
  std::int64_t ahead;

  Bits(const Bf16Source& a, std::int64_t row, std::int64_t column, int rows,
       const std::uint16_t* from)
      : bits(reinterpret_cast<const char*>(a.bits + row * a.words) + column / 8),
        values(from),
        ahead(row >= rows ? a.begin[row] - a.begin[row - rows] : 0) {}
  GOSSAMER_INLINE __m512i next() {
    _mm_prefetch(values + ahead, _MM_HINT_T1);
    std::uint32_t word;
    __builtin_memcpy(&word, bits, sizeof word);
    const __m512i expanded = _mm512_maskz_expand_epi16(word, _mm512_loadu_si512(values));
    bits += 4;
    values += __builtin_popcount(word);
    return expanded;
  }
};

/// Rows [i, i+R) of those of the call, columns [k0, k1).
template <int R, int N, class Row, int... I>
__attribute__((noinline)) void some_rows(const Bf16DotsArgs& a, std::int64_t i, std::int64_t k0,
                                         std::int64_t k1, const std::uint16_t** values,
                                         Lanes<I...>) {
  Row row[R] = {Row(a.a, a.row0 + i + I, k0, R, values[i + I])...};
  float* partial = a.partial + i * N * 16;
  __m512 sum[R][N];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 12
    for (int n = 0; n < N; ++n) {
      sum[r][n] = k0 > 0 ? _mm512_loadu_ps(partial + (r * N + n) * 16) : _mm512_setzero_ps();
    }
  }
  const auto* x = static_cast<const std::uint16_t*>(a.x) + k0 * N;
  for (std::int64_t j = k0; j < k1; j += 32, x += 32 * N) {
    __m512i value[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) value[r] = row[r].next();
#pragma GCC unroll 12
    for (int n = 0; n < N; ++n) {
      const __m512i from = _mm512_loadu_si512(x + n * 32);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][n] = add_pairs(sum[r][n], value[r], from);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    values[i + r] = row[r].values;
    if (k1 < a.depth) {
#pragma GCC unroll 12
      for (int n = 0; n < N; ++n) _mm512_storeu_ps(partial + (r * N + n) * 16, sum[r][n]);
    } else {
#pragma GCC unroll 3
      for (int n = 0; n < N; n += 4) {
        Vec<float> four[4];
        for (int l = 0; l < 4; ++l) four[l] = bit_cast<Vec<float>>(sum[r][n + l]);
        const Vec<float, 4> total = sum_lanes4<float, 16>(four);
        for (int l = 0; l < 4; ++l) a.y[(n + l) * a.ldy + i + r] = total[l];
      }
    }
  }
}

template <int N, class Row>
void all_rows(const Bf16DotsArgs& a) {
  // 24 sums hide the latency of the products and leave registers for the operands.
  constexpr int R = N == 12 ? 2 : N == 8 ? 3 : 4;
  // 24 KiB of the vectors.
  constexpr std::int64_t kPart = (12 << 10) / N / 64 * 64;
  const std::int64_t rows = a.row1 - a.row0;
  const std::uint16_t* values[kMostDotRows];
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t row = a.row0 + i;
    values[i] = static_cast<const std::uint16_t*>(a.a.values) +
                (a.a.begin == nullptr ? row * a.a.cols : a.a.begin[row]);
  }
  for (std::int64_t k = 0; k < a.depth; k += kPart) {
    const std::int64_t end = min_i64(a.depth, k + kPart);
    std::int64_t i = 0;
    for (; i + R <= rows; i += R) {
      some_rows<R, N, Row>(a, i, k, end, values, typename MakeLanes<R>::type{});
    }
    for (; i < rows; ++i) some_rows<1, N, Row>(a, i, k, end, values, Lanes<0>{});
  }
}

template <int N>
void any_form(const Bf16DotsArgs& a) {
  a.a.form == Bf16Source::Form::dense ? all_rows<N, Dense>(a) : all_rows<N, Bits>(a);
}

}  // namespace

void bf16_dots(const Bf16DotsArgs& a);
void bf16_dots(const Bf16DotsArgs& a) {
  switch (a.batch) {
    case 4:
      return any_form<4>(a);
    case 8:
      return any_form<8>(a);
    default:
      return any_form<12>(a);
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
