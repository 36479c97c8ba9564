// Exact selection in many segments ("groups") of one length up to 256, as many side by side as a
// vector has bytes (docs/selection.md). Each key is quantised to a byte, its level within a window
// that is placed where the k-th keys of the groups before were. The levels are transposed, so that
// each group has a lane, and eight passes over them find the bits of every group's k-th level, the
// highest first. In most groups exactly k elements reach that level and are marked; in the others
// the full keys are compared.

#include "prune/select/args.h"
#include "simd/keys.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int kSide = kVectorBytes;  // groups side by side
using Bytes = Vec<std::uint8_t, kSide>;

/// Quantises keys to bytes: level = (key - lo) >> shift, 0 for keys below lo, at most 255.
template <class K>
struct Window {
  K lo = 0;
  int shift = 0;

  // A shift of at least 1 keeps 32-bit keys below 2^31: to_bytes() saturates signed numbers.
  static constexpr int kLeast = sizeof(K) == 4 ? 1 : 0;
  static constexpr int kMost = 8 * static_cast<int>(sizeof(K)) - 8;
  static constexpr K kTop = static_cast<K>(~K{0});

  /// The least and the greatest key of a level.
  GOSSAMER_INLINE K first(int level) const {
    return level == 0 ? K{0} : static_cast<K>(lo + (static_cast<K>(level) << shift));
  }
  GOSSAMER_INLINE K last(int level) const {
    if (level == 255 || static_cast<K>(level) >= static_cast<K>(kTop - lo) >> shift) return kTop;
    return static_cast<K>(lo + (static_cast<K>(level + 1) << shift) - 1);
  }
  /// Moves the window so that `level` becomes its middle, with `next` as its new shift.
  GOSSAMER_INLINE void center(double level, int next) {
    const double at = static_cast<double>(lo) +
                      level * static_cast<double>(std::uint64_t{1} << shift) -
                      128.0 * static_cast<double>(std::uint64_t{1} << next);
    constexpr double top = static_cast<double>(kTop / 2) * 2.0;
    lo = at <= 0.0 ? K{0} : at >= top ? kTop : static_cast<K>(at);
    shift = next;
  }
};

/// Numbers below 2^31 as bytes; those above 255 become 255.
GOSSAMER_INLINE Bytes to_bytes(const Vec<std::uint32_t> (&x)[4]) {
#if defined(GOSSAMER_AVX512)
  const auto pack = [&](int i) {
    return _mm512_packs_epi32(bit_cast<__m512i>(x[i]), bit_cast<__m512i>(x[i + 1]));
  };
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  return bit_cast<Bytes>(_mm512_permutexvar_epi32(order, _mm512_packus_epi16(pack(0), pack(2))));
#elif defined(GOSSAMER_AVX2)
  const auto pack = [&](int i) {
    return _mm256_packs_epi32(bit_cast<__m256i>(x[i]), bit_cast<__m256i>(x[i + 1]));
  };
  const __m256i order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
  return bit_cast<Bytes>(_mm256_permutevar8x32_epi32(_mm256_packus_epi16(pack(0), pack(2)), order));
#elif defined(__SSE2__)
  const auto pack = [&](int i) {
    return _mm_packs_epi32(bit_cast<__m128i>(x[i]), bit_cast<__m128i>(x[i + 1]));
  };
  return bit_cast<Bytes>(_mm_packus_epi16(pack(0), pack(2)));
#else
  constexpr int W = kLanes<std::uint32_t>;
  Bytes result;
  for (int i = 0; i < kSide; ++i) {
    const std::uint32_t level = x[i / W][i % W];
    result[i] = static_cast<std::uint8_t>(level < 255 ? level : 255);
  }
  return result;
#endif
}

template <int... I>
GOSSAMER_INLINE Vec<std::uint32_t> low_halves(Vec<std::uint64_t> x, Vec<std::uint64_t> y,
                                              Lanes<I...>) {
  return __builtin_shufflevector(bit_cast<Vec<std::uint32_t>>(x), bit_cast<Vec<std::uint32_t>>(y),
                                 (2 * I)...);
}

