// N:M masks. Scores become signed integers ("keys") in the same order. Groups of up to four along
// the rows are compared with rotations of themselves within a vector. Larger groups are laid out so
// that each has a lane of its own: a sorting network sorts the halves of all groups at once, which
// gives the n-th and the next key. An element is kept if it reaches the n-th key; only where the
// next key is equal are the tied elements taken in order.

#include "prune/patterns/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {

void score_tile(const ScoreTileArgs& a);

namespace {

/// Makes keys of the bits of numbers: larger numbers have larger keys. All NaN share one key,
/// beyond that of an infinity.
template <class K>
struct Keys {
  static constexpr int W = kLanes<K>, kSign = 8 * static_cast<int>(sizeof(K)) - 1;
  static constexpr K kLowest = static_cast<K>(std::uint64_t{1} << kSign);
  using V = Vec<K, W>;

  V infinity, beyond;
  bool magnitude;

  explicit Keys(const NmMaskArgs& a) {
    K most = static_cast<K>(0x7f80);
    if (sizeof(K) == 4) most = static_cast<K>(0x7f800000);
    if (sizeof(K) == 8) most = static_cast<K>(0x7ff0000000000000);
    if (sizeof(K) == 2 && a.type == DType::f16) most = static_cast<K>(0x7c00);
    infinity = broadcast<W>(most);
    beyond = broadcast<W>(static_cast<K>(a.nan_high ? most + 1 : -most - 1));
    magnitude = a.magnitude;
  }

  GOSSAMER_INLINE V operator()(V bits) const {
    const V size = bits & broadcast<W>(static_cast<K>(~kLowest));
    if (magnitude) return size > infinity ? beyond : size;
    const V sign = bits >> kSign;
    return size > infinity ? beyond : (size ^ sign) - sign;
  }
};

GOSSAMER_INLINE void advance(const void*& x, DType type, std::int64_t by) {
  const std::int64_t size = type == DType::f64 ? 8 : type == DType::f32 ? 4 : 2;
  if (x != nullptr) x = static_cast<const std::byte*>(x) + by * size;
}

/// The keys of the elements, wherever the scores come from: an array, a product with column
/// factors, or a formula that is evaluated.
template <class K>
struct Source {
  static constexpr int W = kLanes<K>;

  const NmMaskArgs& a;
  const Keys<K> keys{a};

  /// key[0, count) = the keys of the elements from `at` on, the first of which is in the given
  /// column; count is a multiple of W. Not for scores that are evaluated.
  GOSSAMER_INLINE void copy(std::int64_t at, std::int64_t column, int count, K* key) const {
    const Keys<K> to_key = keys;
    if constexpr (sizeof(K) == 4) {
      if (a.factor != nullptr) {
        const float* factor = a.factor + column;
        const auto products = [&](auto* x) {
          for (int i = 0; i < count; i += W) {
            const Vec<float, W> value = load_real<W>(x + at + i) * load<W>(factor + i);
            store<W>(key + i, to_key(bit_cast<Vec<K, W>>(value)));
          }
        };
        if (a.type == DType::f32) return products(static_cast<const float*>(a.score));
        if (a.type == DType::f16) return products(static_cast<const f16_t*>(a.score));
        return products(static_cast<const bf16_t*>(a.score));
      }
    }
    const K* bits = static_cast<const K*>(a.score) + at;
    for (int i = 0; i < count; i += W) store<W>(key + i, to_key(load<W>(bits + i)));
  }

  /// key[0, count) = the keys of the elements from `at` on. Writes up to the end of the last
  /// vector.
  __attribute__((noinline)) void read(std::int64_t at, std::int64_t count, K* key) const {
    if (a.evaluated != nullptr) {
      ScoreTileArgs tile = *a.evaluated;
      advance(tile.w, tile.w_type, at);
      advance(tile.g, tile.g_type, at);
      advance(tile.m, tile.m_type, at);
      advance(tile.v, tile.v_type, at);
      tile.column = (tile.column + at) % tile.columns;
      tile.count = count;
      tile.out = key;
      score_tile(tile);
      for (std::int64_t i = 0; i < count; i += W) store<W>(key + i, keys(load<W>(key + i)));
      return;
    }
    std::int64_t column = a.factor == nullptr ? 0 : (a.column + at) % a.columns;
    for (std::int64_t i = 0; i < count;) {
      const std::int64_t n = a.factor == nullptr ? count : min_i64(count, i + a.columns - column);
      const std::int64_t vectors = (n - i) / W * W;
      copy(at + i, column, static_cast<int>(vectors), key + i);
      i += vectors;
      column += vectors;
      for (; i < n; ++i, ++column) key[i] = one(at + i, column);
      column = 0;
    }
  }

