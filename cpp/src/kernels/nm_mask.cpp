// N of M: elements become integers in the order of the scores. Small groups along the rows of
// memory are compared with their own rotations. Else groups lie side by side in the lanes of
// vectors: a network sorts their halves, which tells the n-th and the next; what reaches the n-th
// is kept, and where the next equals it, elements that equal it are taken in order.

#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

struct Order {
  bool magnitude;
  bool nan_high;
};

/// Keys of the bits of numbers: larger ones come first. All NaN share a key beyond the infinities.
template <class K, int W>
GOSSAMER_INLINE Vec<K, W> keys(Vec<K, W> bits, K infinity, Order order) {
  constexpr int kSign = 8 * static_cast<int>(sizeof(K)) - 1;
  const Vec<K, W> magnitude = broadcast<W>(static_cast<K>(~(std::uint64_t{1} << kSign)));
  const Vec<K, W> size = bits & magnitude;
  const Vec<K, W> sign = order.magnitude ? Vec<K, W>{} : bits >> kSign;
  const Vec<K, W> key = (size ^ sign) - sign;
  const K beyond = static_cast<K>(order.nan_high ? infinity + 1 : -infinity - 1);
  return size > broadcast<W>(infinity) ? broadcast<W>(beyond) : key;
}

/// How keys are read from a stored type: those of the type of sums, or where `Narrow` those of its
/// own 16 bits, of which a vector holds twice as many.
template <class T, bool Narrow>
struct Reader {
  using S = T;
  using K = std::int32_t;
  static constexpr int W = kLanes<K>;
  static GOSSAMER_INLINE Vec<K, W> read(const T* p, Order order) {
    return keys<K, W>(bit_cast<Vec<K, W>>(load_real<W>(p)), K{0x7f800000}, order);
  }
};
template <>
struct Reader<double, false> {
  using S = double;
  using K = std::int64_t;
  static constexpr int W = kLanes<K>;
  static GOSSAMER_INLINE Vec<K, W> read(const double* p, Order order) {
    return keys<K, W>(bit_cast<Vec<K, W>>(load<W>(p)), K{0x7ff0000000000000}, order);
  }
};

template <class T>
constexpr std::int16_t kInfinity = 0x7c00;
template <>
constexpr std::int16_t kInfinity<bf16_t> = 0x7f80;

template <class T>
struct Reader<T, true> {
  using S = T;
  using K = std::int16_t;
  static constexpr int W = kLanes<K>;
  static GOSSAMER_INLINE Vec<K, W> read(const T* p, Order order) {
    return keys<K, W>(load<W>(reinterpret_cast<const K*>(p)), kInfinity<T>, order);
  }
};

template <int W, class K>
GOSSAMER_INLINE void store_kept(std::uint8_t* mask, Vec<K, W> kept) {
#if defined(GOSSAMER_AVX512)
  if constexpr (W == 16 && sizeof(K) == 4) {
    const __mmask16 bits = _mm512_movepi32_mask(bit_cast<__m512i>(kept));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(mask), _mm_maskz_set1_epi8(bits, 1));
    return;
  }
  if constexpr (W == 32 && sizeof(K) == 2) {
    const __mmask32 bits = _mm512_movepi16_mask(bit_cast<__m512i>(kept));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(mask), _mm256_maskz_set1_epi8(bits, 1));
    return;
  }
#endif
  store<W>(mask, __builtin_convertvector(kept, Vec<std::uint8_t, W>) & std::uint8_t{1});
}

/// Stores 1 where a key reaches the n-th.
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
  store_kept<W, K>(mask, key >= nth);
}

/// The lane that is `by` further in its group of M lanes.
template <int M, int By, class V, int... I>
GOSSAMER_INLINE V rotate(V v, Lanes<I...>) {
  return __builtin_shufflevector(v, v, ((I / M) * M + (I + By) % M)...);
}

/// 1 in the lanes that lose to the lane `By` further in their group of M where keys are equal.
template <class K, int M, int By, bool TieHigh, int W>
struct Losers {
  K lane[W] = {};
  constexpr Losers() {
    for (int l = 0; l < W; ++l) lane[l] = (l % M + By >= M) != TieHigh ? 1 : 0;
  }
};

