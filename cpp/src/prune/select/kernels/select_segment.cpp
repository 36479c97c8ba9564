// Exact selection in one segment that fits in a core's cache (docs/selection.md). The segment
// before it gives a bracket, an interval of keys that should hold this segment's k-th key. One pass
// notes which elements are above the bracket and which inside, and stores the keys inside; the k-th
// key is found among these. Where the bracket missed, the pass's counts place the next one. Without
// a guess, all keys are stored, and brackets come from samples of them.

#include "prune/select/args.h"
#include "simd/keys.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Elements with a score of |w| · factor, computed when the keys are read.
template <class T>
struct Weighted {
  using Key = std::uint32_t;
  static constexpr int W = kLanes<Key>;
  const T* data;
  const float* factor;
  KeyMap<Key> map;

  GOSSAMER_INLINE Vec<Key, W> keys(std::int64_t i) const {
    const Vec<float, W> score = load_real<W>(data + i) * load<W>(factor + i);
    return keys_of<Mode::magnitude, Key, W>(bit_cast<Vec<Key, W>>(score), map);
  }
  GOSSAMER_INLINE void prefetch(std::int64_t i) const {
    constexpr int kLine = 64 / static_cast<int>(sizeof(T));
    for (int j = 0; j < kBlock; j += kLine) __builtin_prefetch(data + i + j, 0, 2);
  }
  template <class F>
  GOSSAMER_INLINE void first(std::int64_t i, int n, F&& f) const {
    alignas(64) T part[kBlock] = {};
    alignas(64) float factors[kBlock] = {};
    __builtin_memcpy(part, data + i, static_cast<std::size_t>(n) * sizeof(T));
    __builtin_memcpy(factors, factor + i, static_cast<std::size_t>(n) * sizeof(float));
    f(Weighted{part, factors, map});
  }
};

/// Calls f(elements, i, valid, first, n) for each block of the segment. The block's elements are
/// those from i on (of a copy, for the last block); n of them exist, `valid` says which are
/// eligible, and `first` is the first one's number in the segment. Prefetches the elements that
/// follow the segment, which are the next segment's.
template <class E, class F>
GOSSAMER_INLINE void each_block(const E& elements, const KeySource& source, F&& f) {
  std::int64_t i = 0;
  for (; i + kBlock <= source.count; i += kBlock) {
    elements.prefetch(source.count + i);
    f(elements, i, source.within != nullptr ? nonzero_bytes(source.within + i) : ~std::uint64_t{0},
      i, kBlock);
  }
  const int n = static_cast<int>(source.count - i);
  if (n == 0) return;
  std::uint64_t valid = (std::uint64_t{1} << n) - 1;
  if (source.within != nullptr) {
    alignas(64) std::uint8_t within[kBlock] = {};
    __builtin_memcpy(within, source.within + i, static_cast<std::size_t>(n));
    valid &= nonzero_bytes(within);
  }
  elements.first(i, n, [&](const E& part) { f(part, 0, valid, i, n); });
}

template <class V>
GOSSAMER_INLINE std::int64_t sum_of(V v) {
  constexpr int n = static_cast<int>(sizeof(V) / sizeof(v[0]));
  std::int64_t sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<std::int64_t>(v[i]);
  return sum;
}

/// Sets the keys from n up to the end of its block to zero; loops over whole blocks may read them.
template <class S>
GOSSAMER_INLINE void pad(S* x, std::int64_t n) {
  for (; n % kBlock != 0; ++n) x[n] = 0;
}

/// Of n padded keys, counts those for which of(vector) sets all bits of the lane.
template <class S, class F>
GOSSAMER_INLINE std::int64_t count_where(const S* x, std::int64_t n, F&& of) {
  constexpr int W = kLanes<S>;
  Vec<S, W> counts[4] = {};
  for (std::int64_t i = 0; i < n; i += kBlock) {
#pragma GCC unroll 16
    for (int j = 0; j < kBlock / W; ++j) counts[j % 4] -= of(load<W>(x + i + j * W));
  }
  return sum_of((counts[0] + counts[1]) + (counts[2] + counts[3]));
}

template <class S>
GOSSAMER_INLINE std::int64_t count_above(const S* x, std::int64_t n, S t) {
  return count_where(x, n, [=](auto v) { return bit_cast<decltype(v)>(v > t); });
}

