// Quantised groups as pairs of bfloat16. A code less its zero is an integer below 256, which
// bfloat16 holds exactly; so the integers are multiplied, and a group's sum is scaled in float32.

#include "products/args.h"
#include "simd/bf16.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Rows [row, row+R). A group's sums are in registers, those of all in C.
template <int R, int J>
__attribute__((noinline)) void add_rows(const Bf16GroupsArgs& args, std::int64_t row) {
  constexpr int kTile = J * 16;
  const std::int64_t lda = args.lda * 2;
  float* c = args.c + row * kTile;
  const char* a = static_cast<const char*>(args.a) + row * lda;
  const char* b = static_cast<const char*>(args.b);
  const float* scale = args.scales + row * args.lds;
  for (std::int64_t first = 0; first < args.depth; first += args.group, ++scale) {
    __m512 sum[R][J] = {};
    for (int d = 0; d < args.group; d += 2, a += 4, b += kTile * 4) {
      __m512i from[J];
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) from[j] = _mm512_loadu_si512(b + j * 64);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const __m512i value = pair_at(a + r * lda);
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) sum[r][j] = add_pairs(sum[r][j], value, from[j]);
      }
    }
    const bool add = args.accumulate || first > 0;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const __m512 factor = _mm512_set1_ps(scale[r * args.lds]);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) {
        float* to = c + r * kTile + j * 16;
        const __m512 before = add ? _mm512_loadu_ps(to) : _mm512_setzero_ps();
        _mm512_storeu_ps(to, _mm512_fmadd_ps(sum[r][j], factor, before));
      }
    }
  }
}

template <int J>
void all_rows(const Bf16GroupsArgs& a) {
  // 12 to 24 sums hide the latency of the products and leave registers for B and the pair of A.
  constexpr int R = J <= 2 ? 12 : 6;
  for (std::int64_t row = 0; row < a.rows; row += R) add_rows<R, J>(a, row);
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

/// Codes of 4 bits. The lookup uses the lowest five bits of a code less its zero point.
class Nibbles {
 public:
  static constexpr int kBits = 4;

  /// A zero point for the other functions.
  static GOSSAMER_INLINE __m512i all(std::uint8_t zero) {
    return _mm512_set1_epi8(static_cast<char>(zero));
  }
  GOSSAMER_INLINE __m256i sixteen(const std::uint8_t* codes, __m512i zeros) const {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
    return _mm512_castsi512_si256(decode(bytes, zeros));
  }
  GOSSAMER_INLINE __m512i thirty_two(const std::uint8_t* codes, __m512i zeros) const {
    return decode(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)), zeros);
  }

 private:
  /// A byte to two numbers side by side.
  GOSSAMER_INLINE __m512i decode(__m128i bytes, __m512i zeros) const {
    const __m512i wide = _mm512_cvtepu8_epi32(bytes);
    const __m512i codes = _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi32(wide, 12)),
                                           _mm512_set1_epi32(0x000f000f));
    return _mm512_permutexvar_epi16(_mm512_sub_epi16(codes, zeros), table_);
  }

  __m512i table_ = small_integers();
};

/// Codes of 8 bits. Less its zero point a code is at most ±255, which the eight significant bits of
/// bfloat16 hold exactly.
class Bytes {
 public:
  static constexpr int kBits = 8;

  static GOSSAMER_INLINE __m512i all(std::uint8_t zero) { return _mm512_set1_epi32(zero); }
  GOSSAMER_INLINE __m256i sixteen(const std::uint8_t* codes, __m512i zeros) const {
    return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(numbers(codes, zeros)));
  }
  GOSSAMER_INLINE __m512i thirty_two(const std::uint8_t* codes, __m512i zeros) const {
    return reinterpret_cast<__m512i>(
        _mm512_cvtne2ps_pbh(numbers(codes + 16, zeros), numbers(codes, zeros)));
  }

 private:
  static GOSSAMER_INLINE __m512 numbers(const std::uint8_t* codes, __m512i zeros) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), zeros));
  }
};

/// Scales of groups, 16 at a time.
GOSSAMER_INLINE void convert_scales(const std::uint16_t* from, std::int64_t count, float* to) {
  for (std::int64_t i = 0; i < count; i += 16) {
    const auto some = static_cast<__mmask16>(count - i >= 16 ? 0xffff : (1 << (count - i)) - 1);
    _mm512_mask_storeu_ps(to + i, some, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(some, from + i)));
  }
}

/// The numbers of a group.
template <class Decode>
GOSSAMER_INLINE void decode_group(const Decode& decode, const std::uint8_t* codes,
                                  std::uint8_t zero, int group, std::uint16_t* to) {
  const __m512i zeros = Decode::all(zero);
  if (group == 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), decode.sixteen(codes, zeros));
    return;
  }
  for (int j = 0; j < group; j += 32, codes += 4 * Decode::kBits) {
    _mm512_storeu_si512(to + j, decode.thirty_two(codes, zeros));
  }
}

