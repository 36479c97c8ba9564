// Exact selection in one segment that fits a cache. The segment before brackets the k-th key of one
// like it: a pass stores what lies inside. Where there is none, or the bracket misses, all keys are
// stored; then a sample of what is left brackets the k-th, a pass keeps what lies inside the
// bracket, and so on until 64 are left.

#include "kernels/select_keys.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

struct Counts {
  std::int64_t above, equal;
};

/// How many of the 64 keys at x are above, and equal to, a pivot.
template <class S>
GOSSAMER_INLINE Counts compare(const S* x, S pivot) {
  const S(&keys)[kBlock] = *reinterpret_cast<const S(*)[kBlock]>(x);
  const Split found = split(keys, pivot, pivot);
  return {bits_in(found.above), bits_in(found.inside)};
}

template <class S>
struct Found {
  S key;
  std::int64_t above, equal;
  double spacing;  // of keys about this one
};

/// The r-th largest of n ≤ 64 keys, of which the array holds 64; those past n are overwritten.
template <class S>
GOSSAMER_INLINE Found<S> find_in_block(S* x, int n, std::int64_t r) {
  for (int i = n; i < kBlock; ++i) x[i] = 0;
  S lower = 0, upper = static_cast<S>(~S{0});
  bool below = false, over = false;
  for (int i = 0; i < n; ++i) {
    const S pivot = x[i];
    if ((below && pivot <= lower) || (over && pivot >= upper)) continue;
    const Counts found = compare(x, pivot);
    if (found.above >= r) {
      lower = pivot;
      below = true;
    } else if (found.above + found.equal < r) {
      upper = pivot;
      over = true;
    } else {
      const std::int64_t padding = pivot == 0 ? kBlock - n : 0;
      return {pivot, found.above, found.equal - padding, 0};
    }
  }
  return {};  // not reached: r is at most n
}

/// The r-th largest of n keys at x; y holds as many, and both 64 more. Both are overwritten.
template <class S>
GOSSAMER_INLINE Found<S> find(S* x, S* y, std::int64_t n, std::int64_t r) {
  S lo = 0, hi = static_cast<S>(~S{0});
  std::int64_t before = 0;  // keys above hi, no longer in x
  bool halve = false;
  while (n > kBlock) {
    S a = lo, b = hi;
    if (lo == hi) {
      // One pass counts it.
    } else if (halve) {
      b = static_cast<S>(hi - (hi - lo) / 2 - 1);
    } else {
      alignas(64) S sampled[kBlock];
      const std::int64_t stride = n / kBlock;
      for (int i = 0; i < kBlock; ++i) sampled[i] = x[i * stride];
      // About two standard deviations on either side.
      const std::int64_t rank = r * kBlock / n, slack = 8;
      if (rank > slack) b = find_in_block(sampled, kBlock, rank - slack).key;
      if (rank + slack < kBlock) a = find_in_block(sampled, kBlock, rank + slack).key;
      // After a bracket that missed, x still holds keys outside of [lo, hi].
      a = a < lo ? lo : a > hi ? hi : a;
      b = b < lo ? lo : b > hi ? hi : b;
    }
    // What is kept goes to y, so that a bracket that missed costs no more than the pass.
    std::int64_t above = 0, inside = 0;
    for (std::int64_t i = 0; i < n; i += kBlock) {
      const S(&keys)[kBlock] = *reinterpret_cast<const S(*)[kBlock]>(x + i);
      const std::uint64_t valid =
          n - i >= kBlock ? ~std::uint64_t{0} : (std::uint64_t{1} << (n - i)) - 1;
      const Split found = split(keys, a, b);
      append<false>(keys, found.inside & valid, y + inside, nullptr, 0);
      above += bits_in(found.above & valid);
      inside += bits_in(found.inside & valid);
    }
    if (r <= above) {
      lo = static_cast<S>(b + 1);
      halve = true;
      continue;
    }
    if (r > above + inside) {
      hi = static_cast<S>(a - 1);
      halve = true;
      continue;
    }
    if (a == b) return {a, before + above, inside, 0};
    halve = inside > n / 2;
    S* kept = y;
    y = x;
    x = kept;
    lo = a;
    hi = b;
    n = inside;
    r -= above;
    before += above;
  }
  Found<S> found = find_in_block(x, static_cast<int>(n), r);
  found.above += before;
  found.spacing = static_cast<double>(hi - lo) / static_cast<double>(n);
  return found;
}

template <class K>
struct Bracket {
  K lo, hi;
};

