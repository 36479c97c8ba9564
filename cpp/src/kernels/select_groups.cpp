// Exact selection in many short segments of one length. As many as a vector has lanes lie side by
// side, transposed: a pass over them counts, for each, the keys above a threshold of its own, until
// those are k, or one key is left that the threshold can be.

#include "kernels/select_groups.h"

#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

/// Adds one where x is above t.
template <class I, int W>
GOSSAMER_INLINE Vec<I, W> count_above(Vec<I, W> count, Vec<I, W> x, Vec<I, W> t) {
#if defined(GOSSAMER_AVX512)
  const __m512i c = bit_cast<__m512i>(count);
  if constexpr (sizeof(I) == 4) {
    const __mmask16 above = _mm512_cmpgt_epi32_mask(bit_cast<__m512i>(x), bit_cast<__m512i>(t));
    return bit_cast<Vec<I, W>>(_mm512_mask_sub_epi32(c, above, c, _mm512_set1_epi32(-1)));
  } else {
    const __mmask8 above = _mm512_cmpgt_epi64_mask(bit_cast<__m512i>(x), bit_cast<__m512i>(t));
    return bit_cast<Vec<I, W>>(_mm512_mask_sub_epi64(c, above, c, _mm512_set1_epi64(-1)));
  }
#else
  return count - (x > t);
#endif
}

template <class V>
GOSSAMER_INLINE bool any_lane(V v) {
#if defined(GOSSAMER_AVX512)
  const __m512i x = bit_cast<__m512i>(v);
  return _mm512_test_epi64_mask(x, x) != 0;
#else
  constexpr int n = static_cast<int>(sizeof(V) / 8);
  const auto words = bit_cast<Vec<std::uint64_t, n>>(v);
  std::uint64_t any = 0;
  for (int i = 0; i < n; ++i) any |= words[i];
  return any != 0;
#endif
}

/// For each column the least entry above t, and the greatest that is not.
template <class I, int W, class S>
GOSSAMER_INLINE void neighbours(const S* lanes, int rows, Vec<I, W> t, Vec<I, W>& least,
                                Vec<I, W>& greatest) {
  constexpr I low = static_cast<I>(S{1} << (8 * sizeof(S) - 1));
  const Vec<I, W> bottom = broadcast<W>(low), top = ~bottom;
  least = top;
  greatest = bottom;
  for (int i = 0; i < rows; ++i) {
    const auto x = bit_cast<Vec<I, W>>(load<W>(lanes + i * W));
    const auto above = x > t;
    const Vec<I, W> over = above ? x : top, under = above ? bottom : x;
    least = over < least ? over : least;
    greatest = under > greatest ? under : greatest;
  }
}