template <class S>
GOSSAMER_INLINE std::int64_t count_equal(const S* x, std::int64_t n, S t) {
  const std::int64_t padding = t == 0 ? (n + kBlock - 1) / kBlock * kBlock - n : 0;
  return count_where(x, n, [=](auto v) { return bit_cast<decltype(v)>(v == t); }) - padding;
}

/// The least of n padded keys that are above t; the greatest value of S if there is none.
template <class S>
GOSSAMER_INLINE S least_above(const S* x, std::int64_t n, S t) {
  constexpr int W = kLanes<S>;
  constexpr S top = static_cast<S>(~S{0});
  Vec<S, W> least = broadcast<W>(top);
  for (std::int64_t i = 0; i < n; i += W) {
    const auto v = load<W>(x + i);
    const auto above = v > t ? v : broadcast<W>(top);
    least = above < least ? above : least;
  }
  S result = top;
  for (int i = 0; i < W; ++i) result = least[i] < result ? least[i] : result;
  return result;
}

/// The greatest of n padded keys that are at most t.
template <class S>
GOSSAMER_INLINE S greatest_to(const S* x, std::int64_t n, S t) {
  constexpr int W = kLanes<S>;
  Vec<S, W> greatest = {};
  for (std::int64_t i = 0; i < n; i += W) {
    const auto v = load<W>(x + i);
    const auto to = v > t ? Vec<S, W>{} : v;
    greatest = to > greatest ? to : greatest;
  }
  S result = 0;
  for (int i = 0; i < W; ++i) result = greatest[i] > result ? greatest[i] : result;
  return result;
}

template <class S>
struct Found {
  S key;
  std::int64_t above, equal;
  double spacing;  // mean distance between keys around this one
};

/// The r-th largest of n padded keys, all in [lo, hi], by passes that count the keys above a pivot.
/// The pivot is where the r-th key would lie if the keys in between were evenly spaced; every
/// second one halves the interval if that does not converge. Called, since it is in many places.
template <class S>
__attribute__((noinline)) Found<S> find_few(const S* x, std::int64_t n, std::int64_t r, S lo,
                                            S hi) {
  std::int64_t from_lo = n, above_hi = 0;
  for (int step = 0; lo != hi; ++step) {
    const S gap = static_cast<S>(hi - lo);
    const double share =
        (static_cast<double>(r - above_hi) - 0.5) / static_cast<double>(from_lo - above_hi);
    const bool halve = step >= 4 && step % 2 == 0;
    const S down = halve ? gap / 2 : static_cast<S>(static_cast<double>(gap) * share);
    const S t = static_cast<S>(hi - 1 - (down < gap ? down : gap - 1));
    const std::int64_t above = count_above(x, n, t);
    if (above >= r) {
      lo = static_cast<S>(t + 1);
      from_lo = above;
      if (above == r) lo = hi = least_above(x, n, t);
    } else {
      hi = t;
      above_hi = above;
      if (above == r - 1) lo = hi = greatest_to(x, n, t);
    }
  }
  return {lo, count_above(x, n, lo), count_equal(x, n, lo), 0};
}

/// The same for keys in an unknown range.
template <class S>
GOSSAMER_INLINE Found<S> find_any(const S* x, std::int64_t n, std::int64_t r) {
  constexpr S top = static_cast<S>(~S{0});
  S lo = x[0];
  for (std::int64_t i = 1; i < n; ++i) lo = x[i] < lo ? x[i] : lo;
  const S hi = greatest_to(x, n, top);
  Found<S> found = find_few(x, n, r, lo, hi);
  found.spacing = static_cast<double>(hi - lo) / static_cast<double>(n);
  return found;
}

