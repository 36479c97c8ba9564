// Rows of A times a few vectors, both bfloat16. A few rows at a time are read 32 elements at a
// time, what is sparse is expanded in registers, and multiplied by each vector; lanes are added at
// the end. Subnormal numbers count as zeros.

#include "products/args.h"
#include "simd/bf16.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Readers of a row, which prefetch the row that is so many rows `ahead`: prepare(j) for every 128
/// elements, then next(q) for 32 of them; Tail where fewer than 128 may be left.
struct Dense {
  const std::uint16_t* row;
  std::int64_t ahead;

  Dense(const Bf16Source& a, std::int64_t i, int rows)
      : row(static_cast<const std::uint16_t*>(a.values) + i * a.cols), ahead(rows * a.cols) {}
  GOSSAMER_INLINE void prepare(std::int64_t /*j*/) {}
  template <bool Tail>
  GOSSAMER_INLINE __m512i next(std::int64_t j, int q) {
    _mm_prefetch(row + ahead + j + 32 * q, _MM_HINT_T1);
    return _mm512_loadu_si512(row + j + 32 * q);
  }
};

struct Bits {
  const char* bits;
  const std::uint16_t* values;
  std::int64_t ahead;

  Bits(const Bf16Source& a, std::int64_t i, int rows)
      : bits(reinterpret_cast<const char*>(a.bits + i * a.words)),
        values(static_cast<const std::uint16_t*>(a.values) + a.begin[i]),
        ahead(i >= rows ? a.begin[i] - a.begin[i - rows] : 0) {}
  GOSSAMER_INLINE void prepare(std::int64_t /*j*/) {}
  template <bool Tail>
  GOSSAMER_INLINE __m512i next(std::int64_t j, int q) {
    _mm_prefetch(values + ahead, _MM_HINT_T1);
    std::uint32_t word;
    __builtin_memcpy(&word, bits + (j + 32 * q) / 8, sizeof word);
    const __m512i expanded = _mm512_maskz_expand_epi16(word, _mm512_loadu_si512(values));
    values += __builtin_popcount(word);
    return expanded;
  }
};

struct TwoOfFour {
  const std::uint8_t* indices;
  const std::uint16_t* values;
  std::int64_t bytes, slots, ahead;
  std::uint32_t bits[4];

  TwoOfFour(const Bf16Source& a, std::int64_t i, int rows)
      : indices(a.nm.indices + i * a.nm.index_bytes),
        values(static_cast<const std::uint16_t*>(a.nm.values) + i * a.nm.slots),
        bytes(a.nm.index_bytes),
        slots(a.nm.slots),
        ahead(rows * a.nm.slots) {}
  GOSSAMER_INLINE void prepare(std::int64_t j) {
    bits_of_2_of_4(indices + j / 8, bytes - j / 8, bits);
  }
  template <bool Tail>
  GOSSAMER_INLINE __m512i next(std::int64_t j, int q) {
    const std::uint16_t* from = values + j / 2 + 16 * q;
    if (!Tail && q % 2 == 0) _mm_prefetch(from + ahead, _MM_HINT_T1);
    const __m512i found =
        Tail ? first_of(from, min_i64(16, slots - j / 2 - 16 * q))
             : _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return _mm512_maskz_expand_epi16(bits[q], found);
  }
};

/// Elements [j, j+128) of R rows, or those up to `end`.
template <bool Tail, int R, int N, class Row>
GOSSAMER_INLINE void add(const Bf16DotsArgs& a, Row (&row)[R], std::int64_t j,
                         __m512 (&sum)[R][N]) {
  const auto* x = static_cast<const std::uint16_t*>(a.x) + j;
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) row[r].prepare(j);
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    if (Tail && j + 32 * q >= a.ldx) break;
    __m512bh value[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      value[r] = reinterpret_cast<__m512bh>(row[r].template next<Tail>(j, q));
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const auto from = reinterpret_cast<__m512bh>(_mm512_loadu_si512(x + n * a.ldx + 32 * q));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][n] = _mm512_dpbf16_ps(sum[r][n], value[r], from);
    }
  }
}

template <int R, int N, class Row, int... I>
__attribute__((noinline)) void some_rows(const Bf16DotsArgs& a, std::int64_t i, Lanes<I...>) {
  Row row[R] = {Row(a.a, i + I, R)...};
  __m512 sum[R][N] = {};
  const std::int64_t whole = a.a.cols / 128 * 128;
  for (std::int64_t j = 0; j < whole; j += 128) add<false>(a, row, j, sum);
  if (whole < a.ldx) add<true>(a, row, whole, sum);
  float* y = a.y + i - a.row0;
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < N; n += 4) {
      Vec<float> four[4];
      for (int l = 0; l < 4; ++l) four[l] = bit_cast<Vec<float>>(sum[r][n + l]);
      const Vec<float, 4> total = sum_lanes4<float, 16>(four);
      for (int l = 0; l < 4; ++l) y[(n + l) * a.ldy + r] = total[l];
    }
  }
}

template <int N, class Row>
void all_rows(const Bf16DotsArgs& a) {
  // 24 sums hide the latency of the products and leave registers for the operands.
  constexpr int R = N == 8 ? 3 : 4;
  std::int64_t i = a.row0;
  for (; i + R <= a.row1; i += R) some_rows<R, N, Row>(a, i, typename MakeLanes<R>::type{});
  for (; i < a.row1; ++i) some_rows<1, N, Row>(a, i, Lanes<0>{});
}

template <int N>
void any_form(const Bf16DotsArgs& a) {
  switch (a.a.form) {
    case Bf16Source::Form::dense:
      return all_rows<N, Dense>(a);
    case Bf16Source::Form::bits:
      return all_rows<N, Bits>(a);
    case Bf16Source::Form::nm:
      return all_rows<N, TwoOfFour>(a);
  }
}

}  // namespace

void bf16_dots(const Bf16DotsArgs& a);
void bf16_dots(const Bf16DotsArgs& a) { a.batch == 8 ? any_form<8>(a) : any_form<4>(a); }

}  // namespace gossamer::detail::GOSSAMER_LEVEL
