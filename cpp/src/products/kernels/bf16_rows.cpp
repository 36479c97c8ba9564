// Sparse rows to dense ones: 32 elements at a time, the next values are expanded to the places
// whose bits are set.

#include "products/args.h"
#include "simd/bf16.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

GOSSAMER_INLINE void expand(std::uint32_t bits, const std::uint16_t* values, std::uint16_t* to) {
  _mm512_storeu_si512(to, _mm512_maskz_expand_epi16(bits, _mm512_loadu_si512(values)));
}

void from_bits(const Bf16Source& a, std::int64_t row, std::uint16_t* to) {
  const std::uint64_t* bits = a.bits + row * a.words;
  const auto* values = static_cast<const std::uint16_t*>(a.values) + a.begin[row];
  std::int64_t j = 0;
  for (; j + 64 <= a.cols; j += 64) {
    const std::uint64_t word = bits[j / 64];
    const auto first = static_cast<std::uint32_t>(word);
    expand(first, values, to + j);
    expand(static_cast<std::uint32_t>(word >> 32), values + __builtin_popcount(first), to + j + 32);
    values += __builtin_popcountll(word);
  }
  if (j < a.cols) {
    const std::uint64_t word = bits[j / 64];
    const auto first = static_cast<std::uint32_t>(word);
    expand(first, values, to + j);
    if (j + 32 < a.cols) {
      expand(static_cast<std::uint32_t>(word >> 32), values + __builtin_popcount(first),
             to + j + 32);
    }
  }
}

void from_dense(const Bf16Source& a, std::int64_t row, std::uint16_t* to) {
  const auto* from = static_cast<const std::uint16_t*>(a.values) + row * a.cols;
  for (std::int64_t j = 0; j < a.cols; j += 32) {
    _mm512_storeu_si512(to + j, first_of(from + j, a.cols - j));
  }
}

}  // namespace

void bf16_rows(const Bf16RowsArgs& a);
void bf16_rows(const Bf16RowsArgs& a) {
  for (std::int64_t row = a.row0; row < a.row1; ++row) {
    auto* to = static_cast<std::uint16_t*>(a.to) + (row - a.row0) * a.ld;
    a.a.form == Bf16Source::Form::dense ? from_dense(a.a, row, to) : from_bits(a.a, row, to);
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