/// The r-th largest of n keys at x. y has room for as many, and both arrays for 64 more; both are
/// overwritten.
template <class S>
Found<S> find(S* x, S* y, std::int64_t n, std::int64_t r) {
  constexpr std::int64_t kFew = 512;
  pad(x, n);
  if (n <= kFew) return find_any(x, n, r);
  S lo = 0, hi = static_cast<S>(~S{0});
  std::int64_t before = 0;  // keys above hi, which are no longer in x
  bool halve = false;
  while (n > kFew) {
    S a = lo, b = hi;
    if (lo == hi) {
      // Only one key is left; the pass below counts it.
    } else if (halve) {
      b = static_cast<S>(hi - (hi - lo) / 2 - 1);
    } else {
      alignas(64) S sampled[kBlock];
      const std::int64_t stride = n / kBlock;
      for (int i = 0; i < kBlock; ++i) sampled[i] = x[i * stride];
      // About two standard deviations of rank in the sample on either side.
      const std::int64_t rank = r * kBlock / n, slack = 8;
      if (rank > slack) b = find_any(sampled, kBlock, rank - slack).key;
      if (rank + slack < kBlock) a = find_any(sampled, kBlock, rank + slack).key;
      // After a bracket that missed, x still holds keys outside of [lo, hi].
      a = a < lo ? lo : a > hi ? hi : a;
      b = b < lo ? lo : b > hi ? hi : b;
    }
    // Keys inside the bracket are copied to y. If the bracket missed, x is unchanged, and only this
    // pass was lost.
    std::int64_t above = 0, inside = 0;
    const Plain<Mode::word, S> keys{x, {0, 0, 0}};
    for (std::int64_t i = 0; i < n; i += kBlock) {
      const std::uint64_t valid =
          n - i >= kBlock ? ~std::uint64_t{0} : (std::uint64_t{1} << (n - i)) - 1;
      const Split found = keep(keys, i, a, b, valid, y + inside);
      above += bits_in(found.above);
      inside += bits_in(found.inside);
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
  pad(x, n);
  Found<S> found = find_any(x, n, r);
  found.above += before;
  return found;
}

/// The interval of keys that should hold the k-th key.
template <class K>
struct Bracket {
  K lo, hi;
};

/// The key x + by, clamped to the least and the greatest key; moves at most a quarter of the range.
template <class K>
GOSSAMER_INLINE K move(K x, double by) {
  constexpr K top = static_cast<K>(~K{0}), most = top / 4;
  const double size = __builtin_fabs(by);
  const K step = size < static_cast<double>(most) ? static_cast<K>(size) : most;
  if (by < 0.0) return x < step ? K{0} : static_cast<K>(x - step);
  return top - x < step ? top : static_cast<K>(x + step);
}

template <class K>
GOSSAMER_INLINE Bracket<K> around(K center, double reach) {
  return {move(center, -reach), move(center, reach)};
}

/// What a pass with a bracket finds: for each block two words, the elements above and those inside;
/// and the keys of those inside.
template <class S>
struct Kept {
  std::uint64_t* words;
  S* keys;
  std::int64_t above, inside;
};

template <class E, class K, class S>
GOSSAMER_INLINE void collect(const E& elements, const KeySource& source, Bracket<K> in,
                             Kept<S>& kept) {
  std::int64_t above = 0, inside = 0;
  each_block(elements, source,
             [&](const E& e, std::int64_t i, std::uint64_t valid, std::int64_t at, int) {
               const Split found = keep(e, i, in.lo, in.hi, valid, kept.keys + inside);
               std::uint64_t* word = kept.words + at / (kBlock / 2);
               word[0] = found.above;
               word[1] = found.inside;
               above += bits_in(found.above);
               inside += bits_in(found.inside);
             });
  kept.above = above;
  kept.inside = inside;
  pad(kept.keys, inside);
}

/// Looks for the k-th key with a bracket made of the guess. Returns whether it was found, and if so
/// updates the guess.
template <class E, class K = typename E::Key, class S>
GOSSAMER_INLINE bool find_guessed(const E& elements, const SelectSegmentArgs& a, Kept<S>& kept,
                                  Found<S>& found) {
  SegmentGuess& guess = *a.guess;
  if (guess.count == 0) return false;
  const double n = static_cast<double>(a.source.count), k = static_cast<double>(a.k);
  const double before = static_cast<double>(guess.count);
  // Three standard deviations of the rank of the k-th key.
  const double ranks = 3.0 * __builtin_sqrt(k * (n - k) / n) + 4.0;
  const double moved = k - static_cast<double>(guess.k) * n / before;
  if (__builtin_fabs(moved) > ranks) return false;
  double spacing = guess.spacing * before / n;
  K center = move(static_cast<K>(guess.center), -moved * spacing);
  const K start = center;
  Bracket<K> in = around(center, ranks * spacing);
  for (int pass = 0;; ++pass) {
    collect(elements, a.source, in, kept);
    const std::int64_t over = a.k - kept.above;
    if (over >= 1 && over <= kept.inside) break;
    const std::int64_t off = over < 1 ? 1 - over : over - kept.inside;
    if (pass == 2 || off > a.source.count / 4) return false;
    if (kept.inside > 0 && in.lo != in.hi) {
      spacing = static_cast<double>(in.hi - in.lo) / static_cast<double>(kept.inside);
    }
    if (spacing == 0.0) return false;
    const double distance = static_cast<double>(off);
    center = move(over < 1 ? in.hi : in.lo, (over < 1 ? distance : -distance) * spacing);
    in = around(center, (0.25 * distance + 3.0 * __builtin_sqrt(distance) + 8.0) * spacing);
  }
  if (in.lo == in.hi) {
    found = {in.lo, kept.above, kept.inside, 0};
    return true;
  }
  found = find_few(kept.keys, kept.inside, a.k - kept.above, S{in.lo}, S{in.hi});
  // If most keys inside equal the k-th, the next bracket is this key alone.
  const bool shared = found.equal > kept.inside / 2;
  spacing = static_cast<double>(in.hi - in.lo) / static_cast<double>(kept.inside);
  guess.spacing = shared                ? 0.0
                  : guess.spacing > 0.0 ? 0.75 * guess.spacing * before / n + 0.25 * spacing
                                        : spacing;
  guess.count = a.source.count;
  guess.k = a.k;
  // Moves the center by a quarter of the way only: so the random variation of single segments
  // averages out.
  guess.center = shared ? found.key : std::uint64_t{start} - start / 4 + found.key / 4;
  found.above += kept.above;
  return true;
}

template <class E, class S>
GOSSAMER_INLINE Found<S> find_all(const E& elements, const SelectSegmentArgs& a, S* x, S* y) {
  using K = typename E::Key;
  std::int64_t n = 0;
  each_block(elements, a.source,
             [&](const E& e, std::int64_t i, std::uint64_t valid, std::int64_t, int) {
               alignas(64) K keys[kBlock];
               block_of(e, i, keys);
               append<false>(keys, valid, x + n, nullptr, 0);
               n += bits_in(valid);
             });
  // Fewer than k are eligible only if another thread writes `within` during the call.
  if (n == 0) return {};
  const Found<S> found = find(x, y, n, min_i64(a.k, n));
  *a.guess = {a.source.count, a.k, found.key, found.spacing};
  return found;
}

/// Writes the selected elements: marks, or indices and values.
class Output {
 public:
  explicit Output(const SelectSegmentArgs& args) : a(args) {}

  GOSSAMER_INLINE void put(std::uint64_t set, std::int64_t first, int n) {
    mark({a.mask, prune::MaskFormat::bytes}, first, n, set);
    if (a.indices == nullptr || set == 0) return;
    switch (a.item) {
      case 8:
        return take<std::uint64_t>(set, first, n);
      case 4:
        return take<std::uint32_t>(set, first, n);
      default:
        return take<std::uint16_t>(set, first, n);
    }
  }

  /// If another thread wrote the elements between the passes, the lists may not be full: then they
  /// get the first k elements.
  void complete() const {
    if (a.indices == nullptr || written_ == a.k) return;
    for (std::int64_t i = 0; i < a.k; ++i) a.indices[i] = static_cast<std::int32_t>(i);
    __builtin_memcpy(a.values, a.from, static_cast<std::size_t>(a.k * a.item));
  }

 private:
  template <class T>
  GOSSAMER_INLINE void take(std::uint64_t set, std::int64_t first, int n) {
    const T* from = static_cast<const T*>(a.from) + first;
    T* values = static_cast<T*>(a.values);
    const auto start = static_cast<std::int32_t>(first);
    std::int32_t* indices = a.indices + written_;
    values += written_;
    int count = bits_in(set);
    if (count > a.k - written_) {
      std::int64_t none = 0, room = a.k - written_;
      count = static_cast<int>(room);
      set = slice(set, none, room);
    }
    written_ += count;
    if (n == kBlock) {
      // Writes four entries at a time without asking whether they exist; what is too much is
      // overwritten later.
      constexpr std::uint64_t last = std::uint64_t{1} << (kBlock - 1);
      constexpr int kFew = 4;
      for (int at = 0; at < count; at += kFew) {
#pragma GCC unroll 8
        for (int j = at; j < at + kFew; ++j, set &= set - 1) {
          const int i = __builtin_ctzll(set | last);
          indices[j] = start + i;
          values[j] = from[i];
        }
      }
      return;
    }
    for (int j = 0; set != 0; set &= set - 1, ++j) {
      const int i = __builtin_ctzll(set);
      indices[j] = start + i;
      values[j] = from[i];
    }
  }

  const SelectSegmentArgs& a;
  std::int64_t written_ = 0;
};

/// Selects, of the elements that a pass with a bracket noted, those above the k-th key, and of
/// those equal to it `take` after the first `skip`. The same for all kinds of elements.
template <class S>
__attribute__((noinline)) void choose(const SelectSegmentArgs& a, const Kept<S>& kept, S key,
                                      std::int64_t skip, std::int64_t take) {
  const std::int64_t blocks = (a.source.count + kBlock - 1) / kBlock;
  // One bit for each key inside the bracket, in order: whether it is selected.
  std::uint64_t* chosen = kept.words + 2 * blocks;
  for (std::int64_t i = 0; i < kept.inside; i += kBlock) {
    const S(&keys)[kBlock] = *reinterpret_cast<const S(*)[kBlock]>(kept.keys + i);
    const Split compared = split(keys, key, key);
    const std::int64_t left = kept.inside - i;
    const std::uint64_t valid = left >= kBlock ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
    chosen[i / kBlock] = compared.above;
    if (take > 0) chosen[i / kBlock] |= slice(compared.inside & valid, skip, take);
  }
  chosen[(kept.inside + kBlock - 1) / kBlock] = 0;
  Output output(a);
  std::int64_t at = 0;
  for (std::int64_t b = 0; b < blocks; ++b) {
    std::uint64_t set = kept.words[2 * b];
    const std::uint64_t inside = kept.words[2 * b + 1];
    const std::uint64_t* word = chosen + at / kBlock;
    const int shift = static_cast<int>(at % kBlock);
    // Two shifts, since a shift by 64 is undefined.
    set |= deposit((word[0] >> shift) | ((word[1] << 1) << (kBlock - 1 - shift)), inside);
    at += bits_in(inside);
    output.put(set, b * kBlock, static_cast<int>(min_i64(kBlock, a.source.count - b * kBlock)));
  }
  output.complete();
}

template <class E>
void segment(const SelectSegmentArgs& a, const E& elements) {
  using K = typename E::Key;
  using S = typename StoredKey<K>::type;
  auto* scratch = static_cast<std::uint64_t*>(a.scratch);
  S* x = reinterpret_cast<S*>(scratch + segment_words(a.source.count));
  S* y = x + a.source.count + 2 * kBlock;
  Kept<S> kept = {scratch, x, 0, 0};
  Found<S> found = {};
  const bool guessed = find_guessed(elements, a, kept, found);
  if (!guessed) found = find_all(elements, a, x, y);
  *a.threshold = found.key;
  *a.strict = found.above;
  *a.equal = found.equal;
  if (a.mask == nullptr && a.indices == nullptr) return;
  std::int64_t take = a.k - found.above, skip = a.tie_high ? found.equal - take : 0;
  if (guessed) {
    choose(a, kept, found.key, skip, take);
    return;
  }
  const K threshold = static_cast<K>(found.key);
  Output output(a);
  each_block(elements, a.source,
             [&](const E& e, std::int64_t i, std::uint64_t valid, std::int64_t first, int n) {
               alignas(64) K keys[kBlock];
               block_of(e, i, keys);
               const Split compared = split(keys, threshold, threshold);
               std::uint64_t set = compared.above & valid;
               if (take > 0) set |= slice(compared.inside & valid, skip, take);
               output.put(set, first, n);
             });
  output.complete();
}

}  // namespace

void select_segment(const SelectSegmentArgs& a);
void select_segment(const SelectSegmentArgs& a) {
  if (a.factor != nullptr) {
    with_float_type(a.type, [&](auto stored) {
      using T = typename decltype(stored)::type;
      if constexpr (sizeof(T) < 8) {
        const KeyMap<std::uint32_t> map = key_map<std::uint32_t>(a.source.order);
        segment(a, Weighted<T>{static_cast<const T*>(a.source.data), a.factor, map});
      }
    });
    return;
  }
  with_keys(a.source.order, [&](auto key, auto mode) {
    using K = typename decltype(key)::type;
    const KeyMap<K> map = key_map<K>(a.source.order);
    segment(a, Plain<decltype(mode)::value, K>{static_cast<const K*>(a.source.data), map});
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