/// Thresholds t of W groups, the columns of `lanes`, such that the keys above t are k, or t is the
/// k-th key; the greatest key where k is 0.
template <class S, int W>
GOSSAMER_INLINE void thresholds(const S* lanes, int rows, const S (&k)[W], S top, Trend& trend,
                                const char* ahead, int lines, S (&result)[W]) {
  using I = typename SignedOf<S>::type;
  using V = Vec<S, W>;
  constexpr S sign = static_cast<S>(S{1} << (8 * sizeof(S) - 1));
  constexpr int kSteps = 8;  // further ones halve
  const V wanted = load<W>(k);
  V hi = broadcast<W>(top);
  V lo = wanted == S{0} ? hi : V{};
  const bool known = trend.spacing > 0.0;
  const S spacing = to_key<S>(trend.spacing);
  V t = known ? broadcast<W>(to_key<S>(trend.center)) : lo + ((hi - lo) >> 1);
  t = wanted == S{0} ? hi : t;
  const V start = t;
  V missed = {};
  for (int step = 0;; ++step) {
    const auto threshold = bit_cast<Vec<I, W>>(t ^ sign);
    Vec<I, W> counts[4] = {};
    // A share of what the next groups read.
    const char* from = ahead + static_cast<std::int64_t>(step) * (rows / 4) * 64;
    const int fetched = step < 5 ? min_int(rows, 4 * (lines - step * (rows / 4))) : 0;
    for (int i = 0; i < fetched; i += 4) __builtin_prefetch(from + i * 16);
    for (int i = 0; i < rows; i += 4) {
      for (int j = 0; j < 4; ++j) {
        const auto x = bit_cast<Vec<I, W>>(load<W>(lanes + (i + j) * W));
        counts[j] = count_above<I, W>(counts[j], x, threshold);
      }
    }
    const auto excess =
        (counts[0] + counts[1]) + (counts[2] + counts[3]) - bit_cast<Vec<I, W>>(wanted);
    if (step == 0) missed = bit_cast<V>(excess < 0 ? -excess : excess);
    lo = excess > 0 ? t + 1 : excess == 0 ? t : lo;
    hi = excess > 0 ? hi : t;
    // A group that is off by one takes the key next to its threshold.
    const Vec<I, W> open = lo != hi;
    const Vec<I, W> by_one = ((excess == 1) | (excess == -1)) & open;
    if (!any_lane(open & ~by_one)) {
      if (any_lane(by_one)) {
        Vec<I, W> least, greatest;
        neighbours<I, W>(lanes, rows, threshold, least, greatest);
        const auto key = bit_cast<V>(excess > 0 ? least : greatest) ^ sign;
        lo = by_one ? key : lo;
      }
      break;
    }
    const V middle = lo + ((hi - lo) >> 1);
    const V next = t + bit_cast<V>(excess) * spacing;
    const V moved = next >= lo && next < hi && step < kSteps ? next : middle;
    t = by_one ? t : open ? moved : lo;
  }
  store<W>(result, lo);
  const V counted = bit_cast<V>(wanted != S{0});
  // Twice, for halves are added.
  const double error = 0.5 * sum_about<S, W>(missed + missed, counted);
  const double groups = 0.5 * sum_about<S, W>(broadcast<W>(S{2}), counted);
  if (groups == 0.0) return;
  const double distance = sum_about<S, W>(start > lo ? start - lo : lo - start, counted);
  const double sum = sum_about<S, W>(lo, counted);
  const bool jumped = !known || error * 4.0 > groups * static_cast<double>(rows);
  if (error > 0.0) trend.spacing = distance / error;
  const double mean = sum / groups;
  trend.center = jumped ? mean : 0.75 * trend.center + 0.25 * mean;
}

/// Which of 64 elements have keys above t.
template <Mode M, class K>
GOSSAMER_INLINE std::uint64_t above_word(const K* from, const KeyMap<K>& map, K t) {
#if defined(GOSSAMER_AVX512)
  std::uint64_t word = 0;
  constexpr int W = kLanes<K>;
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; i += W) {
    const __m512i x = bit_cast<__m512i>(keys_of<M, K, W>(load<W>(from + i), map));
    std::uint64_t above;
    if constexpr (sizeof(K) == 2) {
      above = _mm512_cmpgt_epu16_mask(x, _mm512_set1_epi16(static_cast<short>(t)));
    } else if constexpr (sizeof(K) == 4) {
      above = _mm512_cmpgt_epu32_mask(x, _mm512_set1_epi32(static_cast<int>(t)));
    } else {
      above = _mm512_cmpgt_epu64_mask(x, _mm512_set1_epi64(static_cast<long long>(t)));
    }
    word |= above << i;
  }
  return word;
#else
  alignas(64) K keys[kBlock];
  alignas(64) std::uint8_t above[kBlock];
  block_keys<M, K>(from, map, keys);
  for (int i = 0; i < kBlock; ++i) above[i] = keys[i] > t ? 1 : 0;
  return nonzero_bytes(above);
#endif
}