 private:
  /// The key of one element.
  [[nodiscard]] K one(std::int64_t at, std::int64_t column) const {
    Vec<K, W> bits{};
    if (sizeof(K) == 4 && a.factor != nullptr) {
      float x = 0;
      if (a.type == DType::f32) x = static_cast<const float*>(a.score)[at];
      if (a.type == DType::f16) x = to_float(static_cast<const f16_t*>(a.score)[at]);
      if (a.type == DType::bf16) x = to_float(static_cast<const bf16_t*>(a.score)[at]);
      bits[0] = static_cast<K>(bit_cast<std::int32_t>(x * a.factor[column]));
    } else {
      bits[0] = static_cast<const K*>(a.score)[at];
    }
    return keys(bits)[0];
  }
};

/// Stores, for each lane, 1 where key ≥ nth and 0 elsewhere.
template <int W, class K>
GOSSAMER_INLINE void store_reaching(std::uint8_t* mask, Vec<K, W> key, Vec<K, W> nth) {
#if defined(GOSSAMER_AVX512)
  if constexpr (sizeof key == 64) {
    const auto x = bit_cast<__m512i>(key), y = bit_cast<__m512i>(nth);
    if constexpr (sizeof(K) == 2) {
      const __m256i kept = _mm256_maskz_set1_epi8(_mm512_cmpge_epi16_mask(x, y), 1);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(mask), kept);
    } else if constexpr (sizeof(K) == 4) {
      const __m128i kept = _mm_maskz_set1_epi8(_mm512_cmpge_epi32_mask(x, y), 1);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(mask), kept);
    } else {
      const __m128i kept = _mm_maskz_set1_epi8(_mm512_cmpge_epi64_mask(x, y), 1);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(mask), kept);
    }
    return;
  }
#endif
  const auto kept = key >= nth;
  store<W>(mask, __builtin_convertvector(kept, Vec<std::uint8_t, W>) & std::uint8_t{1});
}

/// Rotates each group of M lanes by `By`: lane i receives lane i + By of its group.
template <int M, int By, class V, int... I>
GOSSAMER_INLINE V rotate(V v, Lanes<I...>) {
  return __builtin_shufflevector(v, v, ((I / M) * M + (I + By) % M)...);
}

/// Adds one to the lanes where x > y.
template <class K, int W>
GOSSAMER_INLINE Vec<K, W> add_where_above(Vec<K, W> count, Vec<K, W> x, Vec<K, W> y) {
#if defined(GOSSAMER_AVX512)
  if constexpr (sizeof(Vec<K, W>) == 64 && sizeof(K) <= 4) {
    const auto c = bit_cast<__m512i>(count), a = bit_cast<__m512i>(x), b = bit_cast<__m512i>(y);
    if constexpr (sizeof(K) == 2) {
      const __mmask32 above = _mm512_cmpgt_epi16_mask(a, b);
      return bit_cast<Vec<K, W>>(_mm512_mask_sub_epi16(c, above, c, _mm512_set1_epi16(-1)));
    } else {
      const __mmask16 above = _mm512_cmpgt_epi32_mask(a, b);
      return bit_cast<Vec<K, W>>(_mm512_mask_sub_epi32(c, above, c, _mm512_set1_epi32(-1)));
    }
  }
#endif
  return count - (x > y);
}

/// Groups of M elements within a vector: counts for each lane how many of its group come before it,
/// by comparing the vector with its rotations.
template <int M, class K>
struct Rotated {
  static constexpr int W = kLanes<K>, kGroups = 4 * W / M;

  Vec<K, W> last;
  K losers[M][W];  // added to the key `by` lanes further: 1 where that one comes first if equal

  explicit Rotated(const NmMaskArgs& a) : last(broadcast<W>(static_cast<K>(a.n - 1))) {
    for (int by = 1; by < M; ++by) {
      for (int l = 0; l < W; ++l) losers[by][l] = (l % M + by >= M) != a.tie_high ? 1 : 0;
    }
  }

  GOSSAMER_INLINE void operator()(const K* key, std::uint8_t* mask) const {
    for (int i = 0; i < kGroups * M; i += W) {
      Vec<K, W> before{};
      count_before<1>(load<W>(key + i), before);
      store_reaching<W, K>(mask + i, last, before);
    }
  }

 private:
  template <int By>
  GOSSAMER_INLINE void count_before(Vec<K, W> key, Vec<K, W>& before) const {
    if constexpr (By < M) {
      const auto other = rotate<M, By>(key, typename MakeLanes<W>::type{});
      before = add_where_above<K, W>(before, other + load<W>(losers[By]), key);
      count_before<By + 1>(key, before);
    }
  }
};

/// Batcher's merge-exchange sorting network for N elements.
template <int N>
struct Network {
  int count = 0;
  int low[64] = {}, high[64] = {};
  constexpr Network() {
    for (int p = 1; p < N; p *= 2) {
      for (int k = p; k > 0; k /= 2) {
        for (int j = k % p; j + k < N; j += 2 * k) {
          for (int i = j; i < min_int(j + k, N - k); ++i) {
            if (i / (2 * p) != (i + k) / (2 * p)) continue;
            low[count] = i;
            high[count++] = i + k;
          }
        }
      }
    }
  }
};

template <class V>
GOSSAMER_INLINE void exchange(V& larger, V& smaller) {
  const V a = larger, b = smaller;
  larger = a > b ? a : b;
  smaller = a > b ? b : a;
}

