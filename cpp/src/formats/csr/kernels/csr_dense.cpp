#include "formats/csr/args.h"
#include "simd/simd.h"

// Converts between dense rows and CSR. Values are handled as bits: one is ±0 if shifting it left by
// one gives 0. So NaN and subnormal values are kept whatever the floating-point environment is.

namespace gossamer::detail {
namespace {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

/// Calls f with an unsigned integer as wide as the element type.
template <class F>
GOSSAMER_INLINE void with_bits_of(DType type, F&& f) {
  switch (type) {
    case DType::f64:
      return f(u64{});
    case DType::f32:
      return f(u32{});
    default:
      return f(u16{});
  }
}

template <class U>
GOSSAMER_INLINE bool is_kept(U bits) {
  return static_cast<U>(bits << 1) != 0;
}
GOSSAMER_INLINE bool is_kept(u8 mask) { return mask != 0; }

/// How many of src[0, n) are kept; src is mask bytes or the bits of values.
template <class U>
std::int64_t count_kept(const U* src, std::int64_t n) {
  constexpr int W = kLanes<U>;
  // Each lane counts in the type of the elements; it is emptied before it can overflow.
  constexpr std::int64_t kRounds = sizeof(U) == 1 ? 255 : 65535;
  std::int64_t total = 0;
  std::int64_t i = 0;
  while (i + W <= n) {
    const std::int64_t stop = min_i64(n - W, i + (kRounds - 1) * W);
    Vec<U, W> sum = {};
    for (; i <= stop; i += W) {
      auto v = load<W>(src + i);
      if constexpr (sizeof(U) > 1) v <<= 1;
      sum -= reinterpret_cast<Vec<U, W>>(v != 0);
    }
    for (int lane = 0; lane < W; ++lane) total += static_cast<std::int64_t>(sum[lane]);
  }
  for (; i < n; ++i) total += is_kept(src[i]);
  return total;
}

template <class I, class U>
void count_rows(const CsrCountArgs& a, const U* src, std::int64_t stride) {
  auto* indptr = static_cast<I*>(a.indptr);
  std::int64_t total = 0;
  for (std::int64_t i = a.row0; i < a.row1; ++i) {
    total += count_kept(src + i * stride, a.cols);
    indptr[i + 1] = static_cast<I>(total);
  }
  *a.total = total;
}

template <class I>
void count(const CsrCountArgs& a) {
  if (a.mask != nullptr) {
    count_rows<I>(a, a.mask, a.mask_stride);
  } else {
    with_bits_of(a.type, [&](auto bits) {
      count_rows<I>(a, static_cast<const decltype(bits)*>(a.dense), a.stride);
    });
  }
}

// Each level has two functions. kept_bits<Masked>(values, mask): bit i says whether element i of a
// block of kBlock<U> is kept. emit(values, bits, column, indices, out): writes a block's kept
// elements and their columns, may write anything after them up to kBlock<U>, and returns how many
// are kept.

#if defined(GOSSAMER_AVX512)

template <class U>
constexpr int kBlock = sizeof(U) == 8 ? 8 : 16;

template <bool Masked, class U>
GOSSAMER_INLINE u32 kept_bits(const U* values, const u8* mask) {
  if constexpr (Masked && kBlock<U> == 16) {
    const __m128i m = _mm_loadu_si128(reinterpret_cast<const __m128i*>(mask));
    return _mm_test_epi8_mask(m, m);
  } else if constexpr (Masked) {
    const __m128i m = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(mask));
    return static_cast<u32>(_mm_test_epi8_mask(m, m)) & 0xffu;
  } else if constexpr (sizeof(U) == 2) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
    return _mm256_test_epi16_mask(v, _mm256_set1_epi16(0x7fff));
  } else if constexpr (sizeof(U) == 4) {
    return _mm512_test_epi32_mask(_mm512_loadu_si512(values), _mm512_set1_epi32(0x7fffffff));
  } else {
    return _mm512_test_epi64_mask(_mm512_loadu_si512(values),
                                  _mm512_set1_epi64(0x7fffffffffffffff));
  }
}

/// Compresses into a register and stores all of it: a compressing store is microcode on Zen 4, ten
/// times slower.
template <class U, class I>
GOSSAMER_INLINE std::int64_t emit(const U* values, u32 bits, std::int64_t column, I* indices,
                                  U* out) {
  if constexpr (kBlock<U> == 16) {
    const auto k = static_cast<__mmask16>(bits);
    const __m512i lanes = _mm512_maskz_compress_epi32(
        k, _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    if constexpr (sizeof(I) == 4) {
      _mm512_storeu_si512(indices,
                          _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(column))));
    } else {
      const __m512i base = _mm512_set1_epi64(column);
      const __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(lanes));
      const __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(lanes, 1));
      _mm512_storeu_si512(indices, _mm512_add_epi64(low, base));
      _mm512_storeu_si512(indices + 8, _mm512_add_epi64(high, base));
    }
    if constexpr (sizeof(U) == 4) {
      _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(k, _mm512_loadu_si512(values)));
    } else {
      const __m512i wide =
          _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                          _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(k, wide)));
    }
  } else {
    const auto k = static_cast<__mmask8>(bits);
    const __m256i lanes = _mm256_maskz_compress_epi32(k, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    if constexpr (sizeof(I) == 4) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(indices),
                          _mm256_add_epi32(lanes, _mm256_set1_epi32(static_cast<int>(column))));
    } else {
      _mm512_storeu_si512(
          indices, _mm512_add_epi64(_mm512_cvtepi32_epi64(lanes), _mm512_set1_epi64(column)));
    }
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi64(k, _mm512_loadu_si512(values)));
  }
  return __builtin_popcount(bits);
}

