// Lines of an N:M matrix times a few vectors. What bounds it is reading the values and positions
// once. With AVX2 and AVX-512, a vector of values at a time is multiplied by the elements of x that
// they are for, which are picked out of the registers that hold the part of x that the values
// belong to, or gathered where that part is longer than two or four registers. Elsewhere, and of
// float64, they are loaded one by one.

#include "products/args.h"
#include "simd/positions.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Values of a line that are taken at a time.
constexpr std::int64_t kPart = 512;
/// Values that are prefetched. With one line at a time, whose memory is one stream, 2:4 is read at
/// 30 GB/s, with four at a time at 21 (one thread, Zen 5, busy).
[[maybe_unused]] constexpr std::int64_t kAhead = 512;

/// Elements of x by single loads, as many as a vector of 16 bytes has.
template <class T>
GOSSAMER_INLINE Vec<T, 16 / sizeof(T)> pick_one_by_one(const T* x, const std::uint32_t* index) {
  if constexpr (sizeof(T) == 8) {
    return Vec<T, 2>{x[index[0]], x[index[1]]};
  } else {
    return Vec<T, 4>{x[index[0]], x[index[1]], x[index[2]], x[index[3]]};
  }
}

/// Where the groups of the values of a part begin, from that of the first.
struct Starts {
  std::uint32_t start[kPart];

  explicit Starts(const NmLines& a) {
    for (std::int64_t s = 0; s < min_i64(kPart, a.slots); ++s) {
      start[s] = static_cast<std::uint32_t>(s / a.n * a.m);
    }
  }
};

/// y = line l times each x, in parts of whole groups, whose positions begin with a byte.
template <class T, class Stored, int Batch>
__attribute__((noinline)) void by_parts(const NmVectorsArgs& a, const Starts& starts,
                                        std::int64_t l, T* y) {
  constexpr int W = 16 / static_cast<int>(sizeof(T)), U = 4;
  const std::int64_t n = a.a.n, m = a.a.m, part = kPart / (8 * n) * (8 * n);
  const auto* values = static_cast<const Stored*>(a.a.values) + l * a.a.slots;
  std::uint8_t place[kPart];
  std::uint32_t index[kPart];
  T total[Batch] = {};
  for (std::int64_t slot = 0; slot < a.a.slots; slot += part) {
    const std::int64_t count = min_i64(part, a.a.slots - slot);
    read_any_positions(a.a.bits, a.a.indices + l * a.a.index_bytes + slot * a.a.bits / 8, count,
                       place);
    for (std::int64_t s = 0; s < count; ++s) index[s] = starts.start[s] + place[s];
    for (int b = 0; b < Batch; ++b) {
      const T* x = static_cast<const T*>(a.x) + b * a.ldx + slot / n * m;
      Vec<T, W> sum[U] = {};
      std::int64_t s = 0;
      for (; s + U * W <= count; s += U * W) {
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) {
          sum[u] += load_real<W>(values + slot + s + u * W) * pick_one_by_one(x, index + s + u * W);
        }
      }
      const Vec<T, W> both = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      T rest = 0;
      for (; s < count; ++s) rest += to_float(values[slot + s]) * x[index[s]];
      for (int lane = 0; lane < W; ++lane) rest += both[lane];
      total[b] += rest;
    }
  }
  for (int b = 0; b < Batch; ++b) y[b * a.ldy] = total[b];
}

#if defined(GOSSAMER_AVX512)

/// Reads the positions of a vector, a lane each. Bits is 1 or 2, or 0 for any number.
template <int Bits>
struct Positions {
  int bits;
  std::int64_t bytes;  // of a line
  std::uint64_t mask;

  explicit Positions(const NmVectorsArgs& a)
      : bits(a.a.bits),
        bytes(a.a.index_bytes),
        mask(((std::uint64_t{1} << a.a.bits) - 1) * 0x0101010101010101u) {}

  /// Those of vector v of a line.
  GOSSAMER_INLINE Index operator()(const std::uint8_t* line, std::int64_t v) const {
    if constexpr (Bits != 0) {
      const __m512i shifts = _mm512_setr_epi32(
          0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits, 8 * Bits, 9 * Bits,
          10 * Bits, 11 * Bits, 12 * Bits, 13 * Bits, 14 * Bits, 15 * Bits);
      std::uint32_t packed = 0;
      __builtin_memcpy(&packed, line + v * 2 * Bits, 2 * Bits);
      const __m512i shifted =
          _mm512_srlv_epi32(_mm512_set1_epi32(static_cast<int>(packed)), shifts);
      return _mm512_and_si512(shifted, _mm512_set1_epi32((1 << Bits) - 1));
    } else {
      const std::int64_t at = v * 2 * bits;
      std::uint64_t low = 0, high = 0;
      if (at + bits + 8 <= bytes) {
        __builtin_memcpy(&low, line + at, 8);
        __builtin_memcpy(&high, line + at + bits, 8);
      } else {
        for (int i = 0; i < bits; ++i) {
          low |= std::uint64_t{line[at + i]} << (8 * i);
          high |= std::uint64_t{line[at + bits + i]} << (8 * i);
        }
      }
      return _mm512_cvtepu8_epi32(_mm_set_epi64x(static_cast<long long>(_pdep_u64(high, mask)),
                                                 static_cast<long long>(_pdep_u64(low, mask))));
    }
  }
};