template <int N, class V, int... I>
GOSSAMER_INLINE void sort_by(V (&x)[N], Lanes<I...>) {
  constexpr Network<N> kNetwork;
  (exchange(x[kNetwork.low[I]], x[kNetwork.high[I]]), ...);
}

/// Sorts x[0], x[1], … in each lane, the largest first.
template <int N, class V>
GOSSAMER_INLINE void sort(V (&x)[N]) {
  sort_by<N, V>(x, typename MakeLanes<Network<N>{}.count>::type{});
}

/// The n-th largest of M keys a lane, from two sorted halves. Each half begins with a sentinel that
/// is larger than any key.
template <int M, class K, int W>
struct Halves {
  static constexpr int H = M / 2;
  using V = Vec<K, W>;
  static constexpr K kLowest = Keys<K>::kLowest;
  V sorted[2][H + 1];

  GOSSAMER_INLINE void take(int half, V (&x)[H]) {
    sort<H, V>(x);
    sorted[half][0] = broadcast<W>(static_cast<K>(~kLowest));
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) sorted[half][i + 1] = x[i];
  }

  /// The n-th largest, n from 1: the maximum over i of min(the i-th of one half, the (n-i)-th of
  /// the other).
  [[nodiscard]] GOSSAMER_INLINE V nth(int n) const {
    V most = broadcast<W>(kLowest);
    for (int i = n > H ? n - H : 0; i <= min_int(n, H); ++i) {
      const V a = sorted[0][i], b = sorted[1][n - i], both = a > b ? b : a;
      most = most > both ? most : both;
    }
    return most;
  }
};

/// Bit l of the result says whether lane l is set; lanes are all zeros or all ones.
template <int W, class K>
GOSSAMER_INLINE std::uint64_t lane_bits(Vec<K, W> set) {
#if defined(GOSSAMER_AVX512)
  __m512i wide;
  if constexpr (sizeof set == 16) wide = _mm512_castsi128_si512(bit_cast<__m128i>(set));
  if constexpr (sizeof set == 32) wide = _mm512_castsi256_si512(bit_cast<__m256i>(set));
  if constexpr (sizeof set == 64) wide = bit_cast<__m512i>(set);
  constexpr std::uint64_t kLanesOfSet = ~std::uint64_t{0} >> (64 - W);
  if constexpr (sizeof(K) == 2) return _mm512_movepi16_mask(wide) & kLanesOfSet;
  if constexpr (sizeof(K) == 4) return _mm512_movepi32_mask(wide) & kLanesOfSet;
  if constexpr (sizeof(K) == 8) return _mm512_movepi64_mask(wide) & kLanesOfSet;
#else
  std::uint8_t lane[W < 8 ? 8 : W] = {};
  store<W>(lane, __builtin_convertvector(set, Vec<std::uint8_t, W>) & std::uint8_t{1});
  std::uint64_t bits = 0;
  for (int l = 0; l < W; l += 8) {
    std::uint64_t word;
    __builtin_memcpy(&word, lane + l, 8);
    bits |= (word * 0x0102040810204080u >> 56) << l;
  }
  return bits;
#endif
}

/// Within each 128-bit lane, interleaves the elements of a and b.
template <class V, int... I>
GOSSAMER_INLINE void interleave(V& a, V& b, Lanes<I...>) {
  constexpr int n = static_cast<int>(sizeof...(I)), B = n * 16 / static_cast<int>(sizeof(V));
  const V low = __builtin_shufflevector(a, b, (I / B * B + I % B / 2 + I % 2 * n)...);
  const V high = __builtin_shufflevector(a, b, (I / B * B + I % B / 2 + B / 2 + I % 2 * n)...);
  a = low;
  b = high;
}

/// a = the even 128-bit lanes of a and b, b = their odd 128-bit lanes.
template <class V, int... I>
GOSSAMER_INLINE void deal(V& a, V& b, Lanes<I...>) {
  constexpr int n = static_cast<int>(sizeof...(I)), B = n * 16 / static_cast<int>(sizeof(V));
  const V even = __builtin_shufflevector(a, b, (I / B * 2 * B + I % B)...);
  const V odd = __builtin_shufflevector(a, b, (I / B * 2 * B + B + I % B)...);
  a = even;
  b = odd;
}

/// Transposes R vectors of W lanes, so that each run of R consecutive elements ends in one lane. R
/// is a power of two, and R elements have at least 16 bytes. GatheredLanes says which lane has
/// which run.
template <int R, int W, int Bit = R / 2, int Left = min_int(R, W), class V>
GOSSAMER_INLINE void gather_lanes(V (&x)[R]) {
  if constexpr (Left > 1) {
    constexpr bool kInside = min_int(R, W) / Left < 16 * W / static_cast<int>(sizeof(V));
    for (int i = 0; i < R; ++i) {
      if ((i & Bit) != 0) continue;
      if constexpr (kInside) {
        interleave(x[i], x[i + Bit], typename MakeLanes<W>::type{});
      } else {
        deal(x[i], x[i + Bit], typename MakeLanes<W>::type{});
      }
    }
    gather_lanes<R, W, Bit / 2, Left / 2>(x);
  }
}