#elif defined(GOSSAMER_AVX2)

template <class U>
constexpr int kBlock = 8;

/// Byte i of lanes[bits] is the position of the i-th bit that is set.
struct LaneTable {
  u64 lanes[256];
};

constexpr LaneTable make_lane_table() {
  LaneTable table = {};
  for (u32 bits = 0; bits < 256; ++bits) {
    int n = 0;
    for (u32 lane = 0; lane < 8; ++lane) {
      if ((bits >> lane & 1u) != 0) table.lanes[bits] |= static_cast<u64>(lane) << (8 * n++);
    }
  }
  return table;
}

constexpr LaneTable kLaneTable = make_lane_table();

GOSSAMER_INLINE __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
GOSSAMER_INLINE void store_256(void* p, __m256i v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), v);
}

template <bool Masked, class U>
GOSSAMER_INLINE u32 kept_bits(const U* values, const u8* mask) {
  const __m256i zero = _mm256_setzero_si256();
  u32 zeros = 0;
  if constexpr (Masked) {
    const __m128i m = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(mask));
    zeros = static_cast<u32>(_mm_movemask_epi8(_mm_cmpeq_epi8(m, _mm_setzero_si128()))) & 0xffu;
  } else if constexpr (sizeof(U) == 2) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
    const __m128i equal = _mm_cmpeq_epi16(_mm_slli_epi16(v, 1), _mm_setzero_si128());
    zeros = static_cast<u32>(_mm_movemask_epi8(_mm_packs_epi16(equal, equal))) & 0xffu;
  } else if constexpr (sizeof(U) == 4) {
    const __m256i equal = _mm256_cmpeq_epi32(_mm256_slli_epi32(load_256(values), 1), zero);
    zeros = static_cast<u32>(_mm256_movemask_ps(_mm256_castsi256_ps(equal)));
  } else {
    const __m256i low = _mm256_cmpeq_epi64(_mm256_slli_epi64(load_256(values), 1), zero);
    const __m256i high = _mm256_cmpeq_epi64(_mm256_slli_epi64(load_256(values + 4), 1), zero);
    zeros = static_cast<u32>(_mm256_movemask_pd(_mm256_castsi256_pd(low))) |
            static_cast<u32>(_mm256_movemask_pd(_mm256_castsi256_pd(high))) << 4;
  }
  return zeros ^ 0xffu;
}

/// Moves the kept ones of four 64-bit elements to the front, as pairs of 32-bit lanes.
GOSSAMER_INLINE void emit_four(const u64* values, u32 bits, u64* out) {
  const __m128i packed = _mm_cvtsi64_si128(static_cast<long long>(kLaneTable.lanes[bits]));
  const __m256i twice = _mm256_slli_epi64(_mm256_cvtepu8_epi64(packed), 1);
  const __m256i pairs =
      _mm256_or_si256(twice, _mm256_slli_epi64(_mm256_add_epi64(twice, _mm256_set1_epi64x(1)), 32));
  store_256(out, _mm256_permutevar8x32_epi32(load_256(values), pairs));
}

template <class U, class I>
GOSSAMER_INLINE std::int64_t emit(const U* values, u32 bits, std::int64_t column, I* indices,
                                  U* out) {
  const __m128i packed = _mm_cvtsi64_si128(static_cast<long long>(kLaneTable.lanes[bits]));
  const __m256i lanes = _mm256_cvtepu8_epi32(packed);
  if constexpr (sizeof(I) == 4) {
    store_256(indices, _mm256_add_epi32(lanes, _mm256_set1_epi32(static_cast<int>(column))));
  } else {
    const __m256i base = _mm256_set1_epi64x(column);
    store_256(indices, _mm256_add_epi64(_mm256_cvtepu8_epi64(packed), base));
    store_256(indices + 4,
              _mm256_add_epi64(_mm256_cvtepu8_epi64(_mm_srli_epi64(packed, 32)), base));
  }
  if constexpr (sizeof(U) == 8) {
    emit_four(values, bits & 0xfu, out);
    emit_four(values + 4, bits >> 4, out + __builtin_popcount(bits & 0xfu));
  } else if constexpr (sizeof(U) == 4) {
    store_256(out, _mm256_permutevar8x32_epi32(load_256(values), lanes));
  } else {
    const __m256i wide =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
    const __m256i moved = _mm256_permutevar8x32_epi32(wide, lanes);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(out),
        _mm_packus_epi32(_mm256_castsi256_si128(moved), _mm256_extracti128_si256(moved, 1)));
  }
  return __builtin_popcount(bits);
}

