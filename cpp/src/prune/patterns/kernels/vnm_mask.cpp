// V:N:M masks. Blocks that lie side by side are transposed, so that the rows of a block run along
// the lanes. For every four columns a, b, c, d, the sums of the two largest of each row are added
// up over the rows: max(two, one + d), where `one` is the largest of a, b, c and `two` the sum of
// their two largest. Blocks of single precision are first summed in 16-bit integers; only the sets
// of columns that rounding leaves in doubt are summed in full.

#include "prune/patterns/args.h"
#include "simd/lanes16.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int kPanel = 64;  // most columns of a panel

template <class T>
struct Integer {
  using type = std::int32_t;
  using bits = std::uint32_t;
};
template <>
struct Integer<double> {
  using type = std::int64_t;
  using bits = std::uint64_t;
};

/// Stands for infinity, and its negative for -infinity and NaN, so that all sums are finite.
template <class T>
constexpr T kBeyond = sizeof(T) == 8 ? static_cast<T>(0x1p1000) : static_cast<T>(0x1p110);

/// Lane l of x[0] becomes the sum of the lanes of x[l]; lanes H apart are added first.
template <class T, int W, int B, int H = B / 2>
GOSSAMER_INLINE void add_lanes(Vec<T, W> (&x)[B]) {
  for (int i = 0; i < H; ++i) {
    exchange_halves<H>(x[i], x[i + H], typename MakeLanes<W>::type{});
    x[i] += x[i + H];
  }
  if constexpr (H > 1) add_lanes<T, W, B, H / 2>(x);
}

/// The first of the largest sums that were offered. Adding up the lanes of a sum is put off until
/// there are as many sums as lanes; then they are added together.
template <class T>
class Largest {
  using V = Lanes16<T>;
  static constexpr int W = V::W;

 public:
  GOSSAMER_INLINE void offer(const V& sum, std::uint32_t name) {
    V halves = sum;
    for (int count = V::kParts / 2; count > 0; count /= 2) {
      for (int p = 0; p < count; ++p) halves.part[p] += halves.part[p + count];
    }
    sums_[count_] = halves.part[0];
    names_[count_] = name;
    if (++count_ == W) settle();
  }

  /// The name that the first of the largest sums was offered with.
  std::uint32_t name() {
    if (count_ > 0) settle();
    return name_;
  }

 private:
  void settle() {
    add_lanes<T, W>(sums_);
    for (int i = 0; i < count_; ++i) {
      const T sum = sums_[0][i];
      if (found_ && !(sum > most_)) continue;
      found_ = true;
      most_ = sum;
      name_ = names_[i];
    }
    count_ = 0;
  }

  Vec<T, W> sums_[W] = {};
  std::uint32_t names_[W];
  int count_ = 0;
  bool found_ = false;
  T most_ = 0;
  std::uint32_t name_ = 0;
};

constexpr int kShorts = kLanes<std::int16_t>;

/// Sums in 16-bit lanes of sets of columns, in the order in which they were offered.
class RoughSums {
  static constexpr int W = kLanes<std::int32_t>;

 public:
  static constexpr int kMost = 1820;  // the number of sets of four out of 16 columns

  GOSSAMER_INLINE void offer(Vec<std::int16_t> sum, std::uint32_t name) {
    const auto pairs = bit_cast<Vec<std::int32_t, W>>(sum);
    lanes_[count_ & (W - 1)] = (pairs << 16 >> 16) + (pairs >> 16);
    names_[count_++] = name;
    if ((count_ & (W - 1)) == 0) settle(count_ - W);
  }

  /// Lists, in order, the names of the sums that are less than `by` below the largest, and starts
  /// anew. Returns how many.
  int near_largest(std::int32_t by, const std::uint32_t** names) {
    if ((count_ & (W - 1)) != 0) settle(count_ & -W);
    for (int i = count_; (i & (W - 1)) != 0; ++i) sums_[i] = sums_[0];
    Vec<std::int32_t, W> largest = load<W>(sums_);
    for (int i = W; i < count_; i += W) {
      const auto x = load<W>(sums_ + i);
      largest = x > largest ? x : largest;
    }
    std::int32_t most = largest[0];
    for (int l = 1; l < W; ++l) most = largest[l] > most ? largest[l] : most;
    int found = 0;
    for (int i = 0; i < count_; i += W) {
      const auto near = broadcast<W>(most) - load<W>(sums_ + i) < by;
      std::uint64_t words[sizeof near / 8], any = 0;
      __builtin_memcpy(words, &near, sizeof near);
      for (const std::uint64_t word : words) any |= word;
      if (any == 0) continue;
      for (int l = 0; l < W && i + l < count_; ++l) {
        if (near[l] != 0) names_[found++] = names_[i + l];
      }
    }
    count_ = 0;
    *names = names_;
    return found;
  }