/// Writes the levels of a block's elements.
template <Mode M, class K>
GOSSAMER_INLINE void block_levels(const K* from, const KeyMap<K>& map, const Window<K>& in,
                                  std::uint8_t* to) {
  constexpr int W = kLanes<K>;
  const auto level = [&](int i) {
    const Vec<K, W> key = keys_of<M, K, W>(load<W>(from + i), map);
    const Vec<K, W> lo = broadcast<W>(in.lo);
    const Vec<K, W> found = ((key > lo ? key : lo) - lo) >> static_cast<K>(in.shift);
    if constexpr (sizeof(K) == 4) {
      return found;
    } else {
      const Vec<K, W> most = broadcast<W>(K{255});
      return found < most ? found : most;
    }
  };
#pragma GCC unroll 4
  for (int i = 0; i < kBlock; i += kSide) {
    if constexpr (sizeof(K) == 2) {
      using Half = Vec<std::uint8_t, W>;
      store<W>(to + i, __builtin_convertvector(level(i), Half));
      store<W>(to + i + W, __builtin_convertvector(level(i + W), Half));
    } else {
      Vec<std::uint32_t> x[4];
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) {
        const int at = i + p * kSide / 4;
        if constexpr (sizeof(K) == 4) {
          x[p] = level(at);
        } else {
          x[p] = low_halves(level(at), level(at + W), typename MakeLanes<2 * W>::type{});
        }
      }
      store<kSide>(to + i, to_bytes(x));
    }
  }
}

/// Loads 16 bytes of each of the groups i, i + 16, …, as many as fit in a vector.
GOSSAMER_INLINE Bytes load_groups(const std::uint8_t* from, [[maybe_unused]] int length) {
#if defined(__AVX2__)
  const auto part = [&](int i) { return reinterpret_cast<const __m128i*>(from + 16 * i * length); };
#endif
#if defined(GOSSAMER_AVX512)
  __m512i x = _mm512_castsi128_si512(_mm_loadu_si128(part(0)));
  x = _mm512_inserti32x4(x, _mm_loadu_si128(part(1)), 1);
  x = _mm512_inserti32x4(x, _mm_loadu_si128(part(2)), 2);
  return bit_cast<Bytes>(_mm512_inserti32x4(x, _mm_loadu_si128(part(3)), 3));
#elif defined(GOSSAMER_AVX2)
  const __m256i x = _mm256_castsi128_si256(_mm_loadu_si128(part(0)));
  return bit_cast<Bytes>(_mm256_inserti128_si256(x, _mm_loadu_si128(part(1)), 1));
#else
  static_assert(kSide == 16);
  return load<16>(from);
#endif
}

/// Interleaves the bytes of a and b: of each 16-byte lane, the lower (Half = 0) or upper half.
template <int Half, int... I>
GOSSAMER_INLINE Bytes interleave(Bytes a, Bytes b, Lanes<I...>) {
  return __builtin_shufflevector(a, b, (I / 16 * 16 + Half * 8 + I % 16 / 2 + I % 2 * kSide)...);
}

/// rows[c * kSide + g] = from[g * length + c], with c running up to length, rounded up to 16.
GOSSAMER_INLINE void transpose_groups(const std::uint8_t* from, int length, std::uint8_t* rows) {
  using All = typename MakeLanes<kSide>::type;
  for (int c = 0; c < length; c += 16) {
    Bytes x[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) x[i] = load_groups(from + i * length + c, length);
#pragma GCC unroll 4
    for (int round = 0; round < 4; ++round) {
      Bytes y[16];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        y[2 * i] = interleave<0>(x[i], x[i + 8], All{});
        y[2 * i + 1] = interleave<1>(x[i], x[i + 8], All{});
      }
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) x[i] = y[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) store<kSide>(rows + (c + i) * kSide, x[i]);
  }
}

/// Adds one to the lanes where x ≥ t.
GOSSAMER_INLINE Bytes count_from(Bytes count, Bytes x, Bytes t) {
#if defined(GOSSAMER_AVX512)
  const __m512i c = bit_cast<__m512i>(count);
  const __mmask64 from = _mm512_cmpge_epu8_mask(bit_cast<__m512i>(x), bit_cast<__m512i>(t));
  return bit_cast<Bytes>(_mm512_mask_sub_epi8(c, from, c, _mm512_set1_epi8(-1)));
#else
  return count - bit_cast<Bytes>(x >= t);
#endif
}

/// Prefetches what is read next, a few cache lines at a time: more at once would only wait.
struct Ahead {
  const char* at;
  int lines;

