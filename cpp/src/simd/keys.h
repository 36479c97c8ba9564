#pragma once

// Elements as keys (docs/selection.md): unsigned integers of which a larger one is selected
// earlier. After the conversion only integers are compared. Elements are handled in blocks of 64; a
// set of elements of a block is a 64-bit word with a bit for each.

#include "simd/simd.h"
#include "simd/types.h"

namespace gossamer::detail {
namespace {

constexpr int kBlock = 64;

/// How elements become keys: as signed numbers, by their magnitude, or as unsigned integers.
enum class Mode : std::uint8_t { number, magnitude, word };

/// The constants of an order: the bits of infinity, the key of NaN, and `flip`, which is
/// exclusive-or'ed with keys at the end to reverse the order.
template <class K>
struct KeyMap {
  K infinity, nan, flip;
};

template <class K>
GOSSAMER_INLINE KeyMap<K> key_map(const KeyOrder& order) {
  constexpr K ones = static_cast<K>(~K{0});
  const K flip = order.largest ? K{0} : ones;
  const K nan = static_cast<K>((order.nan_high ? ones : K{0}) ^ flip);
  return {static_cast<K>(infinity_bits(order.type)), nan, flip};
}

/// The keys of W elements. The key of a number is 2^(bits-1) plus its magnitude's bits, or minus
/// them if it is negative. So -0 and +0 have the same key, and the least and the greatest key are
/// free for NaN.
template <Mode M, class K, int W>
GOSSAMER_INLINE Vec<K, W> keys_of(Vec<K, W> bits, const KeyMap<K>& map) {
  constexpr int n = 8 * static_cast<int>(sizeof(K));
  constexpr K sign = static_cast<K>(K{1} << (n - 1));
  if constexpr (M == Mode::word) {
    return bits ^ map.flip;
  } else {
    const Vec<K, W> magnitude = bits & static_cast<K>(~sign);
    Vec<K, W> key;
    if constexpr (M == Mode::magnitude) {
      key = magnitude ^ static_cast<K>(sign ^ map.flip);
    } else {
      const Vec<K, W> minus = Vec<K, W>{} - (bits >> (n - 1));
      key = ((magnitude ^ minus) - minus + sign) ^ map.flip;
    }
    return magnitude > map.infinity ? broadcast<W>(map.nan) : key;
  }
}

template <Mode M, class K>
GOSSAMER_INLINE void block_keys(const K* from, const KeyMap<K>& map, K (&keys)[kBlock]) {
  constexpr int W = kLanes<K>;
#pragma GCC unroll 32
  for (int i = 0; i < kBlock; i += W) store<W>(keys + i, keys_of<M, K, W>(load<W>(from + i), map));
}

/// Bit i = whether byte i is nonzero.
GOSSAMER_INLINE std::uint64_t nonzero_bytes(const std::uint8_t* bytes) {
#if defined(GOSSAMER_AVX512)
  const __m512i x = _mm512_loadu_si512(bytes);
  return _mm512_test_epi8_mask(x, x);
#elif defined(__SSE2__)
  std::uint64_t word = 0;
  for (int i = 0; i < 4; ++i) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + 16 * i));
    const int zero = _mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_setzero_si128()));
    word |= static_cast<std::uint64_t>(static_cast<std::uint16_t>(~zero)) << (16 * i);
  }
  return word;
#else
  std::uint64_t word = 0;
  for (int i = 0; i < kBlock; ++i) word |= static_cast<std::uint64_t>(bytes[i] != 0) << i;
  return word;
#endif
}

#if defined(GOSSAMER_AVX512)

/// A type with a bit for each lane of a register of keys.
template <class K>
struct LanesOf {
  using type = __mmask16;
};
template <>
struct LanesOf<std::uint16_t> {
  using type = __mmask32;
};
template <>
struct LanesOf<std::uint64_t> {
  using type = __mmask8;
};
template <class K>
using LaneSet = typename LanesOf<K>::type;

template <class K>
GOSSAMER_INLINE __m512i set_all(K x) {
  if constexpr (sizeof(K) == 2) return _mm512_set1_epi16(static_cast<short>(x));
  if constexpr (sizeof(K) == 4) return _mm512_set1_epi32(static_cast<int>(x));
  if constexpr (sizeof(K) == 8) return _mm512_set1_epi64(static_cast<long long>(x));
}

/// Which of the lanes `of` have x > y, or, with Least, x ≥ y.
template <class K, bool Least = false>
GOSSAMER_INLINE LaneSet<K> lanes_above(LaneSet<K> of, __m512i x, __m512i y) {
  constexpr int is = Least ? _MM_CMPINT_NLT : _MM_CMPINT_NLE;
  if constexpr (sizeof(K) == 2) return _mm512_mask_cmp_epu16_mask(of, x, y, is);
  if constexpr (sizeof(K) == 4) return _mm512_mask_cmp_epu32_mask(of, x, y, is);
  if constexpr (sizeof(K) == 8) return _mm512_mask_cmp_epu64_mask(of, x, y, is);
}