#else

template <class U>
constexpr int kBlock = 8;

template <bool Masked, class U>
GOSSAMER_INLINE u32 kept_bits(const U* values, const u8* mask) {
  u32 bits = 0;
  for (int i = 0; i < kBlock<U>; ++i) {
    bits |= static_cast<u32>(Masked ? is_kept(mask[i]) : is_kept(values[i])) << i;
  }
  return bits;
}

/// Writes every element, but moves on only after a kept one: there is no branch to mispredict.
template <class U, class I>
GOSSAMER_INLINE std::int64_t emit(const U* values, u32 bits, std::int64_t column, I* indices,
                                  U* out) {
  std::int64_t n = 0;
  for (int i = 0; i < kBlock<U>; ++i) {
    indices[n] = static_cast<I>(column + i);
    out[n] = values[i];
    n += bits >> i & 1u;
  }
  return n;
}

#endif

// Row by row, block by block, with whole stores at the end of what was written. What a store writes
// beyond its kept elements is overwritten by the next one. Near the end of the rows' entries, where
// that would reach what other threads write, elements are written one by one.
template <class U, class I, bool Masked>
void fill_rows(const CsrFillArgs& a) {
  constexpr int B = kBlock<U>;
  const auto* indptr = static_cast<const I*>(a.indptr);
  auto* indices = static_cast<I*>(a.indices);
  auto* out = static_cast<U*>(a.values);
  const std::int64_t limit = indptr[a.row1];
  std::int64_t p = indptr[a.row0];
  const auto put = [&](U value, std::int64_t column) {
    if (p < limit) {
      indices[p] = static_cast<I>(column);
      out[p] = value;
    }
    ++p;
  };
  *a.bad_row = -1;
  for (std::int64_t i = a.row0; i < a.row1; ++i) {
    const U* values = static_cast<const U*>(a.dense) + i * a.stride;
    const u8* mask = Masked ? a.mask + i * a.mask_stride : nullptr;
    std::int64_t j = 0;
    for (; j + B <= a.cols; j += B) {
      u32 bits = kept_bits<Masked>(values + j, mask + (Masked ? j : 0));
      if (p + B <= limit) {
        p += emit(values + j, bits, j, indices + p, out + p);
      } else {
        for (; bits != 0; bits &= bits - 1) {
          const std::int64_t column = j + __builtin_ctz(bits);
          put(values[column], column);
        }
      }
    }
    for (; j < a.cols; ++j) {
      if (Masked ? is_kept(mask[j]) : is_kept(values[j])) put(values[j], j);
    }
    if (p != indptr[i + 1]) {
      *a.bad_row = i;
      return;
    }
  }
}

template <class I, bool Masked>
void fill(const CsrFillArgs& a) {
  with_bits_of(a.type, [&](auto bits) { fill_rows<decltype(bits), I, Masked>(a); });
}

// Clears a part of a row and, while it is in the L1 cache, writes its entries.
template <class U, class I>
void to_dense_rows(const CsrToDenseArgs& a) {
  constexpr std::int64_t kStretch = 16384 / sizeof(U);
  const auto* indptr = static_cast<const I*>(a.indptr);
  const auto* indices = static_cast<const I*>(a.indices);
  const auto* values = static_cast<const U*>(a.values);
  for (std::int64_t i = a.row0; i < a.row1; ++i) {
    U* row = static_cast<U*>(a.out) + i * a.stride;
    std::int64_t p = indptr[i];
    const std::int64_t end = indptr[i + 1];
    for (std::int64_t j = 0; j < a.cols; j += kStretch) {
      const std::int64_t stop = min_i64(a.cols, j + kStretch);
      __builtin_memset(row + j, 0, static_cast<std::size_t>(stop - j) * sizeof(U));
      if (stop == a.cols) {
        for (; p < end; ++p) row[indices[p]] = values[p];
      } else {
        for (; p < end && indices[p] < stop; ++p) row[indices[p]] = values[p];
      }
    }
  }
}

template <class I>
void to_dense(const CsrToDenseArgs& a) {
  with_bits_of(a.type, [&](auto bits) { to_dense_rows<decltype(bits), I>(a); });
}

}  // namespace

namespace GOSSAMER_LEVEL {

void csr_count(const CsrCountArgs& a);
void csr_count(const CsrCountArgs& a) { a.wide ? count<std::int64_t>(a) : count<std::int32_t>(a); }

void csr_fill(const CsrFillArgs& a);
void csr_fill(const CsrFillArgs& a) {
  if (a.mask != nullptr) {
    a.wide ? fill<std::int64_t, true>(a) : fill<std::int32_t, true>(a);
  } else {
    a.wide ? fill<std::int64_t, false>(a) : fill<std::int32_t, false>(a);
  }
}

void csr_to_dense(const CsrToDenseArgs& a);
void csr_to_dense(const CsrToDenseArgs& a) {
  a.wide ? to_dense<std::int64_t>(a) : to_dense<std::int32_t>(a);
}

}  // namespace GOSSAMER_LEVEL
}  // namespace gossamer::detail
