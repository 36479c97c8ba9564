#pragma once

// Groups of elements that are selected from: what one tells of the next, and selection in those
// longer than a few elements, where a register can be compressed. Counting about where the groups
// before have their k-th keys brackets a group's by few keys. Those of as many groups as a vector
// has lanes are then sorted side by side.

#include "kernels/select_keys.h"

namespace gossamer::kernels {
namespace {

template <class S>
struct SignedOf {
  using type = std::int32_t;
  using real = float;
};
template <>
struct SignedOf<std::uint64_t> {
  using type = std::int64_t;
  using real = double;
};

/// Where the thresholds of groups lie, as those before tell.
struct Trend {
  double center = 0.0, spacing = 0.0;  // spacing 0: nothing is known
};

/// The sum of about twice the halves of x, where `counted` is all ones.
template <class S, int W>
GOSSAMER_INLINE double sum_about(Vec<S, W> x, Vec<S, W> counted) {
  using I = typename SignedOf<S>::type;
  using R = typename SignedOf<S>::real;
  const auto half = bit_cast<Vec<I, W>>((x & counted) >> 1);
  R part[W];
  store<W>(part, __builtin_convertvector(half, Vec<R, W>));
  for (int n = W / 2; n > 0; n /= 2) {
    for (int i = 0; i < n; ++i) part[i] += part[i + n];
  }
  return 2.0 * static_cast<double>(part[0]);
}

template <class S>
GOSSAMER_INLINE S to_key(double x) {
  constexpr double kTop = static_cast<double>(static_cast<S>(~S{0}) / 2) * 2.0;
  return x <= 0.0 ? S{0} : x >= kTop ? static_cast<S>(~S{0}) : static_cast<S>(x);
}

#if defined(GOSSAMER_AVX512)

constexpr int kFew = 32;
constexpr int kWords = kGroupLength / kBlock;

/// The key that is about `by` above x, or below it; the last one past the ends.
template <class S, int W>
GOSSAMER_INLINE Vec<S, W> moved(S x, Vec<typename SignedOf<S>::real, W> by, S top) {
  using I = typename SignedOf<S>::type;
  using R = typename SignedOf<S>::real;
  constexpr R most = static_cast<R>(S{1} << (8 * sizeof(S) - 2));
  by = by > most ? broadcast<W>(most) : by < -most ? broadcast<W>(-most) : by;
  const Vec<S, W> next = x + bit_cast<Vec<S, W>>(__builtin_convertvector(by, Vec<I, W>));
  const Vec<S, W> up = (next < x) | (next > top) ? broadcast<W>(top) : next;
  const Vec<S, W> down = next > x ? Vec<S, W>{} : next;
  return by > R{0} ? up : down;
}

/// How many of 64 keys are above t.
template <class K>
GOSSAMER_INLINE int count_block(const K* keys, K t) {
  constexpr int W = kLanes<K>;
  constexpr auto all = static_cast<LaneSet<K>>(~std::uint64_t{0});
  LaneSet<K> above[kBlock / W];
#pragma GCC unroll 8
  for (int v = 0; v < kBlock / W; ++v) {
    above[v] = lanes_above<K>(all, _mm512_loadu_si512(keys + v * W), set_all(t));
  }
  return bits_in(join<K>(above));
}

template <class K>
GOSSAMER_INLINE int count_above(const K* keys, int blocks, K t) {
  int count = 0;
  for (int b = 0; b < blocks; ++b) count += count_block(keys + b * kBlock, t);
  return count;
}

/// Keys from lo to hi, among which the k-th is: `above` keys are above them, `inside` are in them.
template <class K>
struct Bracket {
  K lo, hi;
  int above, inside;
};

/// Narrows a bracket until few keys are inside, or equal ones. The first cut is at t, the next ones
/// where the k-th lies if the keys are evenly spaced, a few to its side; each third halves.
template <class K>
[[gnu::noinline]] void narrow(const K* keys, int blocks, int k, K t, Bracket<K>& in) {
  for (int step = 0; in.lo != in.hi && in.inside > kFew; ++step) {
    const K gap = static_cast<K>(in.hi - in.lo);
    if (step % 3 != 0) {
      const int rank = k - in.above, beside = 2 + in.inside / 8;
      const int aim = rank <= in.inside / 2 ? rank + beside : rank - beside;
      const double share = static_cast<double>(aim) / static_cast<double>(in.inside);
      t = static_cast<K>(in.hi - static_cast<K>(static_cast<double>(gap / 2) * share) * 2);
    } else if (step > 0) {
      t = static_cast<K>(in.lo + gap / 2);
    }
    t = t < in.lo ? in.lo : t >= in.hi ? static_cast<K>(in.hi - 1) : t;
    const int above = count_above(keys, blocks, t);
    if (above >= k) {
      in.lo = static_cast<K>(t + 1);
      in.inside = above - in.above;
    } else {
      in.hi = t;
      in.inside += in.above - above;
      in.above = above;
    }
  }
}

/// What is above a group's bracket and inside it, as sets.
struct Sets {
  std::uint64_t above[kWords], inside[kWords];
};

/// Counts the n keys above a bracket and inside it; stores the latter, zeros up to kFew.
template <class K, class S>
GOSSAMER_INLINE void collect(const K* keys, int n, Bracket<K>& in, Sets& sets, S* to) {
  in.above = in.inside = 0;
  for (int i = 0; i < kFew; i += kLanes<S>) store<kLanes<S>>(to + i, Vec<S>{});
  const Plain<Mode::word, K> elements{keys, {0, 0, 0}};
  for (int b = 0; b * kBlock < n; ++b) {
    const int left = n - b * kBlock;
    const std::uint64_t valid = left >= kBlock ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
    const Split found = keep(elements, b * kBlock, in.lo, in.hi, valid, to + in.inside);
    sets.above[b] = found.above;
    sets.inside[b] = found.inside;
    in.above += bits_in(found.above);
    in.inside += bits_in(found.inside);
  }
}

template <class V>
GOSSAMER_INLINE void put_in_order(V& x, V& y) {
  const auto less = x < y;
  const V larger = less ? y : x;
  y = less ? x : y;
  x = larger;
}

template <int First, int N, int Step, class V>
GOSSAMER_INLINE void merge(V* x) {
  constexpr int next = 2 * Step;
  if constexpr (next < N) {
    merge<First, N, next>(x);
    merge<First + Step, N, next>(x);
#pragma GCC unroll 32
    for (int i = First + Step; i + Step < First + N; i += next) put_in_order(x[i], x[i + Step]);
  } else {
    put_in_order(x[First], x[First + Step]);
  }
}

/// Sorts N numbers of each lane, the largest first (Batcher 1968).
template <int First, int N, class V>
GOSSAMER_INLINE void sort(V* x) {
  if constexpr (N > 1) {
    sort<First, N / 2>(x);
    sort<First + N / 2, N / 2>(x);
    merge<First, N, 1>(x);
  }
}

/// For each row of kFew the rank-th largest; the largest where the rank is 0.
template <class S, int W>
GOSSAMER_INLINE Vec<S, W> pick(const S* rows, Vec<S, W> rank) {
  Vec<S, W> x[kFew];
#pragma GCC unroll 32
  for (int c = 0; c < kFew; c += W) {
    Vec<S, W> part[W];
#pragma GCC unroll 16
    for (int r = 0; r < W; ++r) part[r] = load<W>(rows + r * kFew + c);
    transpose_registers<W>(part);
#pragma GCC unroll 16
    for (int r = 0; r < W; ++r) x[c + r] = part[r];
  }
  sort<0, kFew>(x);
  Vec<S, W> result = x[0];
#pragma GCC unroll 32
  for (int i = 1; i < kFew; ++i) result = rank > static_cast<S>(i) ? x[i] : result;
  return result;
}

/// Of a row of kFew, the numbers above t and those equal to it.
template <class S>
GOSSAMER_INLINE Split split_few(const S* row, S t) {
  Split found = {0, 0};
  constexpr int W = kLanes<S>;
  constexpr auto all = static_cast<LaneSet<S>>(~std::uint64_t{0});
#pragma GCC unroll 4
  for (int i = 0; i < kFew; i += W) {
    const __m512i x = _mm512_loadu_si512(row + i);
    const LaneSet<S> from = lanes_above<S, true>(all, x, set_all(t));
    const LaneSet<S> equal = lanes_above<S, true>(from, set_all(t), x);
    found.above |= static_cast<std::uint64_t>(from ^ equal) << i;
    found.inside |= static_cast<std::uint64_t>(equal) << i;
  }
  return found;
}

template <Mode M, class K>
void bracket_groups(const SelectGroupsArgs& a) {
  using S = typename StoredKey<K>::type;
  using I = typename SignedOf<S>::type;
  using R = typename SignedOf<S>::real;
  constexpr int W = kLanes<S>;
  constexpr S top = static_cast<S>(static_cast<K>(~K{0}));
  const KeyMap<K> map = key_map<K>(a.source.order);
  const K* data = static_cast<const K*>(a.source.data);
  const int length = static_cast<int>(a.length);
  const int blocks = (length + kBlock - 1) / kBlock, room = blocks * kBlock;
  const std::int64_t count = (a.source.count + length - 1) / length;
  alignas(64) K keys[W * kGroupLength];
  // A group's row may be stored past its end, before the next ones are.
  alignas(64) S rows[W * kFew + kGroupLength + kBlock] = {};
  alignas(64) K valid[kBlock];
  for (int i = 0; i < kBlock; ++i) {
    valid[i] = static_cast<K>(room - kBlock + i < length ? ~K{0} : K{0});
  }
  // Reads the n keys from `first` on, zeros in the rest of blocks; returns how many are above t.
  const auto read = [&](std::int64_t first, int n, K t, K* to) {
    int above = 0;
    for (int at = 0; at < room; at += kBlock, to += kBlock) {
      K(&block)[kBlock] = *reinterpret_cast<K(*)[kBlock]>(to);
      if (at + kBlock <= n) {
        block_keys<M, K>(data + first + at, map, block);
      } else if (n == length && first + at + kBlock <= a.source.count) {
        constexpr int V = kLanes<K>;
        block_keys<M, K>(data + first + at, map, block);
#pragma GCC unroll 32
        for (int i = 0; i < kBlock; i += V) {
          store<V>(block + i, load<V>(block + i) & load<V>(valid + i));
        }
      } else {
        K part[kBlock] = {};
        const int left = n > at ? n - at : 0;
        __builtin_memcpy(part, data + first + at, static_cast<std::size_t>(left) * sizeof(K));
        block_keys<M, K>(part, map, block);
        for (int i = left; i < kBlock; ++i) block[i] = 0;
      }
      above += count_block(to, t);
    }
    return above;
  };
  Trend trend;
  for (std::int64_t g = 0; g < count; g += W) {
    alignas(64) S k[W] = {}, lo[W] = {}, hi[W], rank[W] = {}, t[W];
    alignas(64) I excess[W] = {};
    int n[W] = {};
    Sets sets[W] = {};
    const int active = static_cast<int>(min_i64(W, count - g));
    for (int r = 0; r < active; ++r) {
      k[r] = static_cast<S>(a.k[a.one_k ? 0 : g + r]);
      n[r] = static_cast<int>(min_i64(length, a.source.count - (g + r) * length));
    }
    if (trend.spacing == 0.0 && k[0] != 0) {
      read(g * length, n[0], 0, keys);
      Bracket<K> in = {0, static_cast<K>(top), 0, n[0]};
      narrow(keys, blocks, static_cast<int>(k[0]), static_cast<K>(top / 4 * 3), in);
      trend.center = static_cast<double>(in.hi);
      trend.spacing = static_cast<double>(in.hi - in.lo) / kFew + 0x1p-20;
    }
    constexpr double most = static_cast<double>(top);
    const S center = trend.center < most ? static_cast<S>(trend.center) : top;
    for (int r = 0; r < active; ++r) {
      excess[r] = read((g + r) * length, n[r], static_cast<K>(center), keys + r * room) -
                  static_cast<int>(k[r]);
    }
    const auto off = load<W>(excess);
    const auto distance = bit_cast<Vec<S, W>>(off < 0 ? -off : off);
    const auto ranks = __builtin_convertvector(off, Vec<R, W>);
    const auto beyond = ranks * R{1.5} + (off < 0 ? broadcast<W>(R{-4}) : broadcast<W>(R{4}));
    const auto end = moved<S, W>(center, beyond * static_cast<R>(trend.spacing), top);
    store<W>(lo, off < 0 ? end : broadcast<W>(static_cast<S>(center < top ? center + 1 : top)));
    store<W>(hi, off < 0 ? broadcast<W>(center) : end);
    for (int r = 0; r < active; ++r) {
      const K* own = keys + r * room;
      S* row = rows + r * kFew;
      const int wanted = static_cast<int>(k[r]);
      Bracket<K> in = {static_cast<K>(lo[r]), static_cast<K>(hi[r] < lo[r] ? lo[r] : hi[r]), 0, 0};
      collect(own, n[r], in, sets[r], row);
      int over = wanted - in.above;
      if (over < 1 || over > in.inside || in.inside > kFew) {
        if (wanted == 0) {
          sets[r] = {};
          continue;
        }
        // How many ranks the bracket missed by, and a few.
        const double off_by = over < 1 ? 5 - over : over > in.inside ? over - in.inside + 5 : 0;
        const S reach = to_key<S>(1.5 * off_by * trend.spacing);
        K cut = static_cast<K>(in.lo + (in.hi - in.lo) / 2);
        if (over < 1) {
          cut = static_cast<K>(top - in.hi < reach ? top : in.hi + reach);
          in = {static_cast<K>(in.hi + 1), static_cast<K>(top), 0, in.above};
        } else if (over > in.inside) {
          cut = static_cast<K>(in.lo < reach ? 0 : in.lo - reach);
          in = {0, static_cast<K>(in.lo - 1), in.above + in.inside, n[r] - in.above - in.inside};
        }
        narrow(own, blocks, wanted, cut, in);
        collect(own, n[r], in, sets[r], row);
        over = wanted - in.above;
        if (in.inside > kFew) {
          // All are equal.
          std::int64_t take = over, skip = a.tie_high ? in.inside - over : 0;
          for (int b = 0; b < blocks; ++b) {
            sets[r].above[b] |= slice(sets[r].inside[b], skip, take);
            sets[r].inside[b] = 0;
          }
          over = 1;
        }
      }
      rank[r] = static_cast<S>(over);
    }
    const auto thresholds = pick<S, W>(rows, load<W>(rank));
    store<W>(t, thresholds);
    for (int r = 0; r < active; ++r) {
      const Split found = split_few(rows + r * kFew, t[r]);
      std::uint64_t chosen = found.above;
      std::int64_t inside = 0;
      for (int b = 0; b < blocks; ++b) inside += bits_in(sets[r].inside[b]);
      const std::uint64_t equal = found.inside & ((std::uint64_t{1} << inside) - 1);
      const int ties = bits_in(equal);
      std::int64_t take = static_cast<std::int64_t>(rank[r]) - bits_in(chosen);
      std::int64_t skip = a.tie_high ? ties - take : 0;
      chosen |= take == ties ? equal : slice(equal, skip, take);
      for (int at = 0, b = 0; at < n[r]; at += kBlock, ++b) {
        const std::uint64_t set = sets[r].above[b] | deposit(chosen, sets[r].inside[b]);
        chosen >>= bits_in(sets[r].inside[b]);
        // What a whole block writes past the group's end, the next groups write again.
        const std::int64_t first = (g + r) * length + at;
        mark({a.mask + first, 0}, 0, static_cast<int>(min_i64(kBlock, a.source.count - first)),
             set);
      }
    }
    const auto counted = bit_cast<Vec<S, W>>(load<W>(k) != S{0});
    const double groups = 0.5 * sum_about<S, W>(broadcast<W>(S{2}), counted);
    if (groups == 0.0) continue;
    const double error = 0.5 * sum_about<S, W>(distance + distance, counted);
    const auto start = broadcast<W>(center);
    const auto moves = start > thresholds ? start - thresholds : thresholds - start;
    // Not nothing where all keys are equal.
    if (error > 0.0) trend.spacing = sum_about<S, W>(moves, counted) / error + 0x1p-20;
    const bool jumped = error * 4.0 > groups * static_cast<double>(length);
    const double mean = sum_about<S, W>(thresholds, counted) / groups;
    trend.center = jumped ? mean : 0.75 * trend.center + 0.25 * mean;
  }
}

#endif

}  // namespace
}  // namespace gossamer::kernels