/// Which of the lanes `of` have x ≠ y.
template <class K>
GOSSAMER_INLINE LaneSet<K> lanes_unequal(LaneSet<K> of, __m512i x, __m512i y) {
  if constexpr (sizeof(K) == 2) return _mm512_mask_cmpneq_epi16_mask(of, x, y);
  if constexpr (sizeof(K) == 4) return _mm512_mask_cmpneq_epi32_mask(of, x, y);
  if constexpr (sizeof(K) == 8) return _mm512_mask_cmpneq_epi64_mask(of, x, y);
}

/// Joins the lane sets of a block's registers into one 64-bit set.
template <class K>
GOSSAMER_INLINE std::uint64_t join(const LaneSet<K>* lanes) {
  if constexpr (sizeof(K) == 2) return _mm512_kunpackd(lanes[1], lanes[0]);
  if constexpr (sizeof(K) == 4) {
    return _mm512_kunpackd(_mm512_kunpackw(lanes[3], lanes[2]),
                           _mm512_kunpackw(lanes[1], lanes[0]));
  }
  if constexpr (sizeof(K) == 8) {
    const auto four = [&](int i) {
      return _mm512_kunpackw(_mm512_kunpackb(lanes[i + 3], lanes[i + 2]),
                             _mm512_kunpackb(lanes[i + 1], lanes[i]));
    };
    return _mm512_kunpackd(four(4), four(0));
  }
}

#endif

struct Split {
  std::uint64_t above, inside;
};

/// The keys above `mark`, and the keys in [lo, hi].
template <class K>
GOSSAMER_INLINE Split split(const K (&keys)[kBlock], K lo, K hi, K mark) {
#if defined(GOSSAMER_AVX512)
  constexpr int W = kLanes<K>;
  constexpr auto all = static_cast<LaneSet<K>>(~std::uint64_t{0});
  LaneSet<K> inside[kBlock / W], above[kBlock / W];
#pragma GCC unroll 8
  for (int v = 0; v < kBlock / W; ++v) {
    const __m512i x = _mm512_loadu_si512(keys + v * W);
    above[v] = lanes_above<K>(all, x, set_all(mark));
    inside[v] = lanes_above<K, true>(lanes_above<K, true>(all, x, set_all(lo)), set_all(hi), x);
  }
  return {join<K>(above), join<K>(inside)};
#else
  const K width = static_cast<K>(hi - lo);
  alignas(64) std::uint8_t above[kBlock], inside[kBlock];
  for (int i = 0; i < kBlock; ++i) above[i] = keys[i] > mark ? 1 : 0;
  for (int i = 0; i < kBlock; ++i) inside[i] = static_cast<K>(keys[i] - lo) <= width ? 1 : 0;
  return {nonzero_bytes(above), nonzero_bytes(inside)};
#endif
}
template <class K>
GOSSAMER_INLINE Split split(const K (&keys)[kBlock], K lo, K hi) {
  return split(keys, lo, hi, hi);
}

GOSSAMER_INLINE int bits_in(std::uint64_t word) { return __builtin_popcountll(word); }

/// The type that lists of keys have: 32 bits also for 16-bit keys.
template <class K>
struct StoredKey {
  using type = std::uint32_t;
};
template <>
struct StoredKey<std::uint64_t> {
  using type = std::uint64_t;
};

/// Appends the keys of a set to a list, and, with Index, the elements' numbers, counted from
/// `base`. May write up to 64 entries.
template <bool Index, class K, class S>
GOSSAMER_INLINE void append(const K (&keys)[kBlock], std::uint64_t set, S* to,
                            std::uint32_t* indices, std::uint32_t base) {
#if defined(GOSSAMER_AVX512)
  constexpr int W = sizeof(S) == 8 ? 8 : 16;
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  int at = 0;
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; i += W) {
    const std::uint64_t part = (set >> i) & ((1u << W) - 1u);
    if constexpr (sizeof(S) == 8) {
      const auto mask = static_cast<__mmask8>(part);
      const __m512i x = _mm512_loadu_si512(keys + i);
      _mm512_storeu_si512(to + at, _mm512_maskz_compress_epi64(mask, x));
      if constexpr (Index) {
        const __m256i number = _mm256_add_epi32(
            _mm512_castsi512_si256(lanes),
            _mm256_set1_epi32(static_cast<int>(base + static_cast<std::uint32_t>(i))));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(indices + at),
                            _mm256_maskz_compress_epi32(mask, number));
      }
    } else {
      const auto mask = static_cast<__mmask16>(part);
      __m512i x;
      if constexpr (sizeof(K) == 2) {
        x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys + i)));
      } else {
        x = _mm512_loadu_si512(keys + i);
      }
      _mm512_storeu_si512(to + at, _mm512_maskz_compress_epi32(mask, x));
      if constexpr (Index) {
        const __m512i number = _mm512_add_epi32(
            lanes, _mm512_set1_epi32(static_cast<int>(base + static_cast<std::uint32_t>(i))));
        _mm512_storeu_si512(indices + at, _mm512_maskz_compress_epi32(mask, number));
      }
    }
    at += bits_in(part);
  }