  GOSSAMER_INLINE void send(int n) {
    for (; n > 0 && lines > 0; --n, --lines, at += 64) __builtin_prefetch(at, 0, 2);
  }
};

/// For each group the level of its k-th key, and how many elements are at that level or above,
/// modulo 256. 0 ≤ k < 256.
struct Levels {
  alignas(64) std::uint8_t level[kSide], from[kSide];
};
GOSSAMER_INLINE void bisect(std::uint8_t* rows, int length, const std::uint8_t* k, Ahead& ahead,
                            Levels& result) {
  constexpr int kStep = 4;
  for (int i = length; i % kStep != 0; ++i) store<kSide>(rows + i * kSide, Bytes{});
  const Bytes wanted = load<kSide>(k);
  Bytes level = {}, total = {};
  for (int bit = 128; bit != 0; bit /= 2) {
    const Bytes t = level + static_cast<std::uint8_t>(bit);
    Bytes count[kStep] = {};
    for (int i = 0; i < length; i += kStep) {
#pragma GCC unroll 4
      for (int j = 0; j < kStep; ++j) {
        count[j] = count_from(count[j], load<kSide>(rows + (i + j) * kSide), t);
      }
      ahead.send(1);
    }
    const Bytes one = count[0] + count[1], sum = one + (count[2] + count[3]);
    // A sum of 256 wraps to 0, and is then less than the partial sum `one`.
    const auto enough = (sum >= wanted) | (sum < one);
    level = enough ? t : level;
    total = enough ? sum : total;
  }
  store<kSide>(result.level, level);
  store<kSide>(result.from, total);
}

/// Which of up to kGroupLength keys are above a given one, and which equal it, and how many.
struct Cut {
  std::uint64_t above[kGroupLength / kBlock], equal[kGroupLength / kBlock];
  int over, same;
};

/// Finds a key t in [lo, hi] such that either exactly k keys are above it, or it is the k-th key
/// itself. Tries the given t first, then bisects.
template <class K>
GOSSAMER_INLINE K cut_at(const K* keys, int n, int k, K lo, K hi, K t, Cut& at) {
  for (;; t = static_cast<K>(lo + (hi - lo) / 2)) {
    at.over = at.same = 0;
    for (int i = 0, b = 0; i < n; i += kBlock, ++b) {
      const std::uint64_t valid =
          n - i >= kBlock ? ~std::uint64_t{0} : (std::uint64_t{1} << (n - i)) - 1;
      const Split found = split(*reinterpret_cast<const K(*)[kBlock]>(keys + i), t, t);
      at.above[b] = found.above & valid;
      at.equal[b] = found.inside & valid;
      at.over += bits_in(at.above[b]);
      at.same += bits_in(at.equal[b]);
    }
    if (at.over > k) {
      lo = static_cast<K>(t + 1);
    } else if (at.over + at.same < k) {
      hi = static_cast<K>(t - 1);
    } else {
      return t;
    }
    // The keys were written by another thread after the interval was found.
    if (lo > hi) lo = 0, hi = static_cast<K>(~K{0});
  }
}

/// The groups of one task.
template <Mode M, class K>
class Groups {
 public:
  explicit Groups(const SelectGroupsArgs& args)
      : a(args),
        data(static_cast<const K*>(a.source.data)),
        length(static_cast<int>(a.length)),
        count((a.source.count + length - 1) / length),
        map(key_map<K>(a.source.order)) {}