/// of[g] = the lane that holds group g after gather_lanes.
template <int R, int W, int B>
struct GatheredLanes {
  int of[W] = {};
  constexpr GatheredLanes() {
    constexpr int kVectors = min_int(R, W), kInside = kVectors / B, kTogether = W / kVectors;
    for (int group = 0; group < W; ++group) {
      const int vector = group / kTogether;
      int block = group % kTogether, at = kTogether;
      for (int bit = kInside / 2; bit > 0; bit /= 2, at *= 2) {
        if ((vector % kInside & bit) != 0) block += at;
      }
      of[group] = block * B + vector / kInside;
    }
  }
};

/// Of the marked elements of a group, unmarks those equal to the n-th key, the last in order first,
/// until n are left.
template <int M, class K>
GOSSAMER_INLINE void drop_surplus(const K* key, K nth, int n, bool tie_high, std::uint8_t* mask) {
  constexpr int L = min_int(M, kLanes<K>);
  std::uint64_t equal = 0;
  int surplus = -n;
  for (int i = 0; i < M; i += L) {
    const Vec<K, L> mine = load<L>(key + i);
    equal |= lane_bits<L, K>(mine == nth) << i;
    surplus += __builtin_popcountll(lane_bits<L, K>(mine >= nth));
  }
  for (; surplus > 0; --surplus) {
    const int drop = tie_high ? __builtin_ctzll(equal) : 63 - __builtin_clzll(equal);
    mask[drop] = 0;
    equal ^= std::uint64_t{1} << drop;
  }
}

/// W groups of M consecutive elements, transposed so that each has a lane. M is a power of two, and
/// M keys have at least 16 bytes.
template <int M, class K>
struct Across {
  static constexpr int W = kLanes<K>, H = M / 2, kGroups = W;
  /// Transposes half of each group at a time, which needs fewer registers.
  static constexpr bool kApart = M > W || (M == W && H * sizeof(K) >= 16);
  static constexpr GatheredLanes<(kApart ? H : M), W, 16 / static_cast<int>(sizeof(K))> kLane = {};

  int n;
  bool tie_high;

  explicit Across(const NmMaskArgs& a) : n(static_cast<int>(a.n)), tie_high(a.tie_high) {}

  GOSSAMER_INLINE void operator()(const K* key, std::uint8_t* mask) const {
    alignas(64) K lane[W];
    Halves<M, K, W> halves;
    if constexpr (kApart) {
      for (int half = 0; half < 2; ++half) {
        Vec<K, W> x[H];
#pragma GCC unroll 16
        for (int i = 0; i < H; ++i) x[i] = half_of<M == W>(key + 2 * i * W, half);
        gather_lanes<H, W>(x);
        halves.take(half, x);
      }
    } else {
      Vec<K, W> x[2][H];
#pragma GCC unroll 32
      for (int i = 0; i < M; ++i) x[i / H][i % H] = load<W>(key + i * W);
      gather_lanes<M, W>(reinterpret_cast<Vec<K, W>(&)[M]>(x));
      halves.take(0, x[0]);
      halves.take(1, x[1]);
    }
    const Vec<K, W> nth = halves.nth(n);
    store<W>(lane, nth);
    store_all(key, nth, lane, mask, typename MakeLanes<M>::type{});
    const Vec<K, W> equal = nth == halves.nth(n + 1);
    if (any(equal)) settle(key, equal, lane, mask);
  }

 private:
  /// One half of the elements of each group: every second vector, or, where a group is one vector,
  /// half of each of two groups.
  template <bool Whole>
  static GOSSAMER_INLINE Vec<K, W> half_of(const K* key, int half) {
    if constexpr (!Whole) return load<W>(key + half * W);
    return join(load<W / 2>(key + half * H), load<W / 2>(key + M + half * H),
                typename MakeLanes<W>::type{});
  }
  template <class V, int... I>
  static GOSSAMER_INLINE Vec<K, W> join(V low, V high, Lanes<I...>) {
    return __builtin_shufflevector(low, high, I...);
  }

  void settle(const K* key, Vec<K, W> equal, const K* lane, std::uint8_t* mask) const {
    K tied[W];
    store<W>(tied, equal);
    for (int g = 0; g < W; ++g) {
      const int l = kLane.of[g];
      if (tied[l] != 0) drop_surplus<M>(key + g * M, lane[l], n, tie_high, mask + g * M);
    }
  }

  template <int... V>
  static GOSSAMER_INLINE void store_all(const K* key, Vec<K, W> nth, const K* lane,
                                        std::uint8_t* mask, Lanes<V...>) {
    (store_reaching<W, K>(mask + V * W, load<W>(key + V * W),
                          nth_of_vector<V>(nth, lane, typename MakeLanes<W>::type{})),
     ...);
  }