/// Adds one where x is above y.
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

/// Adds, for the rotations 1 to M-1, whether the other lane comes before this one.
template <int M, int By, bool TieHigh, int W, class K>
GOSSAMER_INLINE void count_before(Vec<K, W> key, Vec<K, W>& before) {
  if constexpr (By < M) {
    static constexpr Losers<K, M, By, TieHigh, W> kLosers;
    const auto other = rotate<M, By>(key, typename MakeLanes<W>::type{});
    before = add_where_above<K, W>(before, other + load<W>(kLosers.lane), key);
    count_before<M, By + 1, TieHigh, W, K>(key, before);
  }
}

/// Groups of M consecutive elements, M a power of two that divides the vector.
template <int M, bool TieHigh, class R>
void in_rows(const NmMaskArgs& a) {
  using K = typename R::K;
  using S = typename R::S;
  constexpr int W = R::W;
  const Order order{a.magnitude, a.nan_high};
  const Vec<K, W> n = broadcast<W>(static_cast<K>(a.n));
  const auto pick = [&](const S* score) {
    Vec<K, W> before{};
    count_before<M, 1, TieHigh, W, K>(R::read(score, order), before);
    return Vec<K, W>(before < n);
  };
  for (std::int64_t o = 0; o < a.parts; ++o) {
    const S* score = static_cast<const S*>(a.score) + o * a.part;
    std::uint8_t* mask = a.mask + o * a.part;
    const std::int64_t size = a.groups * M;
    std::int64_t i = 0;
    for (; i + W <= size; i += W) store_kept<W, K>(mask + i, pick(score + i));
    if (i < size) {
      S part[W] = {};
      std::uint8_t kept[W];
      for (std::int64_t l = 0; l < size - i; ++l) part[l] = score[i + l];
      store_kept<W, K>(kept, pick(part));
      for (std::int64_t l = 0; l < size - i; ++l) mask[i + l] = kept[l];
    }
  }
}

/// before[i] = how many of the keys [M] come before key[i]; each lane is a group.
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

/// Batcher's merge exchange.
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

/// Lane by lane, the largest first.
template <int N, class V>
GOSSAMER_INLINE void sort(V (&x)[N]) {
  sort_by<N, V>(x, typename MakeLanes<Network<N>{}.count>::type{});
}

/// Two halves of M keys a lane, each sorted behind a key beyond any.
template <int M, class K, int W>
struct Halves {
  static constexpr int H = M / 2;
  using V = Vec<K, W>;
  static constexpr K kLowest = static_cast<K>(std::uint64_t{1} << (8 * sizeof(K) - 1));
  V sorted[2][H + 1];

  GOSSAMER_INLINE void take(int half, V (&x)[H]) {
    sort<H, V>(x);
    sorted[half][0] = broadcast<W>(static_cast<K>(~kLowest));
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) sorted[half][i + 1] = x[i];
  }

  /// The n-th key of both, from 1: as much as is reached by i of one half and n - i of the other.
  [[nodiscard]] GOSSAMER_INLINE V nth(int n) const {
    V most = broadcast<W>(kLowest);
    for (int i = n > H ? n - H : 0; i <= min_int(n, H); ++i) {
      const V a = sorted[0][i], b = sorted[1][n - i], both = a > b ? b : a;
      most = most > both ? most : both;
    }
    return most;
  }
};

template <class V>
GOSSAMER_INLINE bool any(V set) {
  std::uint64_t words[sizeof(V) / 8], all = 0;
  __builtin_memcpy(words, &set, sizeof set);
  for (const std::uint64_t word : words) all |= word;
  return all != 0;
}

/// The n-th of M keys, and whether the next equals it, from an array [M][W].
template <int M, int W, class K>
GOSSAMER_INLINE Vec<K, W> nth_of(const K* key, std::int64_t n, bool& tied) {
  constexpr int H = M / 2;
  Halves<M, K, W> halves;
  for (int half = 0; half < 2; ++half) {
    Vec<K, W> x[H];
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) x[i] = load<W>(key + (half * H + i) * W);
    halves.take(half, x);
  }
  const Vec<K, W> nth = halves.nth(static_cast<int>(n));
  tied = any(nth == halves.nth(static_cast<int>(n) + 1));
  return nth;
}