#else
  int at = 0;
  while (set != 0) {
    const int i = __builtin_ctzll(set);
    set &= set - 1;
    to[at] = keys[i];
    if constexpr (Index) indices[at] = base + static_cast<std::uint32_t>(i);
    ++at;
  }
#endif
}

/// Elements whose keys are made of the stored values themselves.
template <Mode M, class Bits>
struct Plain {
  using Key = Bits;
  static constexpr int W = kLanes<Key>;
  const Key* data;
  KeyMap<Key> map;

  GOSSAMER_INLINE Vec<Key, W> keys(std::int64_t i) const {
    return keys_of<M, Key, W>(load<W>(data + i), map);
  }
  GOSSAMER_INLINE void prefetch(std::int64_t i) const {
    constexpr int kLine = 64 / static_cast<int>(sizeof(Key));
    for (int j = 0; j < kBlock; j += kLine) __builtin_prefetch(data + i + j, 0, 2);
  }
  /// Calls f with a copy of elements [i, i + n) as a whole block, n < 64, padded with zeros.
  template <class F>
  GOSSAMER_INLINE void first(std::int64_t i, int n, F&& f) const {
    alignas(64) Key part[kBlock] = {};
    __builtin_memcpy(part, data + i, static_cast<std::size_t>(n) * sizeof(Key));
    f(Plain{part, map});
  }
};

template <class E>
GOSSAMER_INLINE void block_of(const E& elements, std::int64_t i, typename E::Key (&keys)[kBlock]) {
#pragma GCC unroll 32
  for (int j = 0; j < kBlock; j += E::W) store<E::W>(keys + j, elements.keys(i + j));
}

#if defined(GOSSAMER_AVX512)
/// Appends the keys in a set of lanes to a list; returns the end of the list.
template <class K, class S>
GOSSAMER_INLINE S* append_lanes(__m512i x, LaneSet<K> set, S* to) {
  if constexpr (sizeof(K) == 2) {
    const auto low = static_cast<__mmask16>(set), high = static_cast<__mmask16>(set >> 16);
    const __m512i lower = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(x));
    const __m512i upper = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(x, 1));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(low, lower));
    to += bits_in(low);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(high, upper));
    return to + bits_in(high);
  } else if constexpr (sizeof(K) == 4) {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(set, x));
  } else {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(set, x));
  }
  return to + bits_in(set);
}
#endif

/// Which elements of a block are above hi and which in [lo, hi], of those in `valid`. Appends the
/// keys of the latter to a list.
template <class E, class S>
GOSSAMER_INLINE Split keep(const E& elements, std::int64_t i, typename E::Key lo,
                           typename E::Key hi, std::uint64_t valid, S* to) {
  using K = typename E::Key;
#if defined(GOSSAMER_AVX512)
  LaneSet<K> from[kBlock / E::W], inside[kBlock / E::W];
#pragma GCC unroll 8
  for (int v = 0; v < kBlock / E::W; ++v) {
    const auto x = bit_cast<__m512i>(elements.keys(i + v * E::W));
    from[v] = lanes_above<K, true>(static_cast<LaneSet<K>>(valid >> (v * E::W)), x, set_all(lo));
    inside[v] = lanes_above<K, true>(from[v], set_all(hi), x);
    to = append_lanes<K>(x, inside[v], to);
  }
  const std::uint64_t in = join<K>(inside);
  return {join<K>(from) & ~in, in};
#else
  alignas(64) K keys[kBlock];
  block_of(elements, i, keys);
  const Split found = split(keys, lo, hi);
  append<false>(keys, found.inside & valid, to, nullptr, 0);
  return {found.above & valid, found.inside & valid};
#endif
}