  template <int V, int... I>
  static GOSSAMER_INLINE Vec<K, W> nth_of_vector(Vec<K, W> nth, const K* lane, Lanes<I...>) {
    if constexpr (M >= W) return broadcast<W>(lane[kLane.of[V * W / M]]);
    return __builtin_shufflevector(nth, nth, kLane.of[(V * W + I) / M]...);
  }
};

/// Masks groups of m consecutive elements with `Block`, which handles groups of M: M is m, or the
/// next size that Block has, with the lowest key in the places that are left.
template <int M, template <int, class> class Block, class K>
void in_rows(const NmMaskArgs& a) {
  using B = Block<M, K>;
  constexpr int W = kLanes<K>, kBlock = B::kGroups * M, kPeriod = M > W ? M : W;
  constexpr int kKeys = kBlock > 1024 ? kBlock : 1024, kGroups = kKeys / M;
  const Source<K> source{a};
  const B block(a);
  const bool whole = a.m == M;
  const auto m = static_cast<std::size_t>(a.m);
  // Initialised, because blocks are computed as a whole, even behind the last group.
  alignas(64) K key[kKeys + W] = {}, line[kKeys + M + W], pads[kPeriod];
  alignas(64) std::uint8_t kept[kKeys];
  for (int l = 0; l < kPeriod; ++l) pads[l] = l % M < a.m ? 0 : -1;
  // Where the next group begins, and its number within its part.
  std::int64_t at = 0, group = 0;
  const auto run = [&](std::int64_t most) { return min_i64(most, a.groups - group); };
  const auto advance = [&](std::int64_t groups) {
    at += groups * a.m;
    group += groups;
    if (group < a.groups) return;
    at += a.part - a.groups * a.m;
    group = 0;
  };
  for (std::int64_t left = a.parts * a.groups; left > 0;) {
    if (whole && a.evaluated == nullptr && run(left) >= B::kGroups) {
      // Read and mask block after block: the computation hides the latency of memory.
      const std::int64_t blocks = run(left) / B::kGroups;
      std::int64_t column = a.factor == nullptr ? 0 : (a.column + at) % a.columns;
      for (std::int64_t b = 0; b < blocks; ++b) {
        const std::int64_t from = at + b * kBlock;
        if (a.factor == nullptr || column + kBlock <= a.columns) {
          source.copy(from, column, kBlock, key);
        } else {
          source.read(from, kBlock, key);
        }
        if (a.factor != nullptr && (column += kBlock) >= a.columns) column %= a.columns;
        block(key, a.mask + from);
      }
      advance(blocks * B::kGroups);
      left -= blocks * B::kGroups;
      continue;
    }
    const std::int64_t first_at = at, first_group = group, groups = min_i64(kGroups, left);
    left -= groups;
    const bool alone = whole && run(groups) == groups && groups % B::kGroups == 0;
    std::uint8_t* to = alone ? a.mask + at : kept;
    for (std::int64_t done = 0; done < groups;) {
      const std::int64_t some = run(groups - done);
      source.read(at, some * a.m, whole ? key + done * M : line);
      if (!whole) {
        for (std::int64_t g = 0; g < some; ++g) {
          __builtin_memcpy(key + (done + g) * M, line + g * a.m, M * sizeof(K));
        }
      }
      advance(some);
      done += some;
    }
    for (std::int64_t i = 0; i < groups * M; i += kBlock) {
      for (int l = 0; l < kBlock && !whole; l += W) {
        const auto pad = load<W>(pads + l % kPeriod);
        const auto mine = load<W>(key + i + l);
        store<W>(key + i + l, pad ? broadcast<W>(Keys<K>::kLowest) : mine);
      }
      block(key + i, to + i);
    }
    if (to != kept) continue;
    at = first_at;
    group = first_group;
    for (std::int64_t done = 0; done < groups;) {
      const std::int64_t some = run(groups - done);
      const std::uint8_t* from = kept + done * M;
      std::uint8_t* mask = a.mask + at;
      std::int64_t g = 0;
      // Copies M bytes at once where the next group overwrites what is too much.
      const std::int64_t roomy = M <= 2 * a.m ? some - 1 : 0;
      for (; g < roomy; ++g) __builtin_memcpy(mask + g * a.m, from + g * M, M);
      for (; g < some; ++g) __builtin_memcpy(mask + g * a.m, from + g * M, m);
      advance(some);
      done += some;
    }
  }
}

/// before[i] = how many of the M keys come before key[i], for the group in each lane.
template <int M, int W, class K>
GOSSAMER_INLINE void compare_pairs(const Vec<K, W> (&key)[M], bool tie_high,
                                   Vec<K, W> (&before)[M]) {
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) before[i] = broadcast<W>(static_cast<K>(M - 1 - i));
  const Vec<K, W> slack = broadcast<W>(static_cast<K>(tie_high ? 0 : 1));
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int j = i + 1; j < M; ++j) {
      const Vec<K, W> i_first = key[i] + slack > key[j];
      before[j] -= i_first;
      before[i] += i_first;
    }
  }
}