/// The n-th of any number of keys, bit by bit.
template <int W, class K>
GOSSAMER_INLINE Vec<K, W> nth_of_many(const K* key, std::int64_t m, std::int64_t n) {
  constexpr int kBits = 8 * static_cast<int>(sizeof(K));
  const Vec<K, W> count = broadcast<W>(static_cast<K>(n));
  Vec<K, W> nth = broadcast<W>(static_cast<K>(std::uint64_t{1} << (kBits - 1)));
  for (int bit = kBits - 1; bit >= 0; --bit) {
    const Vec<K, W> higher = nth ^ broadcast<W>(static_cast<K>(std::uint64_t{1} << bit));
    Vec<K, W> reach{};
    for (std::int64_t i = 0; i < m; ++i) reach -= load<W>(key + i * W) >= higher;
    nth = reach >= count ? higher : nth;
  }
  return nth;
}

/// Whether fewer than n of the m keys come before each, from an array [m][W], or [M][W] where M is
/// not 0, the last ones lowest: store(i, key, least) of what a key must reach.
template <int M, int W, class K, class Store>
GOSSAMER_INLINE void pick_many(const K* key, std::int64_t m, std::int64_t n, bool tie_high,
                               Store&& store) {
  using V = Vec<K, W>;
  bool tied = true;
  V nth;
  if constexpr (M == 0) {
    nth = nth_of_many<W>(key, m, n);
  } else {
    nth = nth_of<M, W>(key, n, tied);
  }
  if (!tied) {
    for (std::int64_t i = 0; i < m; ++i) store(i, load<W>(key + i * W), nth);
    return;
  }
  V left = broadcast<W>(static_cast<K>(n));
  for (std::int64_t i = 0; i < m; ++i) left += load<W>(key + i * W) > nth;
  for (std::int64_t step = 0; step < m; ++step) {
    const std::int64_t i = tie_high ? m - 1 - step : step;
    const V mine = load<W>(key + i * W), some = left > V{};
    left += (mine == nth) & some;
    store(i, mine, V(nth + 1 + some));
  }
}

/// Lanes of 128 bits are interleaved: the two keep their order, pair by pair.
template <class V, int... I>
GOSSAMER_INLINE void interleave(V& a, V& b, Lanes<I...>) {
  constexpr int n = static_cast<int>(sizeof...(I)), B = n * 16 / static_cast<int>(sizeof(V));
  const V low = __builtin_shufflevector(a, b, (I / B * B + I % B / 2 + I % 2 * n)...);
  const V high = __builtin_shufflevector(a, b, (I / B * B + I % B / 2 + B / 2 + I % 2 * n)...);
  a = low;
  b = high;
}

/// The even ones of the 128-bit lanes of both, and the odd ones.
template <class V, int... I>
GOSSAMER_INLINE void deal(V& a, V& b, Lanes<I...>) {
  constexpr int n = static_cast<int>(sizeof...(I)), B = n * 16 / static_cast<int>(sizeof(V));
  const V even = __builtin_shufflevector(a, b, (I / B * 2 * B + I % B)...);
  const V odd = __builtin_shufflevector(a, b, (I / B * 2 * B + B + I % B)...);
  a = even;
  b = odd;
}

/// R vectors of W lanes to lanes of which each holds some R elements that were neighbours, a power
/// of two that is at least 16 bytes.
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

/// The keys of `lanes` elements from `p`, and of zeros.
template <class R>
GOSSAMER_INLINE auto read_lanes(const typename R::S* p, std::int64_t lanes, Order order) {
  if (lanes >= R::W) return R::read(p, order);
  typename R::S part[R::W] = {};
  for (std::int64_t l = 0; l < lanes; ++l) part[l] = p[l];
  return R::read(part, order);
}