 private:
  GOSSAMER_INLINE void settle(int first) {
    add_lanes<std::int32_t, W>(lanes_);
    store<W>(sums_ + first, lanes_[0]);
  }

  int count_ = 0;
  Vec<std::int32_t, W> lanes_[W] = {};
  std::int32_t sums_[kMost + W];
  std::uint32_t names_[kMost];
};

template <class T>
class Panel {
  using V = Lanes16<T>;
  using K = typename Integer<T>::type;
  using Unsigned = typename Integer<T>::bits;
  static constexpr int W = kLanes<T>, kBits = 8 * static_cast<int>(sizeof(K));

 public:
  Panel(const VnmMaskArgs& a)
      : a_(a),
        m_(static_cast<int>(a.m)),
        n_(static_cast<int>(a.n)),
        ld_((a.v + 15) / 16 * 16),
        columns_(reinterpret_cast<T*>(a.scratch)),
        buffer_(columns_ + kPanel * ld_),
        kept_(reinterpret_cast<K*>(buffer_ + 4 * ld_)),
        rough_(reinterpret_cast<std::int16_t*>(kept_ + kPanel / kBits * ld_)) {}

  /// Reads and transposes `width` columns. Returns whether all scores are kept as they are; others
  /// are replaced by ±kBeyond.
  template <class S>
  bool read(const S* score, int width) {
    transpose_tile<T, S>(score, a_.stride, a_.v, width, columns_, ld_);
    const Vec<T, W> most = broadcast<W>(kBeyond<T>), least = -most;
    Vec<K, W> beyond{};
    for (int c = 0; c < width; ++c) {
      T* column = columns_ + c * ld_;
      for (std::int64_t r = a_.v; r < ld_; ++r) column[r] = 0;
      for (std::int64_t r = 0; r < ld_; r += W) {
        Vec<T, W> x = load<W>(column + r);
        if (a_.magnitude) x = x < Vec<T, W>{} ? -x : x;
        const Vec<T, W> low = x >= least ? x : least;
        const Vec<T, W> y = low > most ? most : low;
        beyond |= y != x;
        store<W>(column + r, y);
      }
    }
    for (std::int64_t r = 0; r < kPanel / kBits * ld_; ++r) kept_[r] = 0;
    std::uint64_t words[sizeof beyond / 8], all = 0;
    __builtin_memcpy(words, &beyond, sizeof beyond);
    for (const std::uint64_t word : words) all |= word;
    return all == 0;
  }

  /// Chooses the four columns of the block that begins at column `first` of the panel.
  void choose(int first, int (&best)[4]) {
    first_ = first;
    if (a_.greedy) return greedy(best);
    const std::uint32_t name = n_ == 2 ? exact_two() : exact();
    for (int i = 0; i < 4; ++i) best[i] = static_cast<int>(name >> (24 - 8 * i) & 255);
  }

  /// In each row, notes which of the four columns are among the n largest.
  void keep(const int (&column)[4]) {
    const Vec<K, W> n = broadcast<W>(static_cast<K>(n_));
    for (std::int64_t r = 0; r < ld_; r += W) {
      Vec<T, W> x[4];
      Vec<K, W> before[4];
      for (int i = 0; i < 4; ++i) {
        x[i] = load<W>(columns_ + (first_ + column[i]) * ld_ + r);
        before[i] = broadcast<W>(static_cast<K>(3 - i));
      }
      for (int i = 0; i < 4; ++i) {
        for (int j = i + 1; j < 4; ++j) {
          const Vec<K, W> i_first = x[i] >= x[j];
          before[j] -= i_first;
          before[i] += i_first;
        }
      }
      for (int i = 0; i < 4; ++i) {
        const int at = first_ + column[i];
        K* kept = kept_ + at / kBits * ld_ + r;
        const K bit = static_cast<K>(std::uint64_t{1} << (at % kBits));
        store<W>(kept, load<W>(kept) | ((before[i] < n) & broadcast<W>(bit)));
      }
    }
  }