GOSSAMER_INLINE Index load_index(const std::int32_t* from) { return _mm512_load_si512(from); }
GOSSAMER_INLINE Index add(Index a, Index b) { return _mm512_add_epi32(a, b); }

GOSSAMER_INLINE Vec<float> gather(const float* x, Index index) {
  return bit_cast<Vec<float>>(_mm512_i32gather_ps(index, x, 4));
}

/// The elements of x at `index`, which are below 32·Span, Span = 1 or 2.
template <int Span, int /*Bits*/>
GOSSAMER_INLINE Vec<float> pick(const float* x, Index index) {
  const __m512 low = _mm512_permutex2var_ps(_mm512_loadu_ps(x), index, _mm512_loadu_ps(x + 16));
  if constexpr (Span == 1) return bit_cast<Vec<float>>(low);
  const __m512 high =
      _mm512_permutex2var_ps(_mm512_loadu_ps(x + 32), index, _mm512_loadu_ps(x + 48));
  const __mmask16 beyond = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32));
  return bit_cast<Vec<float>>(_mm512_mask_blend_ps(beyond, low, high));
}

/// Does pick take positions within the groups, not in the registers that hold them?
template <int /*Bits*/>
constexpr bool kInGroup = false;

#elif defined(GOSSAMER_AVX2)

template <int Bits>
constexpr bool kInGroup = Bits != 0;

/// Reads the positions of a vector, a lane each. Bits is 2 or 3 for groups of 4 or 8, whose
/// positions are the lowest bits of a lane and the rest of no account, or 0 for any number.
template <int Bits>
struct Positions {
  int bits;
  std::int64_t bytes;  // of a line
  __m256i byte, shift, mask;

  explicit Positions(const NmVectorsArgs& a)
      : bits(a.a.bits), bytes(a.a.index_bytes), mask(_mm256_set1_epi32((1 << a.a.bits) - 1)) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i bit = _mm256_mullo_epi32(lane, _mm256_set1_epi32(bits));
    const __m256i first = _mm256_srli_epi32(bit, 3);
    // A lane gets the two bytes that hold its position.
    byte =
        _mm256_or_si256(first, _mm256_slli_epi32(_mm256_add_epi32(first, _mm256_set1_epi32(1)), 8));
    shift = _mm256_and_si256(bit, _mm256_set1_epi32(7));
  }

  GOSSAMER_INLINE Index operator()(const std::uint8_t* line, std::int64_t v) const {
    if constexpr (Bits == 2) {
      std::uint16_t packed;
      __builtin_memcpy(&packed, line + v * 2, 2);
      return _mm256_srlv_epi32(_mm256_set1_epi16(static_cast<short>(packed)),
                               _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    }
    const std::int64_t at = v * bits;
    long long packed = 0;
    if (at + 8 <= bytes) {
      __builtin_memcpy(&packed, line + at, 8);
    } else {
      for (int i = 0; i < bits; ++i) packed |= static_cast<long long>(line[at + i]) << (8 * i);
    }
    const __m256i words = _mm256_shuffle_epi8(_mm256_set1_epi64x(packed), byte);
    const __m256i shifted = _mm256_srlv_epi32(words, shift);
    return Bits == 3 ? shifted : _mm256_and_si256(shifted, mask);
  }
};

GOSSAMER_INLINE Index load_index(const std::int32_t* from) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
}
GOSSAMER_INLINE Index add(Index a, Index b) { return _mm256_add_epi32(a, b); }

/// By single loads: a gather instruction takes longer (Zen 3).
GOSSAMER_INLINE Vec<float> gather(const float* x, Index index) {
  alignas(32) std::uint32_t at[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(at), index);
  const auto low = bit_cast<__m128>(pick_one_by_one(x, at));
  const auto high = bit_cast<__m128>(pick_one_by_one(x, at + 4));
  return bit_cast<Vec<float>>(_mm256_set_m128(high, low));
}

