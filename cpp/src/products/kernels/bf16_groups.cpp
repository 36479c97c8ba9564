// Quantised groups as pairs of bfloat16. A code less its zero is an integer below 256, which
// bfloat16 holds exactly; so the integers are multiplied, and a group's sum is scaled in float32.

#include "products/args.h"
#include "simd/bf16.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Rows [row, row+R) times J vectors of the tile from `column` on.
template <int R, int J>
__attribute__((noinline)) void add_rows(const Bf16GroupsArgs& args, std::int64_t row,
                                        std::int64_t column) {
  const std::int64_t lda = args.lda * 2, pitch = std::int64_t{4} * args.tile;
  float* c = args.c + row * args.tile + column;
  const char* a = static_cast<const char*>(args.a) + row * lda;
  const char* b = static_cast<const char*>(args.b) + column * 4;
  const float* scale = args.scales + row * args.lds;
  __m512 total[R][J];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < J; ++j) {
      total[r][j] =
          args.accumulate ? _mm512_loadu_ps(c + r * args.tile + j * 16) : _mm512_setzero_ps();
    }
  }
  for (std::int64_t first = 0; first < args.depth; first += args.group, ++scale) {
    __m512 sum[R][J] = {};
    for (int d = 0; d < args.group; d += 2, a += 4, b += pitch) {
      __m512i from[J];
#pragma GCC unroll 2
      for (int j = 0; j < J; ++j) {
        from[j] = _mm512_loadu_si512(b + j * 64);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i value = pair_at(a + r * lda);
#pragma GCC unroll 2
        for (int j = 0; j < J; ++j) sum[r][j] = add_pairs(sum[r][j], value, from[j]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512 factor = _mm512_set1_ps(scale[r * args.lds]);
#pragma GCC unroll 2
      for (int j = 0; j < J; ++j) total[r][j] = _mm512_fmadd_ps(sum[r][j], factor, total[r][j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < J; ++j) _mm512_storeu_ps(c + r * args.tile + j * 16, total[r][j]);
  }
}

template <int J>
void all_rows(const Bf16GroupsArgs& a, std::int64_t column) {
  std::int64_t row = 0;
  for (; row + 6 <= a.rows; row += 6) add_rows<6, J>(a, row, column);
  for (; row < a.rows; ++row) add_rows<1, J>(a, row, column);
}

/// Integers of at most eight bits as bfloat16.
GOSSAMER_INLINE __m256i to_bf16(__m512i integers) {
  const auto numbers = _mm512_castps_si512(_mm512_cvtepi32_ps(integers));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(numbers, 16));
}

void nibbles(const std::uint8_t* codes, int zero, int group, std::uint16_t* to) {
  const __m512i all = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i table =
      _mm512_castsi256_si512(to_bf16(_mm512_sub_epi32(all, _mm512_set1_epi32(zero))));
  for (int j = 0; j < group; j += 32) {
    // A byte to two numbers side by side; of a group of 16, eight bytes.
    const bool whole = group >= 32;
    const __m128i bytes = whole ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + j / 2))
                                : _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + j / 2));
    const __m512i wide = _mm512_cvtepu8_epi32(bytes);
    const __m512i places = _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi32(wide, 12)),
                                            _mm512_set1_epi32(0x000f000f));
    const __m512i numbers = _mm512_permutexvar_epi16(places, table);
    if (whole) {
      _mm512_storeu_si512(to + j, numbers);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + j), _mm512_castsi512_si256(numbers));
    }
  }
}

void bytes(const std::uint8_t* codes, int zero, int group, std::uint16_t* to) {
  for (int j = 0; j < group; j += 16) {
    const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + j));
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(to + j),
        to_bf16(_mm512_sub_epi32(_mm512_cvtepu8_epi32(some), _mm512_set1_epi32(zero))));
  }
}

}  // namespace

void bf16_from_groups(const Bf16FromGroupsArgs& a);
void bf16_from_groups(const Bf16FromGroupsArgs& a) {
  const QuantGroups& g = a.groups;
  const std::uint8_t* codes = g.codes;
  auto* to = static_cast<std::uint16_t*>(a.to);
  for (std::int64_t p = 0; p < a.count; ++p, codes += g.group * g.bits / 8) {
    const std::int64_t place = a.places[p];
    a.scales[place] = to_float(f16_t{g.scales[p]});
    if (g.bits == 4) {
      nibbles(codes, g.zeros[p], g.group, to + place * g.group);
    } else {
      bytes(codes, g.zeros[p], g.group, to + place * g.group);
    }
  }
}

void bf16_groups(const Bf16GroupsArgs& a);
void bf16_groups(const Bf16GroupsArgs& a) {
  // Two vectors, since a group's sums take as many registers as the sums of all.
  std::int64_t column = 0;
  for (; column + 32 <= a.tile; column += 32) all_rows<2>(a, column);
  if (column < a.tile) all_rows<1>(a, column);
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