/// The least key, at the places of the array [M][W] that the m of a group leave free.
template <int M, int W, class K>
GOSSAMER_INLINE void pad(K* key, std::int64_t m) {
  for (std::int64_t i = m * W; i < M * W; ++i) key[i] = Halves<M, K, W>::kLowest;
}

/// Groups down the columns: neighbouring columns are lanes. M is m where that is compared in pairs,
/// else a power of two from m on, or 0. The mask is written by whole lines: rows of a power of two
/// compete for the same places in the cache. For that, too, scores are fetched ahead no further
/// than into the second level.
template <int M, bool Pairs, class R>
void in_columns(const NmMaskArgs& a) {
  using K = typename R::K;
  using S = typename R::S;
  constexpr int W = R::W, kLine = 64;
  const Order order{a.magnitude, a.nan_high};
  const Vec<K, W> last = broadcast<W>(static_cast<K>(a.n - 1));
  K* key = reinterpret_cast<K*>(a.scratch);
  std::uint8_t* kept = reinterpret_cast<std::uint8_t*>(key + (M > a.m ? M : a.m) * W);
  if constexpr (M > 0 && !Pairs) pad<M, W>(key, a.m);
  const auto read = [&](const S* score, std::int64_t lanes) {
    __builtin_prefetch(score + kLine, 0, 2);
    return read_lanes<R>(score, lanes, order);
  };
  const auto strip = [&](const S* score, std::int64_t lanes, std::uint8_t* to) {
    if constexpr (Pairs) {
      Vec<K, W> mine[M], before[M];
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) mine[i] = read(score + i * a.step, lanes);
      compare_pairs<M, W, K>(mine, a.tie_high, before);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) store_reaching<W, K>(to + i * kLine, last, before[i]);
    } else {
      for (std::int64_t i = 0; i < a.m; ++i) {
        store<W>(key + i * W, read(score + i * a.step, lanes));
      }
      pick_many<M, W>(key, a.m, a.n, a.tie_high,
                      [&](std::int64_t i, Vec<K, W> mine, Vec<K, W> least) {
                        store_reaching<W, K>(to + i * kLine, mine, least);
                      });
    }
  };
  for (std::int64_t o = 0; o < a.parts; ++o) {
    for (std::int64_t g = 0; g < a.groups; ++g) {
      const std::int64_t at = o * a.part + g * a.m * a.step;
      const S* score = static_cast<const S*>(a.score) + at;
      std::uint8_t* mask = a.mask + at;
      for (std::int64_t c = 0; c < a.cols; c += kLine) {
        const std::int64_t cols = min_i64(kLine, a.cols - c);
        for (std::int64_t l = 0; l < cols; l += W) strip(score + c + l, cols - l, kept + l);
        for (std::int64_t i = 0; i < a.m; ++i) {
          std::uint8_t* to = mask + i * a.step + c;
          if (cols == kLine) {
            __builtin_memcpy(to, kept + i * kLine, kLine);
          } else {
            __builtin_memcpy(to, kept + i * kLine, static_cast<std::size_t>(cols));
          }
        }
      }
    }
  }
}

/// Where gather_lanes leaves the groups.
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

/// Bit l of the result is lane l of a vector of zeros and of ones.
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
  store_kept<W, K>(lane, set);
  std::uint64_t bits = 0;
  for (int l = 0; l < W; l += 8) {
    std::uint64_t word;
    __builtin_memcpy(&word, lane + l, 8);
    bits |= (word * 0x0102040810204080u >> 56) << l;
  }
  return bits;
#endif
}