  void select() {
    alignas(64) std::uint8_t levels[kSide * kGroupLength + kBlock];
    alignas(64) std::uint8_t rows[kSide * (kGroupLength + 16)];
    const int whole = kSide * length;
    for (std::int64_t g = 0; g < count; g += kSide) {
      const std::int64_t first = g * length;
      const int n = static_cast<int>(min_i64(whole, a.source.count - first));
      const int active = static_cast<int>(min_i64(kSide, count - g));
      // With one k for all, only the last groups can differ: the very last may be shorter.
      if (g == 0 || !a.one_k || count - g <= kSide) want(g, active);
      if (!known_ && most_ != 0) seed(first, n);
      int at = 0;
      constexpr int kItem = static_cast<int>(sizeof(K));
      Ahead ahead = {reinterpret_cast<const char*>(data + first + whole), whole * kItem / 64};
      for (; at + kBlock <= n; at += kBlock) {
        ahead.send(kItem / 2);  // bisect() prefetches the rest
        __builtin_prefetch(a.mask + first + at, 1, 2);
        block_levels<M, K>(data + first + at, map, window_, levels + at);
      }
      if (at < n) {
        alignas(64) K part[kBlock] = {};
        __builtin_memcpy(part, data + first + at, static_cast<std::size_t>(n - at) * sizeof(K));
        block_levels<M, K>(part, map, window_, levels + at);
      }
      // If the last group is shorter, or fewer than kSide are left, levels of 0 fill the space.
      __builtin_memset(levels + n, 0, static_cast<std::size_t>(whole - n));
      transpose_groups(levels, length, rows);
      Levels found;
      bisect(rows, length, k_, ahead, found);
      for (int i = 0; i < active; ++i) mark_from(g + i, levels + i * length, found.level[i]);
      alignas(64) std::uint8_t open[kBlock] = {};
      for (int i = 0; i < kSide; ++i) open[i] = found.from[i] != k_[i];
      const std::uint64_t all = active == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << active) - 1;
      for (std::uint64_t left = (nonzero_bytes(open) | trivial_) & all; left != 0;
           left &= left - 1) {
        const int i = __builtin_ctzll(left);
        settle(g + i, levels + i * length, found.level[i]);
      }
      follow(found.level, ~trivial_ & all);
    }
  }

 private:
  [[nodiscard]] GOSSAMER_INLINE std::int64_t k_of(std::int64_t g) const {
    return a.k[a.one_k ? 0 : g];
  }
  [[nodiscard]] GOSSAMER_INLINE int length_of(std::int64_t g) const {
    return static_cast<int>(min_i64(length, a.source.count - g * length));
  }

  /// Looks up the k of the groups that are side by side now.
  void want(std::int64_t g, int active) {
    least_ = length;
    most_ = 0;
    trivial_ = 0;
    for (int i = 0; i < active; ++i) {
      const int k = static_cast<int>(k_of(g + i));
      const bool some = k != 0 && k < length_of(g + i);
      k_[i] = static_cast<std::uint8_t>(some ? k : 0);
      trivial_ |= std::uint64_t{some ? 0U : 1U} << i;
      if (!some) continue;
      least_ = k < least_ ? k : least_;
      most_ = k > most_ ? k : most_;
    }
  }

  /// Places the window by a sample of the n elements from `first` on.
  void seed(std::int64_t first, int n) {
    alignas(64) K sample[kGroupLength] = {};
    const int drawn = min_int(n, kGroupLength);
    for (int i = 0; i < drawn; ++i) sample[i] = data[first + std::int64_t{i} * n / drawn];
    for (int i = 0; i < kGroupLength; i += kBlock) {
      block_keys<M, K>(sample + i, map, *reinterpret_cast<K(*)[kBlock]>(sample + i));
    }
    // Four standard deviations of the rank of a k-th key.
    const auto spread = [&](int k) {
      return 4.0 * __builtin_sqrt(static_cast<double>(k) * (length - k) / length);
    };
    const double share = static_cast<double>(drawn) / length;
    const int from = static_cast<int>((least_ - spread(least_)) * share);
    const int to = static_cast<int>((most_ + spread(most_)) * share) + 1;
    constexpr K top = Window<K>::kTop;
    Cut cut;
    const K hi = cut_at<K>(sample, drawn, from < 1 ? 1 : from, 0, top, top / 4 * 3, cut);
    const K lo = cut_at<K>(sample, drawn, min_int(to, drawn - 1), 0, top, hi, cut);
    window_ = {lo < hi ? lo : hi, Window<K>::kLeast};
    const K width = static_cast<K>(hi - window_.lo);
    while (width >> window_.shift > 255) ++window_.shift;
    known_ = true;
  }

  /// Marks the group's elements that reach a level. May write marks past the end of the group,
  /// which the groups that follow overwrite.
  GOSSAMER_INLINE void mark_from(std::int64_t g, const std::uint8_t* levels, std::uint8_t level) {
    const std::int64_t first = g * length;
    const auto run = [&](auto width) {
      constexpr int W = decltype(width)::value;
      const auto t = broadcast<W>(level);
      for (int i = 0, n = length_of(g); i < n; i += W) {
        const auto x = load<W>(levels + i);
        const auto marked = bit_cast<Vec<std::uint8_t, W>>(x >= t) & std::uint8_t{1};
        const std::int64_t left = a.source.count - first - i;
        if (left >= W) {
          store<W>(a.mask + first + i, marked);
        } else {
          std::uint8_t part[W];
          store<W>(part, marked);
          __builtin_memcpy(a.mask + first + i, part, static_cast<std::size_t>(left));
        }
      }
    };
    if (length <= 16) return run(Int<16>{});
    run(Int<kSide>{});
  }

  /// Marks a group by comparing full keys, where the levels do not decide: some but not all
  /// elements at the k-th key's level are selected, or k is none or all.
  [[gnu::noinline]] void settle(std::int64_t g, const std::uint8_t* levels, std::uint8_t level) {
    const int n = length_of(g), k = static_cast<int>(k_of(g));
    const std::int64_t first = g * length;
    if (k == 0 || k == n) {
      __builtin_memset(a.mask + first, k == 0 ? 0 : 1, static_cast<std::size_t>(n));
      return;
    }
    alignas(64) K keys[kGroupLength];
    for (int i = 0; i < n; i += kBlock) {
      K(&block)[kBlock] = *reinterpret_cast<K(*)[kBlock]>(keys + i);
      const std::int64_t left = a.source.count - first - i;
      if (left >= kBlock) {
        block_keys<M, K>(data + first + i, map, block);
      } else {
        alignas(64) K part[kBlock] = {};
        __builtin_memcpy(part, data + first + i, static_cast<std::size_t>(left) * sizeof(K));
        block_keys<M, K>(part, map, block);
      }
    }
    int some = 0;
    while (levels[some] != level) ++some;
    Cut cut;
    cut_at<K>(keys, n, k, window_.first(level), window_.last(level), keys[some], cut);
    std::int64_t take = k - cut.over, skip = a.tie_high ? cut.same - take : 0;
    for (int i = 0, b = 0; i < n; i += kBlock, ++b) {
      const std::uint64_t set = cut.above[b] | slice(cut.equal[b], skip, take);
      mark({a.mask + first + i, prune::MaskFormat::bytes}, 0, min_int(kBlock, n - i), set);
    }
  }

  /// Moves the window to where the k-th keys of these groups were found.
  GOSSAMER_INLINE void follow(const std::uint8_t (&level)[kSide], std::uint64_t groups) {
    if (groups == 0) return;
    std::uint8_t counts[kSide];
    for (int i = 0; i < kSide; ++i) counts[i] = (groups >> i) & 1;
    int sum = 0, off = 0, lost = 0;
    for (int i = 0; i < kSide; ++i) {
      sum += counts[i] * level[i];
      lost += counts[i] * (level[i] == 0 || level[i] == 255 ? 1 : 0);
    }
    const int n = bits_in(groups), mean = sum / n;
    for (int i = 0; i < kSide; ++i) {
      const int by = level[i] - mean;
      off += counts[i] * (by < 0 ? -by : by);
    }
    // Keeps the mean distance from the middle at 14 to 33 levels, so that the window reaches three
    // to six standard deviations on either side.
    int shift = window_.shift;
    double deviation = static_cast<double>(off) / n;
    for (; deviation > 33.0 && shift < Window<K>::kMost; deviation /= 2) ++shift;
    for (; deviation < 14.0 && shift > Window<K>::kLeast; deviation = 2 * deviation + 1) --shift;
    window_.center(mean, shift);
    known_ = 2 * lost <= n;
  }

  const SelectGroupsArgs& a;
  const K* data;
  int length;
  std::int64_t count;
  KeyMap<K> map;
  /// For each group side by side its k, 0 where none or all elements are selected (trivial_ has its
  /// bit); the least and the greatest of the others.
  alignas(64) std::uint8_t k_[kSide] = {};
  std::uint64_t trivial_ = 0;
  int least_ = 0, most_ = 0;
  bool known_ = false;
  Window<K> window_;
};

}  // namespace

void select_groups(const SelectGroupsArgs& a);
void select_groups(const SelectGroupsArgs& a) {
  with_keys(a.source.order, [&](auto key, auto mode) {
    Groups<decltype(mode)::value, typename decltype(key)::type>(a).select();
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