/// Writes the first n elements of a set to a mask, beginning at element `first`, a multiple of 64.
GOSSAMER_INLINE void mark(const MaskTarget& mask, std::int64_t first, int n, std::uint64_t set) {
  if (mask.data == nullptr) return;
  if (mask.format == prune::MaskFormat::bytes) {
    alignas(64) std::uint8_t part[kBlock];
    std::uint8_t* bytes = n == kBlock ? mask.data + first : part;
#if defined(GOSSAMER_AVX512)
    _mm512_storeu_si512(bytes, _mm512_maskz_set1_epi8(set, 1));
#else
    for (int i = 0; i < 8; ++i) {
      const std::uint64_t spread =
          (((set >> (8 * i)) & 0xffu) * 0x0101010101010101u) & 0x8040201008040201u;
      const std::uint64_t ones = ((spread + 0x7f7f7f7f7f7f7f7fu) >> 7) & 0x0101010101010101u;
      __builtin_memcpy(bytes + 8 * i, &ones, 8);
    }
#endif
    if (n != kBlock) __builtin_memcpy(mask.data + first, part, static_cast<std::size_t>(n));
    return;
  }
  if (mask.format == prune::MaskFormat::big) {
    set = ((set >> 1) & 0x5555555555555555u) | ((set & 0x5555555555555555u) << 1);
    set = ((set >> 2) & 0x3333333333333333u) | ((set & 0x3333333333333333u) << 2);
    set = ((set >> 4) & 0x0f0f0f0f0f0f0f0fu) | ((set & 0x0f0f0f0f0f0f0f0fu) << 4);
  }
  __builtin_memcpy(mask.data + first / 8, &set, static_cast<std::size_t>((n + 7) / 8));
}

/// Moves bit i of `bits` to where `set` has its i-th set bit.
GOSSAMER_INLINE std::uint64_t deposit(std::uint64_t bits, std::uint64_t set) {
#if defined(__BMI2__)
  return _pdep_u64(bits, set);
#else
  std::uint64_t result = 0;
  for (; set != 0; set &= set - 1, bits >>= 1) {
    if ((bits & 1) != 0) result |= set & (~set + 1);
  }
  return result;
#endif
}

/// Skips the first `skip` elements of the set and returns the next `take`; subtracts from both what
/// it used up.
GOSSAMER_INLINE std::uint64_t slice(std::uint64_t set, std::int64_t& skip, std::int64_t& take) {
  const int n = bits_in(set);
  if (skip >= n) {
    skip -= n;
    return 0;
  }
  if (skip == 0 && take >= n) {
    take -= n;
    return set;
  }
  std::uint64_t result = 0;
  for (; set != 0 && take > 0; set &= set - 1) {
    if (skip > 0) {
      --skip;
    } else {
      result |= set & (~set + 1);
      --take;
    }
  }
  return result;
}

/// The eligible elements of a whole block.
GOSSAMER_INLINE std::uint64_t counted(const KeySource& source, std::int64_t i) {
  if (source.within == nullptr) return ~std::uint64_t{0};
  if (!source.within_bits) return nonzero_bytes(source.within + i);
  std::uint64_t word = 0;
  __builtin_memcpy(&word, source.within + i / 8, sizeof word);
  return word;
}

/// Calls f(keys, valid, first, n) for each block of the source; `valid` is the set of elements that
/// exist and are eligible.
template <Mode M, class K, class F>
GOSSAMER_INLINE void for_blocks(const KeySource& source, F&& f) {
  const KeyMap<K> map = key_map<K>(source.order);
  const K* data = static_cast<const K*>(source.data);
  alignas(64) K keys[kBlock];
  std::int64_t i = 0;
  for (; i + kBlock <= source.count; i += kBlock) {
    block_keys<M, K>(data + i, map, keys);
    f(keys, counted(source, i), i, kBlock);
  }
  const int n = static_cast<int>(source.count - i);
  if (n == 0) return;
  alignas(64) K part[kBlock] = {};
  __builtin_memcpy(part, data + i, static_cast<std::size_t>(n) * sizeof(K));
  std::uint64_t valid = (std::uint64_t{1} << n) - 1;
  if (source.within != nullptr && source.within_bits) {
    valid &= counted(source, i);
  } else if (source.within != nullptr) {
    alignas(64) std::uint8_t within[kBlock] = {};
    __builtin_memcpy(within, source.within + i, static_cast<std::size_t>(n));
    valid &= nonzero_bytes(within);
  }
  block_keys<M, K>(part, map, keys);
  f(keys, valid, i, n);
}

template <Mode M>
struct ModeOf {
  static constexpr Mode value = M;
};

/// Calls f(Type<key>, ModeOf<mode>) with the key type and the mode of an order.
template <class F>
GOSSAMER_INLINE void with_keys(const KeyOrder& order, F&& f) {
  const auto floating = [&](auto key) {
    if (order.magnitude) {
      f(key, ModeOf<Mode::magnitude>{});
    } else {
      f(key, ModeOf<Mode::number>{});
    }
  };
  switch (order.type) {
    case DType::f64:
      return floating(Type<std::uint64_t>{});
    case DType::f16:
    case DType::bf16:
      return floating(Type<std::uint16_t>{});
    default:
      return floating(Type<std::uint32_t>{});
  }
}

}  // namespace
}  // namespace gossamer::detail
