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

/// The integers from -16 to 15 as bfloat16, number i at place i mod 32.
__m512i small_integers() {
  std::uint16_t table[32];
  for (int i = 0; i < 32; ++i) {
    const float number = static_cast<float>(i < 16 ? i : i - 32);
    table[i] = static_cast<std::uint16_t>(bit_cast<std::uint32_t>(number) >> 16);
  }
  return _mm512_loadu_si512(table);
}

/// A lookup takes the lowest five bits of a place, so of a code less its zero.
struct Nibbles {
  __m512i table = small_integers();

  GOSSAMER_INLINE void operator()(const std::uint8_t* codes, std::uint8_t zero, int group,
                                  std::uint16_t* to) const {
    const __m512i zeros = _mm512_set1_epi8(static_cast<char>(zero));
    if (group == 16) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                          _mm512_castsi512_si256(decode(bytes, zeros)));
      return;
    }
    for (int j = 0; j < group; j += 32, codes += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
      _mm512_storeu_si512(to + j, decode(bytes, zeros));
    }
  }

  /// A byte to two numbers side by side.
  GOSSAMER_INLINE __m512i decode(__m128i bytes, __m512i zeros) const {
    const __m512i wide = _mm512_cvtepu8_epi32(bytes);
    const __m512i codes = _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi32(wide, 12)),
                                           _mm512_set1_epi32(0x000f000f));
    return _mm512_permutexvar_epi16(_mm512_sub_epi16(codes, zeros), table);
  }
};

/// Integers of nine bits are exact in bfloat16, but that eight of them have to do: ±255.
struct Bytes {
  GOSSAMER_INLINE void operator()(const std::uint8_t* codes, std::uint8_t zero, int group,
                                  std::uint16_t* to) const {
    const __m512i zeros = _mm512_set1_epi32(zero);
    const auto number = [&](const std::uint8_t* p) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
      return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), zeros));
    };
    for (int j = 0; j < group; j += 16) {
      const auto half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(number(codes + j)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + j), half);
    }
  }
};

template <class Decode>
void from_groups(const Bf16FromGroupsArgs& a) {
  constexpr std::int64_t kAtOnce = 64;
  const QuantGroups& g = a.groups;
  const Decode decode;
  const std::uint8_t* codes = g.codes;
  const std::int64_t bytes = g.group * g.bits / 8;
  auto* to = static_cast<std::uint16_t*>(a.to);
  float scales[kAtOnce];
  for (std::int64_t first = 0; first < a.count; first += kAtOnce) {
    const std::int64_t count = min_i64(kAtOnce, a.count - first);
    for (std::int64_t i = 0; i < count; i += 16) {
      const auto some = static_cast<__mmask16>(count - i >= 16 ? 0xffff : (1 << (count - i)) - 1);
      _mm512_storeu_ps(scales + i,
                       _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(some, g.scales + first + i)));
    }
    for (std::int64_t i = 0; i < count; ++i, codes += bytes) {
      const std::int64_t place = a.places[first + i];
      a.scales[place] = scales[i];
      decode(codes, g.zeros[first + i], g.group, to + place * g.group);
    }
  }
}

}  // namespace

void bf16_from_groups(const Bf16FromGroupsArgs& a);
void bf16_from_groups(const Bf16FromGroupsArgs& a) {
  a.groups.bits == 4 ? from_groups<Nibbles>(a) : from_groups<Bytes>(a);
}

void bf16_groups(const Bf16GroupsArgs& a);
void bf16_groups(const Bf16GroupsArgs& a) {
  // Two vectors, since a group's sums take as many registers as the sums of all.
  std::int64_t column = 0;
  for (; column + 32 <= a.tile; column += 32) all_rows<2>(a, column);
  if (column < a.tile) all_rows<1>(a, column);
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