/// About three standard deviations of the k-th key of `count` on either side of the guess.
template <class K>
GOSSAMER_INLINE Bracket<K> bracket_of(const SegmentGuess& guess) {
  const double n = static_cast<double>(guess.count), k = static_cast<double>(guess.k);
  const double ranks = 3.0 * __builtin_sqrt(k * (n - k) / n) + 4.0;
  constexpr double kTop = static_cast<double>(static_cast<K>(~K{0}));
  const double reach = ranks * guess.spacing;
  const K half = reach < kTop / 4 ? static_cast<K>(reach) : static_cast<K>(~K{0} / 4);
  const K center = static_cast<K>(guess.center);
  const K lo = static_cast<K>(center - half), hi = static_cast<K>(center + half);
  return {lo > center ? K{0} : lo, hi < center ? static_cast<K>(~K{0}) : hi};
}

/// Stores the keys in [lo, hi], and counts those above.
template <Mode M, class K, class S>
GOSSAMER_INLINE std::int64_t collect(const KeySource& source, Bracket<K> in, S* x,
                                     std::int64_t& inside) {
  std::int64_t above = 0, n = 0;
  const bool one = in.lo == in.hi;
  for_blocks<M, K>(source, [&](const auto& keys, std::uint64_t valid, std::int64_t, int) {
    const Split found = split(keys, in.lo, in.hi);
    const std::uint64_t set = found.inside & valid;
    if (!one && set != 0) append<false>(keys, set, x + n, nullptr, 0);
    above += bits_in(found.above & valid);
    n += bits_in(set);
  });
  inside = n;
  return above;
}

template <Mode M, class K, class S>
GOSSAMER_INLINE Found<S> find_all(const SelectSegmentArgs& a, S* x, S* y) {
  std::int64_t n = 0;
  for_blocks<M, K>(a.source, [&](const auto& keys, std::uint64_t valid, std::int64_t, int count) {
    if (valid == ~std::uint64_t{0}) {
      for (int i = 0; i < kBlock; ++i) x[n + i] = keys[i];
      n += kBlock;
    } else if (a.source.within == nullptr) {
      for (int i = 0; i < count; ++i) x[n + i] = keys[i];
      n += count;
    } else {
      append<false>(keys, valid, x + n, nullptr, 0);
      n += bits_in(valid);
    }
  });
  return find(x, y, n, a.k);
}

/// The k-th key; the guess of the next segment.
template <Mode M, class K, class S>
GOSSAMER_INLINE Found<S> find_guessed(const SelectSegmentArgs& a, S* x, S* y) {
  SegmentGuess& guess = *a.guess;
  if (guess.count == a.source.count && guess.k == a.k) {
    const Bracket<K> in = bracket_of<K>(guess);
    std::int64_t inside = 0;
    const std::int64_t above = collect<M, K>(a.source, in, x, inside);
    if (above < a.k && a.k <= above + inside) {
      if (in.lo == in.hi) return {in.lo, above, inside, 0};
      Found<S> found = find(x, y, inside, a.k - above);
      found.above += above;
      // Keys that many share are looked for alone.
      const bool shared = found.equal > inside / 2;
      const double spacing = static_cast<double>(in.hi - in.lo) / static_cast<double>(inside);
      // A step of a fourth towards this one evens out the chance of each.
      const std::uint64_t from = guess.center;
      guess.center = shared ? found.key : from - from / 4 + found.key / 4;
      guess.spacing = shared ? 0.0 : 0.75 * guess.spacing + 0.25 * spacing;
      return found;
    }
  }
  const Found<S> found = find_all<M, K>(a, x, y);
  guess = {a.source.count, a.k, found.key, found.spacing};
  return found;
}

template <Mode M, class K>
void segment(const SelectSegmentArgs& a) {
  using S = typename StoredKey<K>::type;
  S* x = static_cast<S*>(a.scratch);
  S* y = x + a.source.count + 2 * kBlock;
  const Found<S> found = find_guessed<M, K>(a, x, y);
  *a.threshold = found.key;
  *a.strict = found.above;
  *a.equal = found.equal;
  if (a.mask == nullptr && a.indices == nullptr) return;
  std::int64_t take = a.k - found.above, skip = a.tie_high ? found.equal - take : 0;
  const K threshold = static_cast<K>(found.key);
  std::int64_t written = 0;
  for_blocks<M, K>(a.source, [&](const auto& keys, std::uint64_t valid, std::int64_t i, int count) {
    const Split compared = split(keys, threshold, threshold);
    std::uint64_t set = compared.above & valid;
    if (take > 0) set |= slice(compared.inside & valid, skip, take);
    mark({a.mask, 0}, i, count, set);
    if (a.indices == nullptr) return;
    for (; set != 0; set &= set - 1) {
      a.indices[written++] = static_cast<std::int32_t>(i) + __builtin_ctzll(set);
    }
  });
}

}  // namespace

void select_segment(const SelectSegmentArgs& a);
void select_segment(const SelectSegmentArgs& a) {
  with_keys(a.source.order, [&](auto key, auto mode) {
    segment<decltype(mode)::value, typename decltype(key)::type>(a);
  });
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