/// The elements of x at `index`, which are below 16·Span, Span = 1 or 2. Of groups of eight it is
/// known which lanes are picked from a register, of groups of four from each of its halves.
template <int Span, int Bits>
GOSSAMER_INLINE Vec<float> pick(const float* x, Index index) {
  const auto from = [&](int r) {
    if constexpr (Bits == 2) {
      const __m256 groups = _mm256_loadu2_m128(x + (r + 2 * Span) * 4, x + r * 4);
      return _mm256_permutevar_ps(groups, index);
    }
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(x + r * 8), index);
  };
  __m256 picked;
  if constexpr (Bits == 2 && Span == 1) {
    picked = _mm256_blend_ps(from(0), from(1), 0xcc);
  } else if constexpr (Bits == 2) {
    picked = _mm256_blend_ps(_mm256_blend_ps(from(0), from(1), 0xaa),
                             _mm256_blend_ps(from(2), from(3), 0xaa), 0xcc);
  } else if constexpr (Bits != 0 && Span == 1) {
    picked = _mm256_blend_ps(from(0), from(1), 0xf0);
  } else if constexpr (Bits != 0) {
    picked = _mm256_blend_ps(_mm256_blend_ps(from(0), from(1), 0xcc),
                             _mm256_blend_ps(from(2), from(3), 0xcc), 0xf0);
  } else {
    const __m256 odd = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
    picked = _mm256_blendv_ps(from(0), from(1), odd);
    if constexpr (Span == 2) {
      const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 27));
      picked = _mm256_blendv_ps(picked, _mm256_blendv_ps(from(2), from(3), odd), upper);
    }
  }
  return bit_cast<Vec<float>>(picked);
}

#endif

#if defined(GOSSAMER_AVX512) || defined(GOSSAMER_AVX2)

constexpr int kWidth = kLanes<float>;

/// Where the lanes of the vectors of a line are in x: the vectors of a period of n / gcd(n, kWidth)
/// begin alike.
struct Period {
  static constexpr int kMost = 32;
  alignas(64) std::int32_t base[kMost][kWidth];
  int vectors;
  std::int64_t length;  // elements of x

  Period(std::int64_t n, std::int64_t m) {
    std::int64_t common = n & -n;
    if (common > kWidth) common = kWidth;
    vectors = static_cast<int>(n / common);
    length = kWidth / common * m;
    for (int s = 0; s < vectors * kWidth; ++s) {
      base[s / kWidth][s % kWidth] = static_cast<std::int32_t>(s / n * m);
    }
  }
};

/// Adds the values of line l after its last whole vector, which begin within a group where n does
/// not divide kWidth. Not inlined: in every form of lines() it would be half of this
/// file's code.
template <class Stored, int Batch>
__attribute__((noinline)) void add_rest(const NmVectorsArgs& a, std::int64_t l, float* y) {
  const auto* values = static_cast<const Stored*>(a.a.values) + l * a.a.slots;
  const std::uint8_t* indices = a.a.indices + l * a.a.index_bytes;
  std::uint8_t place[kWidth];
  const std::int64_t begin = a.a.slots / kWidth * kWidth, count = a.a.slots - begin;
  read_any_positions(a.a.bits, indices + begin * a.a.bits / 8, count, place);
  for (int b = 0; b < Batch; ++b) {
    float rest = 0;
    for (std::int64_t s = 0; s < count; ++s) {
      const std::int64_t element = (begin + s) / a.a.n * a.a.m + place[s];
      rest += to_float(values[begin + s]) * static_cast<const float*>(a.x)[b * a.ldx + element];
    }
    y[b * a.ldy] += rest;
  }
}

/// y = R lines from l on, times each x. Span 0 gathers.
template <int Bits, class Stored, int Span, int Batch, int R>
GOSSAMER_INLINE void lines(const NmVectorsArgs& a, const Period& period, std::int64_t l, float* y) {
  const Positions<Bits> positions(a);
  const std::int64_t vectors = a.a.slots / kWidth;
  const float* x = static_cast<const float*>(a.x);
  const Stored* values[R];
  const std::uint8_t* indices[R];
  for (int r = 0; r < R; ++r) {
    values[r] = static_cast<const Stored*>(a.a.values) + (l + r) * a.a.slots;
    indices[r] = a.a.indices + (l + r) * a.a.index_bytes;
  }
  Vec<float> sum[Batch][R] = {};
  const Index first = load_index(period.base[0]);
  [[maybe_unused]] int turn = 0;
  for (std::int64_t v = 0; v < vectors; ++v) {
    const Index base = Span == 0 ? load_index(period.base[turn]) : first;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Index place = positions(indices[r], v);
      const Index index = kInGroup<Bits> ? place : add(base, place);
      __builtin_prefetch(values[r] + v * kWidth + kAhead);
      const Vec<float> value = load_real<kWidth>(values[r] + v * kWidth);
#pragma GCC unroll 4
      for (int b = 0; b < Batch; ++b) {
        if constexpr (Span == 0) {
          sum[b][r] += value * gather(x + b * a.ldx, index);
        } else {
          sum[b][r] += value * pick<Span, Bits>(x + b * a.ldx, index);
        }
      }
    }
    if constexpr (Span != 0) {
      x += 2 * Span * kWidth;
    } else if (++turn == period.vectors) {
      turn = 0;
      x += period.length;
    }
  }
