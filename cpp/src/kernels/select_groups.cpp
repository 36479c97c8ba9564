// Exact selection in many short segments of one length. As many as a vector has lanes lie side by
// side, transposed: a pass over them counts, for each, the keys above a threshold of its own, until
// those are k, or one key is left that the threshold can be.

#include "kernels/select_keys.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

template <class S>
struct SignedOf {
  using type = std::int32_t;
};
template <>
struct SignedOf<std::uint64_t> {
  using type = std::int64_t;
};

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
  constexpr int n = static_cast<int>(sizeof(V) / 8);
  const auto words = bit_cast<Vec<std::uint64_t, n>>(v);
  std::uint64_t any = 0;
  for (int i = 0; i < n; ++i) any |= words[i];
  return any != 0;
}

/// Where the thresholds of groups lie, as those before tell.
struct Trend {
  double center = 0.0, spacing = 0.0;  // spacing 0: nothing is known
};

template <class S>
GOSSAMER_INLINE S to_key(double x) {
  constexpr double kTop = static_cast<double>(static_cast<S>(~S{0}) / 2) * 2.0;
  return x <= 0.0 ? S{0} : x >= kTop ? static_cast<S>(~S{0}) : static_cast<S>(x);
}

/// Thresholds t of W groups, the columns of `lanes`, such that the keys above t are k, or t is the
/// k-th key; the greatest key where k is 0.
template <class S, int W>
GOSSAMER_INLINE void thresholds(const S* lanes, int rows, const S (&k)[W], S top, Trend& trend,
                                S (&result)[W]) {
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
    if (!any_lane(lo ^ hi)) break;
    const V middle = lo + ((hi - lo) >> 1);
    const V next = t + bit_cast<V>(excess) * spacing;
    t = next >= lo && next < hi && step < kSteps ? next : middle;
  }
  store<W>(result, lo);
  S starts[W], errors[W];
  store<W>(starts, start);
  store<W>(errors, missed);
  double distance = 0.0, error = 0.0, sum = 0.0, groups = 0.0;
  for (int i = 0; i < W; ++i) {
    const double from = static_cast<double>(starts[i]), to = static_cast<double>(result[i]);
    const double counts = k[i] == 0 ? 0.0 : 1.0;
    distance += counts * __builtin_fabs(from - to);
    error += counts * static_cast<double>(errors[i]);
    sum += counts * to;
    groups += counts;
  }
  if (groups == 0.0) return;
  const bool jumped = !known || error * 4.0 > groups * static_cast<double>(rows);
  if (error > 0.0) trend.spacing = distance / error;
  const double mean = sum / groups;
  trend.center = jumped ? mean : 0.75 * trend.center + 0.25 * mean;
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
  // Rows of whole blocks for the masks; columns up to a multiple of the lanes, zero past the end.
  const int pitch = (length + kBlock - 1) / kBlock * kBlock;
  constexpr int kStep = W < 4 ? 4 : W;
  const int rows = (length + kStep - 1) / kStep * kStep;
  alignas(64) S keys[W * kGroupLength];
  alignas(64) S lanes[W * kGroupLength];
  __builtin_memset(keys, 0, sizeof keys);
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
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) store<W>(keys + r * pitch + c, x[r]);
      transpose_registers<W>(x);
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) store<W>(lanes + (c + r) * W, x[r] ^ sign);
    }
    thresholds<S, W>(lanes, rows, k, static_cast<S>(static_cast<K>(~K{0})), trend, t);
    for (int r = 0; r < W && n[r] != 0; ++r) {
      std::uint64_t above[kGroupLength / kBlock], equal[kGroupLength / kBlock];
      std::int64_t strict = 0, ties = 0;
      const int blocks = (n[r] + kBlock - 1) / kBlock;
      for (int b = 0; b < blocks; ++b) {
        const int left = n[r] - b * kBlock;
        const std::uint64_t valid =
            left >= kBlock ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
        const S(&block)[kBlock] =
            *reinterpret_cast<const S(*)[kBlock]>(keys + r * pitch + b * kBlock);
        const Split found = split(block, t[r], t[r]);
        above[b] = found.above & valid;
        equal[b] = found.inside & valid;
        strict += bits_in(above[b]);
        ties += bits_in(equal[b]);
      }
      std::int64_t take = static_cast<std::int64_t>(k[r]) - strict;
      std::int64_t skip = a.tie_high ? ties - take : 0;
      const std::int64_t first = (g + r) * length;
      for (int b = 0; b < blocks; ++b) {
        if (take > 0) above[b] |= slice(equal[b], skip, take);
        // What a whole block writes past the group's end, the next groups write again.
        const std::int64_t at = first + b * kBlock;
        mark({a.mask + at, 0}, 0, static_cast<int>(min_i64(kBlock, a.source.count - at)), above[b]);
      }
    }
  }
}

}  // namespace

void select_groups(const SelectGroupsArgs& a);
void select_groups(const SelectGroupsArgs& a) {
  with_keys(a.source.order, [&](auto key, auto mode) {
    groups<decltype(mode)::value, typename decltype(key)::type>(a);
  });
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