  void write(std::uint8_t* mask, int width) const {
    for (std::int64_t r = 0; r < a_.v; ++r) {
      std::uint8_t* to = mask + r * a_.stride;
      std::uint8_t row[kPanel];
      std::uint8_t* line = width == kPanel ? to : row;
      std::uint64_t kept = 0;
      for (int at = 0; at < kPanel; at += kBits) {
        const auto part = static_cast<Unsigned>(kept_[at / kBits * ld_ + r]);
        kept |= std::uint64_t{part} << at;
      }
      expand(kept, line);
      if (width < kPanel) __builtin_memcpy(to, row, static_cast<std::size_t>(width));
    }
  }

 private:
  /// to[i] = bit i, for 64 bits.
  static GOSSAMER_INLINE void expand(std::uint64_t bits, std::uint8_t* to) {
#if defined(GOSSAMER_AVX512)
    _mm512_storeu_si512(to, _mm512_maskz_set1_epi8(bits, 1));
#else
    for (int i = 0; i < kPanel; i += 8) {
      constexpr std::uint64_t kEach = 0x0101010101010101, kBit = 0x8040201008040201;
      const std::uint64_t set = (bits >> i & 255) * kEach & kBit;
      const std::uint64_t byte = (set + (kEach * 0x7f)) >> 7 & kEach;
      __builtin_memcpy(to + i, &byte, 8);
    }
#endif
  }

  [[nodiscard]] V at(int column, std::int64_t row) const {
    return V::at(columns_ + (first_ + column) * ld_ + row);
  }

  static std::uint32_t name_of(int a, int b, int c, int d) {
    return static_cast<std::uint32_t>(a << 24 | b << 16 | c << 8 | d);
  }

  std::uint32_t exact_two() {
    if constexpr (sizeof(T) == 4) {
      if (m_ <= kRoughColumns && make_rough()) {
        // The most by which two rough sums can be off: each is the sum of two numbers a row, each
        // off by at most a half. The rest allows for the rounding of the full sums.
        const auto doubt = static_cast<std::int32_t>(2 * ld_ + ld_ / 4 + 5);
        const std::uint32_t* names = nullptr;
        const int near = sums_.near_largest(doubt, &names);
        if (near == 1) return names[0];
        Largest<T> largest;
        for (int i = 0; i < near; ++i) largest.offer(sum_of_two(names[i]), names[i]);
        return largest.name();
      }
    }
    Largest<T> largest;
    T* most_of = buffer_;
    T* sum_of = buffer_ + ld_;
    for (int a = 0; a < m_; ++a) {
      for (int b = a + 1; b < m_ - 2; ++b) {
        for (std::int64_t r = 0; r < ld_; r += 16) {
          const V x = at(a, r), y = at(b, r);
          larger(x, y).to(most_of + r);
          (x + y).to(sum_of + r);
        }
        for (int c = b + 1; c < m_ - 1; ++c) {
          int d = c + 1;
          const auto some = [&](auto count) {
            constexpr int N = decltype(count)::value;
            for (; d + N <= m_; d += N) {
              V sum[N];
              for (int i = 0; i < N; ++i) sum[i] = V::zero();
              for (std::int64_t r = 0; r < ld_; r += 16) {
                const V most = V::at(most_of + r), x = at(c, r);
                const V two = larger(V::at(sum_of + r), most + x), one = larger(most, x);
                for (int i = 0; i < N; ++i) sum[i] = sum[i] + larger(two, one + at(d + i, r));
              }
              for (int i = 0; i < N; ++i) largest.offer(sum[i], name_of(a, b, c, d + i));
            }
          };
          some(Int<4>{});
          some(Int<2>{});
          some(Int<1>{});
        }
      }
    }
    return largest.name();
  }

  /// The same sum as in exact_two, in the same order.
  [[nodiscard]] V sum_of_two(std::uint32_t name) const {
    const auto column = [&](int i) { return static_cast<int>(name >> (24 - 8 * i) & 255); };
    V sum = V::zero();
    for (std::int64_t r = 0; r < ld_; r += 16) {
      const V a = at(column(0), r), b = at(column(1), r), c = at(column(2), r);
      const V most = larger(a, b);
      sum = sum + larger(larger(a + b, most + c), larger(most, c) + at(column(3), r));
    }
    return sum;
  }