#pragma GCC unroll 4
  for (int b = 0; b < Batch; ++b) {
    Vec<float> four[4] = {sum[b][0], sum[b][R > 1 ? 1 : 0], sum[b][R > 2 ? 2 : 0],
                          sum[b][R > 3 ? 3 : 0]};
    const Vec<float, 4> total = sum_lanes4<float, kWidth>(four);
    for (int r = 0; r < R; ++r) y[b * a.ldy + r] = total[r];
  }
  for (int r = 0; r < R && a.a.slots % kWidth != 0; ++r) add_rest<Stored, Batch>(a, l + r, y + r);
}

/// The lines after the last whole number of R.
template <class Stored, int Batch>
__attribute__((noinline)) void one_line(const NmVectorsArgs& a, const Period& period,
                                        std::int64_t l, float* y) {
  lines<0, Stored, 0, Batch, 1>(a, period, l, y);
}

template <int Bits, class Stored, int Span, int Batch>
__attribute__((noinline)) void all_lines(const NmVectorsArgs& a) {
  // Lines at a time: several share what is loaded of the vectors, one is a single stream.
  constexpr int R = Batch == 1 ? 1 : Batch == 2 ? 4 : 2;
  const Period period(a.a.n, a.a.m);
  float* y = static_cast<float*>(a.y);
  std::int64_t l = a.line0;
  for (; l + R <= a.line1; l += R, y += R) lines<Bits, Stored, Span, Batch, R>(a, period, l, y);
  for (; l < a.line1; ++l, ++y) one_line<Stored, Batch>(a, period, l, y);
}

template <class Stored, int Batch>
void in_lanes(const NmVectorsArgs& a) {
  const std::int64_t n = a.a.n, m = a.a.m;
  // Registers are filled from within x where the values of a vector begin with a group.
  const std::int64_t span = kWidth % n == 0 && m % n == 0 ? m / n : 0;
#if defined(GOSSAMER_AVX512)
  if (span == 2 && a.a.bits == 1) return all_lines<1, Stored, 1, Batch>(a);
  if (span == 2 && a.a.bits == 2) return all_lines<2, Stored, 1, Batch>(a);
  if (span == 2) return all_lines<0, Stored, 1, Batch>(a);
  if (span == 4 && a.a.bits == 2) return all_lines<2, Stored, 2, Batch>(a);
  if (span == 4) return all_lines<0, Stored, 2, Batch>(a);
#else
  if (span == 2 && m == 4) return all_lines<2, Stored, 1, Batch>(a);
  if (span == 2 && m == 8) return all_lines<3, Stored, 1, Batch>(a);
  if (span == 2) return all_lines<0, Stored, 1, Batch>(a);
  if (span == 4 && m == 4) return all_lines<2, Stored, 2, Batch>(a);
  if (span == 4 && m == 8) return all_lines<3, Stored, 2, Batch>(a);
  if (span == 4) return all_lines<0, Stored, 2, Batch>(a);
#endif
  all_lines<0, Stored, 0, Batch>(a);
}

#endif

template <class T, class Stored, int Batch>
void product(const NmVectorsArgs& a) {
#if defined(GOSSAMER_AVX512) || defined(GOSSAMER_AVX2)
  if constexpr (sizeof(T) == 4) return in_lanes<Stored, Batch>(a);
#endif
  T* y = static_cast<T*>(a.y);
  const Starts starts(a.a);
  for (std::int64_t l = a.line0; l < a.line1; ++l, ++y) by_parts<T, Stored, Batch>(a, starts, l, y);
}

template <class T, class Stored>
void batches(const NmVectorsArgs& a) {
  switch (a.batch) {
    case 1:
      return product<T, Stored, 1>(a);
    case 2:
      return product<T, Stored, 2>(a);
    default:
      return product<T, Stored, 4>(a);
  }
}

}  // namespace

void nm_vectors(const NmVectorsArgs& a);
void nm_vectors(const NmVectorsArgs& a) {
  with_float_type(a.a.value_type, [&](auto stored) {
    using S = typename decltype(stored)::type;
    if constexpr (sizeof(S) == 8) {
      batches<double, S>(a);
    } else {
      batches<float, S>(a);
    }
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