/// The n-th largest of M keys in each lane, and whether the next one equals it in any lane.
template <int M, int W, class K>
GOSSAMER_INLINE Vec<K, W> nth_of(const K* key, std::int64_t step, std::int64_t n, bool& tied) {
  constexpr int H = M / 2;
  Halves<M, K, W> halves;
  for (int half = 0; half < 2; ++half) {
    Vec<K, W> x[H];
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) x[i] = load<W>(key + (half * H + i) * step);
    halves.take(half, x);
  }
  const Vec<K, W> nth = halves.nth(static_cast<int>(n));
  tied = any(nth == halves.nth(static_cast<int>(n) + 1));
  return nth;
}

/// The n-th largest of any number of keys in each lane, found bit by bit from the highest.
template <int W, class K>
GOSSAMER_INLINE Vec<K, W> nth_of_many(const K* key, std::int64_t step, std::int64_t m,
                                      std::int64_t n) {
  constexpr int kBits = 8 * static_cast<int>(sizeof(K));
  const Vec<K, W> count = broadcast<W>(static_cast<K>(n));
  Vec<K, W> nth = broadcast<W>(Keys<K>::kLowest);
  for (int bit = kBits - 1; bit >= 0; --bit) {
    const Vec<K, W> higher = nth ^ broadcast<W>(static_cast<K>(std::uint64_t{1} << bit));
    Vec<K, W> reach{};
    for (std::int64_t i = 0; i < m; ++i) reach -= load<W>(key + i * step) >= higher;
    nth = reach >= count ? higher : nth;
  }
  return nth;
}

/// Decides in each lane which n of the m keys, `step` apart, are kept. Calls store(i, key, least)
/// for each: it is kept if key ≥ least. M = 0, or M ≥ m keys exist and those from m on are the
/// lowest.
template <int M, int W, class K, class Store>
GOSSAMER_INLINE void pick_many(const K* key, std::int64_t step, std::int64_t m, std::int64_t n,
                               bool tie_high, Store&& store) {
  using V = Vec<K, W>;
  bool tied = true;
  V nth;
  if constexpr (M == 0) {
    nth = nth_of_many<W>(key, step, m, n);
  } else {
    nth = nth_of<M, W>(key, step, n, tied);
  }
  if (!tied) {
    for (std::int64_t i = 0; i < m; ++i) store(i, load<W>(key + i * step), nth);
    return;
  }
  V left = broadcast<W>(static_cast<K>(n));
  for (std::int64_t i = 0; i < m; ++i) left += load<W>(key + i * step) > nth;
  for (std::int64_t k = 0; k < m; ++k) {
    const std::int64_t i = tie_high ? m - 1 - k : k;
    const V mine = load<W>(key + i * step), some = left > V{};
    left += (mine == nth) & some;
    store(i, mine, V(nth + 1 + some));
  }
}

/// Groups along the columns of memory; neighbouring columns are lanes. M is the power of two from m
/// up (up to 8, all pairs are compared), or 0 for any m. Reads scores and writes the mask in whole
/// cache lines: rows that are a power of two apart compete for the same cache sets.
template <int M, class K>
void in_columns(const NmMaskArgs& a) {
  constexpr int W = kLanes<K>, kLine = 64, kCols = M == 0 ? kLine : 2048 / M;
  const Source<K> source{a};
  const Vec<K, W> last = broadcast<W>(static_cast<K>(a.n - 1));
  K* key = reinterpret_cast<K*>(a.scratch);
  const std::int64_t m = a.m, step = a.step, rows = M > m ? M : m;
  std::uint8_t* kept = reinterpret_cast<std::uint8_t*>(key + rows * kCols);
  // Scores that are neither evaluated nor multiplied are read where they are needed.
  const bool plain = a.evaluated == nullptr && a.factor == nullptr;
  const std::int64_t width = a.evaluated == nullptr ? kLine : kCols, apart = plain ? W : width;
  for (std::int64_t i = m * apart; i < rows * apart; ++i) key[i] = Keys<K>::kLowest;
  const Keys<K> to_key = source.keys;
  // Masks W columns, given by their keys at `from` or by the scores at `bits`.
  const auto pick = [&](K* from, const K* bits, std::uint8_t* to) {
    const auto read = [&](std::int64_t i) {
      if (bits == nullptr) return load<W>(from + i * apart);
      __builtin_prefetch(bits + i * step + kLine, 0, 2);
      return to_key(load<W>(bits + i * step));
    };
    if constexpr (M > 0 && M <= 8) {
      Vec<K, W> mine[M], before[M];
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) mine[i] = i < m ? read(i) : broadcast<W>(Keys<K>::kLowest);
      compare_pairs<M, W, K>(mine, a.tie_high, before);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) store_reaching<W, K>(to + i * width, last, before[i]);
    } else {
      for (std::int64_t i = 0; i < m && bits != nullptr; ++i) store<W>(from + i * apart, read(i));
      pick_many<M, W>(from, apart, m, a.n, a.tie_high,
                      [&](std::int64_t i, Vec<K, W> mine, Vec<K, W> least) {
                        store_reaching<W, K>(to + i * width, mine, least);
                      });
    }
  };
  const std::int64_t all = a.parts * a.groups;
  for (std::int64_t q = 0; q < all; ++q) {
    const std::int64_t begin = q / a.groups * a.part + q % a.groups * m * step;
    for (std::int64_t c = 0; c < a.cols; c += width) {
      const std::int64_t at = begin + c, cols = min_i64(width, a.cols - c);
      for (std::int64_t i = 0; i < m && !plain; ++i) {
        source.read(at + i * step, cols, key + i * apart);
      }
      for (std::int64_t l = 0; l < cols; l += W) {
        const bool whole = plain && l + W <= cols;
        for (std::int64_t i = 0; i < m && plain && !whole; ++i) {
          source.read(at + i * step + l, cols - l, key + i * apart);
        }
        const K* bits = static_cast<const K*>(a.score) + at + l;
        pick(plain ? key : key + l, whole ? bits : nullptr, kept + l);
      }
      for (std::int64_t i = 0; i < a.m; ++i) {
        std::uint8_t* to = a.mask + at + i * a.step;
        if (cols == kLine) {
          __builtin_memcpy(to, kept + i * width, kLine);
        } else {
          __builtin_memcpy(to, kept + i * width, static_cast<std::size_t>(cols));
        }
      }
    }
  }
}