template <class Decode>
void from_groups(const Bf16FromGroupsArgs& a) {
  const QuantGroups& g = a.groups;
  const Decode decode;
  const int group = g.group;
  const std::int64_t bytes = group * Decode::kBits / 8, width = a.place1 - a.place0;
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const std::int64_t first = a.next[r], last = a.indptr[r + 1];
    const std::uint16_t* places = a.places + first;
    const std::uint8_t* codes = g.codes + first * bytes;
    const std::uint8_t* zeros = g.zeros + first;
    auto* to = static_cast<std::uint16_t*>(a.to) + r * a.ld;
    float* scales = a.scales + r * a.lds;
    std::int64_t i = 0;
    if (width <= last - first && places[width - 1] == a.place1 - 1) {
      convert_scales(g.scales + first, width, scales);
      for (; i < width; ++i, codes += bytes) {
        decode_group(decode, codes, zeros[i], group, to + i * group);
      }
    } else {
      // Rows are a line longer than their depth.
      for (std::int64_t j = 0; j < width * group; j += 32) {
        _mm512_storeu_si512(to + j, _mm512_setzero_si512());
      }
      for (std::int64_t q = 0; q < width; ++q) scales[q] = 0;
      for (; i < last - first && places[i] < a.place1; ++i, codes += bytes) {
        const std::int64_t q = places[i] - a.place0;
        scales[q] = _cvtsh_ss(g.scales[first + i]);
        decode_group(decode, codes, zeros[i], group, to + q * group);
      }
    }
    a.next[r] = first + i;
    const std::uint8_t* ahead = codes;
    if (first + i == last) {
      if (r >= a.following) continue;
      ahead = g.codes + a.indptr[a.rows + r] * bytes;
    }
    for (std::int64_t byte = 0; byte < width * bytes; byte += 64) {
      _mm_prefetch(ahead + byte, _MM_HINT_T1);
    }
  }
}

/// Adds the groups of row `row` from `next` on whose columns are below `end` to its sums.
template <int N, class Decode>
GOSSAMER_INLINE void add_groups(const Bf16GroupDotsArgs& a, const Decode& decode, std::int64_t row,
                                std::int64_t end, std::int64_t& next, __m512 (&total)[N]) {
  const QuantGroups& g = a.groups;
  const std::int64_t bytes = g.group * Decode::kBits / 8, last = a.indptr[row + 1];
  // The same part of the next row, if that has as many groups.
  const std::int64_t ahead = (last - a.indptr[row]) * bytes;
  for (; next < last && a.indices[next] * std::int64_t{g.group} < end; ++next) {
    const std::uint8_t* codes = g.codes + next * bytes;
    _mm_prefetch(codes + ahead, _MM_HINT_T0);
    const __m512i zeros = Decode::all(g.zeros[next]);
    const auto* x =
        static_cast<const std::uint16_t*>(a.x) + std::int64_t{a.indices[next]} * g.group * N;
    __m512 sum[N] = {};
    for (int j = 0; j < g.group; j += 32, codes += 4 * Decode::kBits, x += 32 * N) {
      const __m512i value = decode.thirty_two(codes, zeros);
#pragma GCC unroll 12
      for (int n = 0; n < N; ++n) {
        sum[n] = add_pairs(sum[n], value, _mm512_loadu_si512(x + n * 32));
      }
    }
    const __m512 scale = _mm512_set1_ps(_cvtsh_ss(g.scales[next]));
#pragma GCC unroll 12
    for (int n = 0; n < N; ++n) total[n] = _mm512_fmadd_ps(sum[n], scale, total[n]);
  }
}

/// A part of the depth, for which the columns stay in L1, is taken for all rows before the next.
template <int N, class Decode>
__attribute__((noinline)) void few_columns(const Bf16GroupDotsArgs& a) {
  constexpr std::int64_t kPart = (12 << 10) / N / 128 * 128;
  const Decode decode;
  std::int64_t next[kMostDotRows];
  for (std::int64_t k = 0; k < a.depth; k += kPart) {
    for (std::int64_t row = a.row0; row < a.row1; ++row) {
      const std::int64_t i = row - a.row0;
      float* partial = a.partial + i * N * 16;
      __m512 total[N];
#pragma GCC unroll 12
      for (int n = 0; n < N; ++n) {
        total[n] = k > 0 ? _mm512_loadu_ps(partial + n * 16) : _mm512_setzero_ps();
      }
      if (k == 0) next[i] = a.indptr[row];
      add_groups<N>(a, decode, row, k + kPart, next[i], total);
      if (k + kPart < a.depth) {
#pragma GCC unroll 12
        for (int n = 0; n < N; ++n) _mm512_storeu_ps(partial + n * 16, total[n]);
        continue;
      }
#pragma GCC unroll 3
      for (int n = 0; n < N; n += 4) {
        Vec<float> four[4];
        for (int l = 0; l < 4; ++l) four[l] = bit_cast<Vec<float>>(total[n + l]);
        const Vec<float, 4> sums = sum_lanes4<float, 16>(four);
        for (int l = 0; l < 4; ++l) a.y[(n + l) * a.ldy + i] = sums[l];
      }
    }
  }
}

template <class Decode>
void any_batch(const Bf16GroupDotsArgs& a) {
  switch (a.batch) {
    case 4:
      return few_columns<4, Decode>(a);
    case 8:
      return few_columns<8, Decode>(a);
    default:
      return few_columns<12, Decode>(a);
  }
}

}  // namespace

void bf16_from_groups(const Bf16FromGroupsArgs& a);
void bf16_from_groups(const Bf16FromGroupsArgs& a) {
  a.groups.bits == 4 ? from_groups<Nibbles>(a) : from_groups<Bytes>(a);
}

void bf16_group_dots(const Bf16GroupDotsArgs& a);
void bf16_group_dots(const Bf16GroupDotsArgs& a) {
  a.groups.bits == 4 ? any_batch<Nibbles>(a) : any_batch<Bytes>(a);
}

void bf16_groups(const Bf16GroupsArgs& a);
void bf16_groups(const Bf16GroupsArgs& a) {
  switch (a.tile) {
    case 16:
      return all_rows<1>(a);
    case 32:
      return all_rows<2>(a);
    case 48:
      return all_rows<3>(a);
    default:
      return all_rows<4>(a);
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