  static constexpr int kRoughColumns = 16;

  /// Offers the sums of all sets of four columns, with a column in P vectors of 16-bit integers.
  template <int P>
  void add_rough() {
    using H = Vec<std::int16_t>;
    constexpr std::int64_t ld = P * kShorts;
    const auto vector = [&](int column, int p) {
      return load<kShorts>(rough_ + column * ld + p * kShorts);
    };
    const auto larger = [](H x, H y) { return x > y ? x : y; };
    for (int a = 0; a < m_; ++a) {
      for (int b = a + 1; b < m_ - 2; ++b) {
        H most[P], both[P];
        for (int p = 0; p < P; ++p) {
          const H x = vector(a, p), y = vector(b, p);
          most[p] = larger(x, y);
          both[p] = x + y;
        }
        for (int c = b + 1; c < m_ - 1; ++c) {
          H one[P], two[P];
          for (int p = 0; p < P; ++p) {
            const H x = vector(c, p);
            one[p] = larger(most[p], x);
            two[p] = larger(both[p], most[p] + x);
          }
          for (int d = c + 1; d < m_; ++d) {
            H sum{};
            for (int p = 0; p < P; ++p) sum += larger(two[p], one[p] + vector(d, p));
            sums_.offer(sum, name_of(a, b, c, d));
          }
        }
      }
    }
  }

  /// Makes the rough sums of the block. Returns false if there are too many rows or if the scores
  /// are too small to be scaled.
  bool make_rough() {
    const std::int64_t needed = (ld_ + kShorts - 1) / kShorts;
    const int vectors = needed <= 1 ? 1 : needed <= 2 ? 2 : needed <= 4 ? 4 : 8;
    if (needed > vectors) return false;
    const T* columns = columns_ + first_ * ld_;
    Vec<T, W> most{};
    for (std::int64_t i = 0; i < m_ * ld_; i += W) {
      const Vec<T, W> x = load<W>(columns + i);
      const Vec<T, W> size = x < Vec<T, W>{} ? -x : x;
      most = size > most ? size : most;
    }
    T top = 0;
    for (int l = 0; l < W; ++l) top = most[l] > top ? most[l] : top;
    if (top > 0 && top < static_cast<T>(0x1p-100)) return false;
    // So that sums of two scores, added up over the vectors, stay below 2^15.
    const T scale = top > 0 ? static_cast<T>(32767 / (2 * vectors) - 1) / top : top;
    constexpr T kRound = 12582912;  // 1.5 * 2^23: adding it rounds into the lowest bits
    for (int c = 0; c < m_; ++c) {
      std::int16_t* to = rough_ + c * vectors * kShorts;
      for (std::int64_t r = 0; r < ld_; r += W) {
        const auto whole = bit_cast<Vec<K, W>>(load<W>(columns + c * ld_ + r) * scale + kRound);
        store<W>(to + r, __builtin_convertvector(whole, Vec<std::int16_t, W>));
      }
      for (std::int64_t r = ld_; r < vectors * kShorts; ++r) to[r] = 0;
    }
    if (vectors == 1) add_rough<1>();
    if (vectors == 2) add_rough<2>();
    if (vectors == 4) add_rough<4>();
    if (vectors == 8) add_rough<8>();
    return true;
  }

  std::uint32_t exact() {
    Largest<T> largest;
    T* larger_of = buffer_;
    T* smaller_of = buffer_ + ld_;
    for (int a = 0; a < m_; ++a) {
      for (int b = a + 1; b < m_ - 2; ++b) {
        for (std::int64_t r = 0; r < ld_; r += 16) {
          const V x = at(a, r), y = at(b, r);
          larger(x, y).to(larger_of + r);
          smaller(x, y).to(smaller_of + r);
        }
        for (int c = b + 1; c < m_ - 1; ++c) {
          for (int d = c + 1; d < m_; ++d) {
            largest.offer(sum_of_four(larger_of, smaller_of, c, d), name_of(a, b, c, d));
          }
        }
      }
    }
    return largest.name();
  }

