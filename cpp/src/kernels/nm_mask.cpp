// N of M: elements become integers in the order of the scores, and an element is kept where fewer
// than N others of its group come before it. Groups along the rows of memory are compared with
// their own rotations; others lie side by side in the lanes of vectors, one vector an element.

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

/// kept[i] = the keys [M] that fewer than n others come before; each lane is a group.
template <int M, int W, class K>
GOSSAMER_INLINE void pick_few(const Vec<K, W> (&key)[M], K n, bool tie_high, Vec<K, W> (&kept)[M]) {
  Vec<K, W> before[M];
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
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) kept[i] = before[i] < broadcast<W>(n);
}

/// The same for any m, over arrays [m][W]. Many elements are not compared in pairs: the n-th key is
/// found bit by bit, and elements that equal it are taken in order.
template <int W, class K>
void pick_many(const K* key, std::int64_t m, std::int64_t n, bool tie_high, K* kept) {
  constexpr std::int64_t kPairs = 32;
  if (m <= kPairs) {
    for (std::int64_t i = 0; i < m; ++i) {
      store<W>(kept + i * W, broadcast<W>(static_cast<K>(m - 1 - i)));
    }
    const Vec<K, W> slack = broadcast<W>(static_cast<K>(tie_high ? 0 : 1));
    for (std::int64_t i = 0; i < m; ++i) {
      const Vec<K, W> mine = load<W>(key + i * W) + slack;
      Vec<K, W> before = load<W>(kept + i * W);
      for (std::int64_t j = i + 1; j < m; ++j) {
        const Vec<K, W> first = mine > load<W>(key + j * W);
        store<W>(kept + j * W, load<W>(kept + j * W) - first);
        before += first;
      }
      store<W>(kept + i * W, Vec<K, W>(before < broadcast<W>(static_cast<K>(n))));
    }
    return;
  }
  constexpr int kBits = 8 * static_cast<int>(sizeof(K));
  const Vec<K, W> count = broadcast<W>(static_cast<K>(n));
  const Vec<K, W> flip = broadcast<W>(static_cast<K>(std::uint64_t{1} << (kBits - 1)));
  Vec<K, W> nth = flip;  // of unsigned keys: the lowest
  for (int bit = kBits - 1; bit >= 0; --bit) {
    const Vec<K, W> higher = nth ^ broadcast<W>(static_cast<K>(std::uint64_t{1} << bit));
    Vec<K, W> reach{};
    for (std::int64_t i = 0; i < m; ++i) reach -= load<W>(key + i * W) >= higher;
    nth = reach >= count ? higher : nth;
  }
  Vec<K, W> left = count;
  for (std::int64_t i = 0; i < m; ++i) left += load<W>(key + i * W) > nth;
  for (std::int64_t step = 0; step < m; ++step) {
    const std::int64_t i = tie_high ? m - 1 - step : step;
    const Vec<K, W> mine = load<W>(key + i * W);
    const Vec<K, W> equal = (mine == nth) & (left > Vec<K, W>{});
    left += equal;
    store<W>(kept + i * W, Vec<K, W>((mine > nth) | equal));
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

template <int W, class K>
GOSSAMER_INLINE void store_lanes(std::uint8_t* mask, Vec<K, W> kept, std::int64_t lanes) {
  if (lanes >= W) return store_kept<W, K>(mask, kept);
  std::uint8_t part[W];
  store_kept<W, K>(part, kept);
  for (std::int64_t l = 0; l < lanes; ++l) mask[l] = part[l];
}

/// Groups down the columns: neighbouring columns are lanes. M is 0 where it is not 2, 4 or 8.
template <int M, class R>
void in_columns(const NmMaskArgs& a) {
  using K = typename R::K;
  using S = typename R::S;
  constexpr int W = R::W;
  const Order order{a.magnitude, a.nan_high};
  K* key = reinterpret_cast<K*>(a.scratch);
  K* kept = key + a.m * W;
  for (std::int64_t o = 0; o < a.parts; ++o) {
    for (std::int64_t g = 0; g < a.groups; ++g) {
      const std::int64_t at = o * a.part + g * a.m * a.step;
      const S* score = static_cast<const S*>(a.score) + at;
      std::uint8_t* mask = a.mask + at;
      for (std::int64_t c = 0; c < a.cols; c += W) {
        const std::int64_t lanes = a.cols - c;
        if constexpr (M != 0) {
          Vec<K, W> mine[M], take[M];
#pragma GCC unroll 8
          for (int i = 0; i < M; ++i) {
            mine[i] = read_lanes<R>(score + i * a.step + c, lanes, order);
          }
          pick_few<M, W>(mine, static_cast<K>(a.n), a.tie_high, take);
#pragma GCC unroll 8
          for (int i = 0; i < M; ++i) store_lanes<W, K>(mask + i * a.step + c, take[i], lanes);
        } else {
          for (std::int64_t i = 0; i < a.m; ++i) {
            store<W>(key + i * W, read_lanes<R>(score + i * a.step + c, lanes, order));
          }
          pick_many<W>(key, a.m, a.n, a.tie_high, kept);
          for (std::int64_t i = 0; i < a.m; ++i) {
            store_lanes<W, K>(mask + i * a.step + c, load<W>(kept + i * W), lanes);
          }
        }
      }
    }
  }
}

/// Groups of any m consecutive elements: W of them are laid side by side.
template <class R>
void gathered(const NmMaskArgs& a) {
  using K = typename R::K;
  using S = typename R::S;
  constexpr int W = R::W;
  const Order order{a.magnitude, a.nan_high};
  K* key = reinterpret_cast<K*>(a.scratch);
  K* kept = key + a.m * W;
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
    pick_many<W>(key, a.m, a.n, a.tie_high, kept);
    for (std::int64_t i = 0; i < a.m; ++i) {
      std::uint8_t row[W];
      store_kept<W, K>(row, load<W>(kept + i * W));
      for (int l = 0; l < lanes; ++l) a.mask[at[l] + i] = row[l];
    }
  }
}

template <class R>
void nm_mask_of(const NmMaskArgs& a) {
  if (a.step == 1) {
    const auto rows = [&](auto m) {
      constexpr int M = decltype(m)::value;
      if constexpr (M <= R::W) {
        a.tie_high ? in_rows<M, true, R>(a) : in_rows<M, false, R>(a);
      } else {
        gathered<R>(a);
      }
    };
    switch (a.m) {
      case 2:
        return rows(Int<2>{});
      case 4:
        return rows(Int<4>{});
      case 8:
        return rows(Int<8>{});
      case 16:
        return rows(Int<16>{});
      case 32:
        return rows(Int<32>{});
      default:
        return gathered<R>(a);
    }
  }
  if (a.m == 2) return in_columns<2, R>(a);
  if (a.m == 4) return in_columns<4, R>(a);
  if (a.m == 8) return in_columns<8, R>(a);
  in_columns<0, R>(a);
}

/// Whether an element is not zero; NaN is not.
template <class S>
GOSSAMER_INLINE bool nonzero(S x) {
  return x != S{};
}
GOSSAMER_INLINE bool nonzero(f16_t x) { return (x.bits & 0x7fffu) != 0; }
GOSSAMER_INLINE bool nonzero(bf16_t x) { return (x.bits & 0x7fffu) != 0; }

template <class S>
void check_of(const NmCheckArgs& a) {
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
