#pragma once

// Scores of attention: masks as words of bits, and what is done to q·k before e is raised to it.

#include "simd/exp.h"

namespace gossamer::detail {
namespace {

/// The lowest `count` of 64 bits.
GOSSAMER_INLINE std::uint64_t low_bits(std::int64_t count) {
  if (count <= 0) return 0;
  return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

/// Up to 64 bits from the first bit of a byte on.
GOSSAMER_INLINE std::uint64_t read_bits(const std::uint8_t* bytes, std::int64_t count) {
  std::uint64_t word = 0;
  for (std::int64_t i = 0; i < (count + 7) / 8; ++i) {
    word |= static_cast<std::uint64_t>(bytes[i]) << (8 * i);
  }
  return word & low_bits(count);
}

/// The lanes whose bit is set keep v, others get `otherwise`.
template <int W>
GOSSAMER_INLINE Vec<float, W> where_bits(std::uint64_t bits, Vec<float, W> v, float otherwise) {
  using F = Vec<float, W>;
  const F other = otherwise - F{};
#if defined(GOSSAMER_AVX512)
  if constexpr (W == 16) {
    return bit_cast<F>(_mm512_mask_blend_ps(static_cast<__mmask16>(bits & 0xffffu),
                                            bit_cast<__m512>(other), bit_cast<__m512>(v)));
  } else
#endif
  {
    Vec<std::int32_t, W> lane;
    for (int i = 0; i < W; ++i) lane[i] = 1 << i;
    const auto word = static_cast<std::int32_t>(bits & low_bits(W)) - Vec<std::int32_t, W>{};
    return (word & lane) != 0 ? v : other;
  }
}

constexpr float kMinusInfinity = -__builtin_inff();

}  // namespace
}  // namespace gossamer::detail