/// Groups of any number m of consecutive elements: copies W groups side by side into lanes.
template <class K>
void gathered(const NmMaskArgs& a) {
  constexpr int W = kLanes<K>;
  const Source<K> source{a};
  K* key = reinterpret_cast<K*>(a.scratch);
  K* line = key + a.m * W;
  const std::int64_t all = a.parts * a.groups;
  for (std::int64_t q = 0; q < all; q += W) {
    const int lanes = static_cast<int>(min_i64(W, all - q));
    std::int64_t at[W] = {};
    for (int l = 0; l < lanes; ++l) {
      at[l] = (q + l) / a.groups * a.part + (q + l) % a.groups * a.m;
      source.read(at[l], a.m, line);
      for (std::int64_t i = 0; i < a.m; ++i) key[i * W + l] = line[i];
    }
    pick_many<0, W>(key, W, a.m, a.n, a.tie_high,
                    [&](std::int64_t i, Vec<K, W> mine, Vec<K, W> least) {
                      std::uint8_t row[W];
                      store_reaching<W, K>(row, mine, least);
                      for (int l = 0; l < lanes; ++l) a.mask[at[l] + i] = row[l];
                    });
  }
}

template <class K>
void nm_mask_of(const NmMaskArgs& a) {
  if (a.step == 1) {
    if (a.m == 2) return in_rows<2, Rotated, K>(a);
    if constexpr (kLanes<K> >= 4) {
      if (a.m <= 4) return in_rows<4, Rotated, K>(a);
    }
    if (a.m <= 8) return in_rows<8, Across, K>(a);
    if (a.m <= 16) return in_rows<16, Across, K>(a);
    if (a.m <= 32) return in_rows<32, Across, K>(a);
    gathered<K>(a);
  } else {
    if (a.m == 2) return in_columns<2, K>(a);
    if (a.m <= 4) return in_columns<4, K>(a);
    if (a.m <= 8) return in_columns<8, K>(a);
    if (a.m <= 16) return in_columns<16, K>(a);
    if (a.m <= 32) return in_columns<32, K>(a);
    in_columns<0, K>(a);
  }
}

/// Elements as unsigned numbers, of which these bits say that one is not zero: all but the sign of
/// floating types, so that -0 is zero and NaN is not.
template <class U>
struct ValueBits {
  U bits;

  GOSSAMER_INLINE bool nonzero(U x) const { return (x & bits) != 0; }
};

/// Bit i says whether x[i] is not zero, i < 64.
template <class U>
GOSSAMER_INLINE std::uint64_t nonzero_bits(ValueBits<U> value, const U* x) {
  std::uint64_t bits = 0;
#if defined(GOSSAMER_AVX512)
  constexpr int W = kLanes<U>;
  const auto wanted = bit_cast<__m512i>(broadcast<W>(value.bits));
  for (int i = 0; i < 64; i += W) {
    const __m512i v = _mm512_loadu_si512(x + i);
    std::uint64_t part;
    if constexpr (sizeof(U) == 1) part = _mm512_test_epi8_mask(v, wanted);
    if constexpr (sizeof(U) == 2) part = _mm512_test_epi16_mask(v, wanted);
    if constexpr (sizeof(U) == 4) part = _mm512_test_epi32_mask(v, wanted);
    if constexpr (sizeof(U) == 8) part = _mm512_test_epi64_mask(v, wanted);
    bits |= part << i;
  }
#else
  for (int i = 0; i < 64; i += 8) {
    std::uint8_t byte[8];
    for (int j = 0; j < 8; ++j) byte[j] = value.nonzero(x[i + j]);
    std::uint64_t word;
    __builtin_memcpy(&word, byte, 8);
    bits |= (word * 0x0102040810204080u >> 56) << i;
  }
#endif
  return bits;
}