/// Of the elements of a group that reach the n-th, those that equal it are dropped until n are
/// left.
template <int M, class K>
void drop_surplus(const K* key, K nth, int n, bool tie_high, std::uint8_t* mask) {
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

/// W groups of M consecutive elements, M a power of two from 16 bytes on, are laid across lanes.
template <int M, class R>
struct Across {
  using K = typename R::K;
  static constexpr int W = R::W, H = M / 2;
  static constexpr GatheredLanes<(M > W ? H : M), W, 16 / static_cast<int>(sizeof(K))> kLane = {};

  const NmMaskArgs& a;
  const Order order{a.magnitude, a.nan_high};
  const int n = static_cast<int>(a.n);

  void operator()(const typename R::S* score, std::uint8_t* mask) const {
    alignas(64) K key[M * W], lane[W], tied[W];
    Halves<M, K, W> halves;
    if constexpr (M > W) {
      for (int v = 0; v < M; ++v) store<W>(key + v * W, R::read(score + v * W, order));
      for (int half = 0; half < 2; ++half) {
        Vec<K, W> x[H];
#pragma GCC unroll 16
        for (int i = 0; i < H; ++i) x[i] = load<W>(key + (2 * i + half) * W);
        gather_lanes<H, W>(x);
        halves.take(half, x);
      }
    } else {
      Vec<K, W> x[2][H];
#pragma GCC unroll 32
      for (int i = 0; i < M; ++i) {
        x[i / H][i % H] = R::read(score + i * W, order);
        store<W>(key + i * W, x[i / H][i % H]);
      }
      gather_lanes<M, W>(reinterpret_cast<Vec<K, W>(&)[M]>(x));
      halves.take(0, x[0]);
      halves.take(1, x[1]);
    }
    const Vec<K, W> nth = halves.nth(n);
    store<W>(lane, nth);
    store_all(key, nth, lane, mask, typename MakeLanes<M>::type{});
    const Vec<K, W> equal = nth == halves.nth(n + 1);
    if (!any(equal)) return;
    store<W>(tied, equal);
    for (int g = 0; g < W; ++g) {
      const int l = kLane.of[g];
      if (tied[l] != 0) drop_surplus<M>(key + g * M, lane[l], n, a.tie_high, mask + g * M);
    }
  }

 private:
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

/// Groups of M consecutive elements, `Block::W` of them at a time.
template <int M, class R>
void across(const NmMaskArgs& a) {
  using S = typename R::S;
  constexpr std::int64_t kBlock = M * R::W;
  const Across<M, R> block{a};
  for (std::int64_t o = 0; o < a.parts; ++o) {
    const S* score = static_cast<const S*>(a.score) + o * a.part;
    std::uint8_t* mask = a.mask + o * a.part;
    const std::int64_t size = a.groups * M;
    std::int64_t i = 0;
    for (; i + kBlock <= size; i += kBlock) block(score + i, mask + i);
    if (i < size) {
      S part[kBlock] = {};
      std::uint8_t kept[kBlock];
      for (std::int64_t l = 0; l < size - i; ++l) part[l] = score[i + l];
      block(part, kept);
      for (std::int64_t l = 0; l < size - i; ++l) mask[i + l] = kept[l];
    }
  }
}

/// Groups of any m consecutive elements: W of them are laid side by side.
template <int M, class R>
void gathered(const NmMaskArgs& a) {
  using K = typename R::K;
  using S = typename R::S;
  constexpr int W = R::W;
  const Order order{a.magnitude, a.nan_high};
  K* key = reinterpret_cast<K*>(a.scratch);
  if constexpr (M > 0) pad<M, W>(key, a.m);
  const std::int64_t all = a.parts * a.groups;
  for (std::int64_t q = 0; q < all; q += W) {
    const int lanes = static_cast<int>(min_i64(W, all - q));
    std::int64_t at[W] = {};
    for (int l = 0; l < lanes; ++l) {
      at[l] = (q + l) / a.groups * a.part + (q + l) % a.groups * a.m;
    }
    for (std::int64_t i = 0; i < a.m; ++i) {
      S row[W] = {};
      for (int l = 0; l < lanes; ++l) row[l] = static_cast<const S*>(a.score)[at[l] + i];
      store<W>(key + i * W, R::read(row, order));
    }
    pick_many<M, W>(key, a.m, a.n, a.tie_high,
                    [&](std::int64_t i, Vec<K, W> mine, Vec<K, W> least) {
                      std::uint8_t row[W];
                      store_reaching<W, K>(row, mine, least);
                      for (int l = 0; l < lanes; ++l) a.mask[at[l] + i] = row[l];
                    });
  }
}

template <class R>
void nm_mask_of(const NmMaskArgs& a) {
  const bool rows = a.step == 1;
  if constexpr (sizeof(typename R::K) > sizeof(typename R::S)) {
    return rows ? gathered<0, R>(a) : in_columns<0, false, R>(a);
  } else if (rows) {
    switch (a.m) {
      case 2:
        return a.tie_high ? in_rows<2, true, R>(a) : in_rows<2, false, R>(a);
      case 4:
        if constexpr (R::W < 4) return gathered<8, R>(a);
        return a.tie_high ? in_rows<4, true, R>(a) : in_rows<4, false, R>(a);
      case 8:
        return across<8, R>(a);
      case 16:
        return across<16, R>(a);
      case 32:
        return across<32, R>(a);
      default:
        break;
    }
    if (a.m < 8) return gathered<8, R>(a);
    if (a.m < 16) return gathered<16, R>(a);
    if (a.m < 32) return gathered<32, R>(a);
    gathered<0, R>(a);
  } else {
    if (a.m == 2) return in_columns<2, true, R>(a);
    if (a.m == 4) return in_columns<4, true, R>(a);
    if (a.m == 8) return in_columns<8, true, R>(a);
    if (a.m < 8) return in_columns<8, false, R>(a);
    if (a.m <= 16) return in_columns<16, false, R>(a);
    if (a.m <= 32) return in_columns<32, false, R>(a);
    in_columns<0, false, R>(a);
  }
}

/// Whether an element is not zero; NaN is not.
template <class S>
GOSSAMER_INLINE bool nonzero(S x) {
  return x != S{};
}
GOSSAMER_INLINE bool nonzero(f16_t x) { return (x.bits & 0x7fffu) != 0; }
GOSSAMER_INLINE bool nonzero(bf16_t x) { return (x.bits & 0x7fffu) != 0; }

/// All but the sign of floating types, whose zeros may have one.
template <class S>
constexpr std::int64_t kValueBits = -1;
template <>
constexpr std::int64_t kValueBits<f16_t> = 0x7fff;
template <>
constexpr std::int64_t kValueBits<bf16_t> = 0x7fff;
template <>
constexpr std::int64_t kValueBits<float> = 0x7fffffff;
template <>
constexpr std::int64_t kValueBits<double> = 0x7fffffffffffffff;

/// Bit i = x[i] is not zero, i < 64.
template <class S>
GOSSAMER_INLINE std::uint64_t nonzero_bits(const S* x) {
  std::uint64_t bits = 0;
#if defined(GOSSAMER_AVX512)
  constexpr int W = kLanes<S>;
  for (int i = 0; i < 64; i += W) {
    const __m512i v = _mm512_loadu_si512(x + i);
    std::uint64_t part;
    if constexpr (sizeof(S) == 1) part = _mm512_test_epi8_mask(v, v);
    if constexpr (sizeof(S) == 2)
      part = _mm512_test_epi16_mask(v, _mm512_set1_epi16(static_cast<short>(kValueBits<S>)));
    if constexpr (sizeof(S) == 4)
      part = _mm512_test_epi32_mask(v, _mm512_set1_epi32(static_cast<int>(kValueBits<S>)));
    if constexpr (sizeof(S) == 8)
      part = _mm512_test_epi64_mask(v, _mm512_set1_epi64(kValueBits<S>));
    bits |= part << i;
  }
#else
  for (int i = 0; i < 64; i += 8) {
    std::uint8_t byte[8];
    for (int j = 0; j < 8; ++j) byte[j] = nonzero(x[i + j]);
    std::uint64_t word;
    __builtin_memcpy(&word, byte, 8);
    bits |= (word * 0x0102040810204080u >> 56) << i;
  }
#endif
  return bits;
}

/// The bits of each m, a power of two, are counted where they are; the highest of the m is set
/// where there are more than n of them, n < m.
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

/// Groups of m ≤ 64, a power of two, along rows.
template <class S>
void check_rows(const NmCheckArgs& a) {
  const std::int64_t groups = a.groups + (a.rest > 0), size = a.groups * a.m + a.rest;
  std::int64_t violations = 0, first = -1;
  for (std::int64_t o = 0; o < a.parts; ++o) {
    const S* x = static_cast<const S*>(a.x) + o * a.part;
    for (std::int64_t i = 0; i < size; i += 64) {
      std::uint64_t found;
      if (i + 64 <= size) {
        found = crowded(nonzero_bits(x + i), a.n, a.m);
      } else {
        S part[64] = {};
        for (std::int64_t l = 0; l < size - i; ++l) part[l] = x[i + l];
        found = crowded(nonzero_bits(part), a.n, a.m);
      }
      if (found == 0) continue;
      if (first < 0) first = o * groups + (i + __builtin_ctzll(found)) / a.m;
      violations += __builtin_popcountll(found);
    }
  }
  *a.violations = violations;
  *a.first = first;
}

template <class S>
void check_of(const NmCheckArgs& a) {
  if (a.n == a.m) {
    *a.violations = 0;
    *a.first = -1;
    return;
  }
  if (a.step == 1 && a.m > 1 && a.m <= 64 && (a.m & (a.m - 1)) == 0) return check_rows<S>(a);
  constexpr std::int64_t kChunk = 256;
  const std::int64_t groups = a.groups + (a.rest > 0);
  std::int64_t violations = 0, first = -1;
  for (std::int64_t o = 0; o < a.parts; ++o) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const S* x = static_cast<const S*>(a.x) + o * a.part + g * a.m * a.step;
      const std::int64_t m = g < a.groups ? a.m : a.rest;
      if (a.cols == 1) {
        std::int64_t count = 0;
        for (std::int64_t i = 0; i < m; ++i) count += nonzero(x[i * a.step]);
        if (count <= a.n) continue;
        if (first < 0) first = o * groups + g;
        ++violations;
        continue;
      }
      for (std::int64_t c = 0; c < a.cols; c += kChunk) {
        const std::int64_t cols = min_i64(kChunk, a.cols - c);
        std::int32_t count[kChunk] = {};
        for (std::int64_t i = 0; i < m; ++i) {
          for (std::int64_t j = 0; j < cols; ++j) count[j] += nonzero(x[i * a.step + c + j]);
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

template <class S>
void count_nan_of(const CountNanArgs& a) {
  using K = typename Reader<S, false>::K;
  constexpr int W = Reader<S, false>::W;
  const S* x = static_cast<const S*>(a.x);
  Vec<K, W> found{};
  std::int64_t i = 0;
  for (; i + W <= a.count; i += W) {
    const auto v = load_real<W>(x + i);
    found -= bit_cast<Vec<K, W>>(v != v);
  }
  std::int64_t sum = 0;
  for (int l = 0; l < W; ++l) sum += found[l];
  for (; i < a.count; ++i) {
    const auto v = to_float(x[i]);
    sum += v != v;
  }
  *a.found += sum;
}

}  // namespace

void nm_mask(const NmMaskArgs& a);
void nm_mask(const NmMaskArgs& a) {
  // Counts up to m must fit the keys.
  const bool narrow = a.m < 0x7fff;
  with_float_type(a.type, [&](auto stored) {
    using S = typename decltype(stored)::type;
    if constexpr (sizeof(S) == 2) {
      if (narrow) return nm_mask_of<Reader<S, true>>(a);
    }
    nm_mask_of<Reader<S, false>>(a);
  });
}

void nm_check(const NmCheckArgs& a);
void nm_check(const NmCheckArgs& a) {
  switch (a.type) {
    case DType::i32:
      return check_of<std::int32_t>(a);
    case DType::i64:
      return check_of<std::int64_t>(a);
    case DType::u16:
      return check_of<std::uint16_t>(a);
    case DType::u8:
    case DType::boolean:
      return check_of<std::uint8_t>(a);
    default:
      with_float_type(a.type, [&](auto stored) { check_of<typename decltype(stored)::type>(a); });
  }
}

void count_nan(const CountNanArgs& a);
void count_nan(const CountNanArgs& a) {
  with_float_type(a.type, [&](auto stored) { count_nan_of<typename decltype(stored)::type>(a); });
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