  /// Chooses columns one by one, each time the one that adds the most.
  void greedy(int (&best)[4]) {
    for (std::int64_t r = 0; r < n_ * ld_; ++r) buffer_[r] = -2 * kBeyond<T>;
    std::uint64_t chosen = 0;
    for (int i = 0; i < 4; ++i) {
      Largest<T> largest;
      for (int c = 0; c < m_; ++c) {
        if ((chosen >> c) & 1) continue;
        V sum = V::zero();
        for (std::int64_t r = 0; r < ld_; r += 16) {
          sum = sum + larger(at(c, r), V::at(buffer_ + (n_ - 1) * ld_ + r));
        }
        largest.offer(sum, static_cast<std::uint32_t>(c));
      }
      const int pick = static_cast<int>(largest.name());
      chosen |= std::uint64_t{1} << pick;
      for (std::int64_t r = 0; r < ld_; r += 16) {
        V x = at(pick, r);
        for (int j = 0; j < n_; ++j) {
          const V held = V::at(buffer_ + j * ld_ + r);
          larger(held, x).to(buffer_ + j * ld_ + r);
          x = smaller(held, x);
        }
      }
    }
    int i = 0;
    for (int c = 0; c < m_; ++c) {
      if ((chosen >> c) & 1) best[i++] = c;
    }
  }

  /// The sums of the n largest of each row, n ≠ 2.
  [[nodiscard]] V sum_of_four(const T* larger_of, const T* smaller_of, int c, int d) const {
    V sum = V::zero();
    for (std::int64_t r = 0; r < ld_; r += 16) {
      const V x = at(c, r), y = at(d, r);
      const V high = V::at(larger_of + r), low = V::at(smaller_of + r);
      const V other_high = larger(x, y), other_low = smaller(x, y);
      const V first = larger(high, other_high);
      if (n_ == 1) {
        sum = sum + first;
        continue;
      }
      const V rest = smaller(high, other_high), second = larger(low, other_low);
      V all = first + (rest + second);
      if (n_ == 4) all = all + smaller(low, other_low);
      sum = sum + all;
    }
    return sum;
  }

  const VnmMaskArgs& a_;
  int m_, n_;
  int first_ = 0;
  std::int64_t ld_;
  T* columns_;
  T* buffer_;
  K* kept_;
  std::int16_t* rough_;
  RoughSums sums_;
};

/// Whether y comes before x, where `earlier` says that it lies before it in the row. NaN comes
/// last.
template <class T>
GOSSAMER_INLINE bool precedes(T y, T x, bool earlier) {
  if (y != y || x != x) return x != x && (y == y || earlier);
  return y > x || (y == x && earlier);
}

/// In each row, keeps n of the four columns, by the scores themselves: for panels in which some
/// were replaced.
template <class T, class S>
void keep_of(const VnmMaskArgs& a, const S* score, const int (&column)[4], std::uint8_t* mask) {
  for (std::int64_t r = 0; r < a.v; ++r) {
    T x[4];
    for (int i = 0; i < 4; ++i) {
      x[i] = static_cast<T>(to_float(score[r * a.stride + column[i]]));
      if (a.magnitude && x[i] < 0) x[i] = -x[i];
    }
    std::uint8_t* kept = mask + r * a.stride;
    __builtin_memset(kept, 0, static_cast<std::size_t>(a.m));
    for (int i = 0; i < 4; ++i) {
      int before = 0;
      for (int j = 0; j < 4; ++j) before += i != j && precedes(x[j], x[i], j < i);
      kept[column[i]] = before < a.n;
    }
  }
}

template <class T, class S>
void vnm_of(const VnmMaskArgs& a) {
  Panel<T> panel(a);
  const int m = static_cast<int>(a.m);
  const std::int64_t cols = a.blocks * a.m;
  const int most = kPanel / m * m;
  for (std::int64_t c = 0; c < cols; c += most) {
    const S* score = static_cast<const S*>(a.score) + c;
    std::uint8_t* mask = a.mask + c;
    const int width = static_cast<int>(min_i64(most, cols - c));
    const bool usual = panel.read(score, width);
    for (int first = 0; first < width; first += m) {
      int column[4];
      panel.choose(first, column);
      if (usual) {
        panel.keep(column);
      } else {
        keep_of<T, S>(a, score + first, column, mask + first);
      }
    }
    if (usual) panel.write(mask, width);
  }
}

}  // namespace

void vnm_mask(const VnmMaskArgs& a);
void vnm_mask(const VnmMaskArgs& a) {
  with_float_type(a.type, [&](auto stored) {
    using S = typename decltype(stored)::type;
    if constexpr (sizeof(S) == 8) {
      vnm_of<double, S>(a);
    } else {
      vnm_of<float, S>(a);
    }
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