/// Counts the bits set in each run of m bits, m a power of two. In the result, the highest bit of a
/// run is set where more than n < m were.
GOSSAMER_INLINE std::uint64_t crowded(std::uint64_t bits, std::int64_t n, std::int64_t m) {
  constexpr std::uint64_t kAll = ~std::uint64_t{0};
  std::uint64_t low = 0x5555555555555555;
  if (m == 2) return n == 0 ? (bits | bits << 1) & ~low : bits & bits << 1 & ~low;
  std::uint64_t sum = bits - (bits >> 1 & low);
  for (std::int64_t width = 2; width < m; width *= 2) {
    low = kAll / ((std::uint64_t{1} << width) + 1);
    sum = (sum & low) + (sum >> width & low);
  }
  const std::uint64_t one = m == 64 ? 1 : kAll / ((std::uint64_t{1} << m) - 1);
  const std::uint64_t most = (std::uint64_t{1} << (m - 1)) - 1 - static_cast<std::uint64_t>(n);
  return (sum + one * most) & one << (m - 1);
}

/// Groups of m consecutive elements, m a power of two up to 64.
template <class U>
void check_rows(const NmCheckArgs& a, ValueBits<U> value) {
  const std::int64_t groups = a.groups + (a.rest > 0), size = a.groups * a.m + a.rest;
  std::int64_t violations = 0, first = -1;
  for (std::int64_t o = 0; o < a.parts; ++o) {
    const U* x = static_cast<const U*>(a.x) + o * a.part;
    for (std::int64_t i = 0; i < size; i += 64) {
      std::uint64_t found;
      if (i + 64 <= size) {
        found = crowded(nonzero_bits(value, x + i), a.n, a.m);
      } else {
        U part[64] = {};
        for (std::int64_t l = 0; l < size - i; ++l) part[l] = x[i + l];
        found = crowded(nonzero_bits<U>(value, part), a.n, a.m);
      }
      if (found == 0) continue;
      if (first < 0) first = o * groups + (i + __builtin_ctzll(found)) / a.m;
      violations += __builtin_popcountll(found);
    }
  }
  *a.violations = violations;
  *a.first = first;
}

template <class U>
void check_of(const NmCheckArgs& a, U value_bits) {
  const ValueBits<U> value{value_bits};
  if (a.n == a.m) {
    *a.violations = 0;
    *a.first = -1;
    return;
  }
  if (a.step == 1 && a.m > 1 && a.m <= 64 && (a.m & (a.m - 1)) == 0) return check_rows<U>(a, value);
  constexpr std::int64_t kChunk = 256;
  const std::int64_t groups = a.groups + (a.rest > 0);
  std::int64_t violations = 0, first = -1;
  for (std::int64_t o = 0; o < a.parts; ++o) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const U* x = static_cast<const U*>(a.x) + o * a.part + g * a.m * a.step;
      const std::int64_t m = g < a.groups ? a.m : a.rest;
      if (a.cols == 1) {
        std::int64_t count = 0;
        for (std::int64_t i = 0; i < m; ++i) count += value.nonzero(x[i * a.step]);
        if (count <= a.n) continue;
        if (first < 0) first = o * groups + g;
        ++violations;
        continue;
      }
      for (std::int64_t c = 0; c < a.cols; c += kChunk) {
        const std::int64_t cols = min_i64(kChunk, a.cols - c);
        std::int32_t count[kChunk] = {};
        for (std::int64_t i = 0; i < m; ++i) {
          for (std::int64_t j = 0; j < cols; ++j) count[j] += value.nonzero(x[i * a.step + c + j]);
        }
        for (std::int64_t j = 0; j < cols; ++j) {
          if (count[j] <= a.n) continue;
          if (first < 0) first = (o * groups + g) * a.cols + c + j;
          ++violations;
        }
      }
    }
  }
  *a.violations = violations;
  *a.first = first;
}

}  // namespace

void nm_mask(const NmMaskArgs& a);
void nm_mask(const NmMaskArgs& a) {
  switch (a.type) {
    case DType::f64:
      return nm_mask_of<std::int64_t>(a);
    case DType::f32:
      return nm_mask_of<std::int32_t>(a);
    default:
      return a.factor != nullptr ? nm_mask_of<std::int32_t>(a) : nm_mask_of<std::int16_t>(a);
  }
}

void nm_check(const NmCheckArgs& a);
void nm_check(const NmCheckArgs& a) {
  constexpr std::uint64_t kAll = ~std::uint64_t{0};
  switch (a.type) {
    case DType::f64:
      return check_of<std::uint64_t>(a, kAll >> 1);
    case DType::i64:
      return check_of<std::uint64_t>(a, kAll);
    case DType::f32:
      return check_of<std::uint32_t>(a, 0x7fffffff);
    case DType::i32:
      return check_of<std::uint32_t>(a, 0xffffffff);
    case DType::u16:
      return check_of<std::uint16_t>(a, 0xffff);
    case DType::u8:
    case DType::boolean:
      return check_of<std::uint8_t>(a, 0xff);
    default:
      return check_of<std::uint16_t>(a, 0x7fff);
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