template <Mode M, class K>
void groups(const SelectGroupsArgs& a) {
  using S = typename StoredKey<K>::type;
  constexpr int W = kLanes<S>;
  constexpr S sign = static_cast<S>(S{1} << (8 * sizeof(S) - 1));
  const KeyMap<K> map = key_map<K>(a.source.order);
  const K* data = static_cast<const K*>(a.source.data);
  const int length = static_cast<int>(a.length);
  const std::int64_t count = (a.source.count + length - 1) / length;
  // A multiple of the lanes, zero past the end.
  constexpr int kStep = W < 4 ? 4 : W;
  const int rows = (length + kStep - 1) / kStep * kStep;
  alignas(64) S lanes[W * kGroupLength];
  Trend trend;
  for (std::int64_t g = 0; g < count; g += W) {
    alignas(64) S k[W] = {}, t[W];
    int n[W] = {};
    for (int r = 0; r < W && g + r < count; ++r) {
      k[r] = static_cast<S>(a.k[a.one_k ? 0 : g + r]);
      n[r] = static_cast<int>(min_i64(length, a.source.count - (g + r) * length));
    }
    const K* from = data + g * length;
    for (int c = 0; c < rows; c += W) {
      Vec<S, W> x[W];
      if (n[W - 1] >= c + W) {
#pragma GCC unroll 16
        for (int r = 0; r < W; ++r) {
          const auto key = keys_of<M, K, W>(load<W>(from + r * length + c), map);
          x[r] = __builtin_convertvector(key, Vec<S, W>);
        }
      } else {
        for (int r = 0; r < W; ++r) {
          const int left = min_int(W, n[r] - c);
          K part[W] = {};
          if (left > 0) {
            __builtin_memcpy(part, from + r * length + c,
                             static_cast<std::size_t>(left) * sizeof(K));
          }
          store<W>(part, keys_of<M, K, W>(load<W>(part), map));
          for (int i = 0; i < W; ++i) x[r][i] = i < left ? part[i] : K{0};
        }
      }
      transpose_registers<W>(x);
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) store<W>(lanes + (c + r) * W, x[r] ^ sign);
    }
    thresholds<S, W>(lanes, rows, k, static_cast<S>(static_cast<K>(~K{0})), trend,
                     reinterpret_cast<const char*>(from + W * length),
                     W * length * static_cast<int>(sizeof(K)) / 64, t);
    for (int r = 0; r < W && n[r] != 0; ++r) {
      std::uint64_t chosen[kGroupLength / kBlock];
      std::int64_t strict = 0;
      const int blocks = (n[r] + kBlock - 1) / kBlock;
      const std::int64_t first = (g + r) * length;
      const K threshold = static_cast<K>(t[r]);
      alignas(64) K part[kBlock] = {};
      // A block may hold elements of the next groups; only the array's last is copied.
      const auto block_of = [&](int b) {
        const std::int64_t at = first + b * kBlock, left = a.source.count - at;
        if (left >= kBlock) return data + at;
        __builtin_memcpy(part, data + at, static_cast<std::size_t>(left) * sizeof(K));
        return static_cast<const K*>(part);
      };
      const auto valid = [&](int b) {
        const int left = n[r] - b * kBlock;
        return left >= kBlock ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
      };
      for (int b = 0; b < blocks; ++b) {
        chosen[b] = above_word<M, K>(block_of(b), map, threshold) & valid(b);
        strict += bits_in(chosen[b]);
      }
      std::int64_t take = static_cast<std::int64_t>(k[r]) - strict;
      if (take > 0) {
        std::uint64_t equal[kGroupLength / kBlock];
        std::int64_t ties = 0;
        for (int b = 0; b < blocks; ++b) {
          alignas(64) K tied[kBlock];
          block_keys<M, K>(block_of(b), map, tied);
          equal[b] = split(tied, threshold, threshold).inside & valid(b);
          ties += bits_in(equal[b]);
        }
        std::int64_t skip = a.tie_high ? ties - take : 0;
        for (int b = 0; b < blocks; ++b) chosen[b] |= slice(equal[b], skip, take);
      }
      for (int b = 0; b < blocks; ++b) {
        // What a whole block writes past the group's end, the next groups write again.
        const std::int64_t at = first + b * kBlock;
        mark({a.mask + at, 0}, 0, static_cast<int>(min_i64(kBlock, a.source.count - at)),
             chosen[b]);
      }
    }
  }
}

}  // namespace

void select_groups(const SelectGroupsArgs& a);
void select_groups(const SelectGroupsArgs& a) {
  with_keys(a.source.order, [&](auto key, auto mode) {
#if defined(GOSSAMER_AVX512)
    if (a.length > kFew) {
      return bracket_groups<decltype(mode)::value, typename decltype(key)::type>(a);
    }
#endif
    groups<decltype(mode)::value, typename decltype(key)::type>(a);
  });
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
