// Transposable N:M masks: each row and each column of an M x M block keeps exactly N. Scores are
// scaled to whole numbers in units that depend on the block's largest, so that every sum is exact.
// The result, the first in lexicographic order of the masks with the largest sum, then does not
// depend on how it is found.
//
// M = 4 compares the sums of all patterns, with a block in each lane. For other M, every row first
// keeps its N best; then columns that are used too often give rows to columns that are used too
// seldom, along shortest paths (minimum-cost flow, whose dual variables are the prices of the
// columns).

#include "prune/patterns/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int kMost = 64;
constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to a whole number
constexpr double kLargest = 0x1.fffffffffffffp1023;
constexpr double kNone = 0x1p60;  // larger than the length of any path
constexpr double kBar = 0x1p62;   // added to edges that must not be used; larger than any path

/// Finite scores of a block become whole numbers of magnitude below 2^(bits+1). If a score is
/// infinite, fewer bits leave room for a number that is larger than any sum of finite ones.
struct Units {
  int bits, bits_beside_infinity;
  double infinity;
};
constexpr Units kSmallUnits = {46, 28, 0x1p37};  // m ≤ 8: sums of 64 scores stay below 2^53
constexpr Units kLargeUnits = {39, 20, 0x1p35};  // m ≤ 64: sums of 4096 scores do

template <int W>
GOSSAMER_INLINE Vec<double, W> absolute(Vec<double, W> x) {
  return bit_cast<Vec<double, W>>(bit_cast<Vec<std::int64_t, W>>(x) & 0x7fffffffffffffff);
}

/// Scales a block's scores to its units by two factors, since one could overflow.
template <int W>
struct Factors {
  Vec<double, W> first, second, infinity;

  Factors(Vec<double, W> top, Vec<std::int64_t, W> infinite, const Units& units) {
    using I = Vec<std::int64_t, W>;
    const I exponent = bit_cast<I>(top) >> 52;
    const I bits = infinite ? broadcast<W>(std::int64_t{units.bits_beside_infinity})
                            : broadcast<W>(std::int64_t{units.bits});
    // Half of the power of two. The offset makes the number positive, so that a logical shift,
    // which every level has, halves it.
    const I power = bits + 1023 - exponent + 4096;
    const I half = bit_cast<I>(bit_cast<Vec<std::uint64_t, W>>(power) >> 1) - 2048;
    first = bit_cast<Vec<double, W>>((half + 1023) << 52);
    second = bit_cast<Vec<double, W>>((power - 4096 - half + 1023) << 52);
    infinity = broadcast<W>(units.infinity);
  }

  /// x in units, plus kRound, for finite x.
  GOSSAMER_INLINE Vec<double, W> shifted(Vec<double, W> x) const {
    return x * first * second + kRound;
  }
  GOSSAMER_INLINE Vec<double, W> operator()(Vec<double, W> x) const {
    const Vec<double, W> whole = shifted(x) - kRound;
    const Vec<double, W> beyond = x > Vec<double, W>{} ? infinity : -infinity;
    return absolute<W>(x) <= broadcast<W>(kLargest) ? whole : beyond;
  }
};

// M = 4. The lowest kRankBits bits of each sum hold the rank of its pattern, larger for patterns
// that come earlier in lexicographic order, so that the largest sum is that of the first of the
// best patterns.

constexpr int kRankBits = 12;  // three for each of the four rows

/// The sets of N of 4 columns in lexicographic order, and which of them go together. A pair of
/// sets, for rows 0 and 1, uses each column zero to two times. Pairs with the same use form a
/// group; each goes with each of the pairs for rows 2 and 3 that complete the use of every column
/// to N.
template <int N>
struct Patterns {
  struct Group {
    int taken = 0;  // how often pairs for rows 0 and 1 use each column, base 4
    int pairs = 0;
    // Pairs for rows 0 and 1, and for rows 2 and 3: first * sets + second.
    int above[6] = {}, below[6] = {};
  };
  int sets = 0, groups = 0;
  int mask[6] = {};  // bit c is set for column c
  Group group[19];

  constexpr Patterns() {
    // Lexicographic order, column 0 first, is descending order of the masks with their bits
    // reversed.
    for (int reversed = 15; reversed >= 0; --reversed) {
      int columns = 0, size = 0;
      for (int c = 0; c < 4; ++c) {
        if ((reversed >> (3 - c)) & 1) {
          columns |= 1 << c;
          ++size;
        }
      }
      if (size == N) mask[sets++] = columns;
    }
    for (int pair = 0; pair < sets * sets; ++pair) {
      int g = 0;
      while (g < groups && group[g].taken != taken_by(pair)) ++g;
      if (g == groups && completes(taken_by(pair))) group[groups++].taken = taken_by(pair);
      if (g < groups) group[g].above[group[g].pairs++] = pair;
    }
    for (int g = 0; g < groups; ++g) {
      int found = 0;
      for (int pair = 0; pair < sets * sets; ++pair) {
        if (taken_by(pair) + group[g].taken == N * 0x55) group[g].below[found++] = pair;
      }
    }
  }

  [[nodiscard]] constexpr int taken_by(int pair) const {
    int taken = 0;
    for (int c = 0; c < 4; ++c) {
      taken += (((mask[pair / sets] >> c) & 1) + ((mask[pair % sets] >> c) & 1)) << (2 * c);
    }
    return taken;
  }
  [[nodiscard]] constexpr bool completes(int taken) const {
    for (int pair = 0; pair < sets * sets; ++pair) {
      if (taken_by(pair) + taken == N * 0x55) return true;
    }
    return false;
  }

  static constexpr int rank(int set, int row) { return (7 - set) << (3 * (3 - row)); }
};

template <int N>
constexpr Patterns<N> kPatterns;

constexpr int kFours = kLanes<double> < 4 ? 4 : kLanes<double>;  // blocks side by side
using Sums = Vec<std::int64_t, kFours>;

GOSSAMER_INLINE Sums larger(Sums a, Sums b) { return a > b ? a : b; }

/// The largest sum of a set for `row` and a set for the next row, over the pairs given.
template <int K, int pairs>
GOSSAMER_INLINE Sums best_pair(const Sums (&rows)[4][K], int row, const int (&pair)[6]) {
  Sums best = rows[row][pair[0] / K] + rows[row + 1][pair[0] % K];
#pragma GCC unroll 6
  for (int i = 1; i < pairs; ++i) {
    best = larger(best, rows[row][pair[i] / K] + rows[row + 1][pair[i] % K]);
  }
  return best;
}

template <int N, int K, int... G>
GOSSAMER_INLINE Sums best_of_groups(const Sums (&rows)[4][K], Lanes<G...>) {
  constexpr const Patterns<N>& of = kPatterns<N>;
  Sums best = broadcast<kFours>(std::int64_t{-0x7fffffffffffffff});
  ((best = larger(best, best_pair<K, of.group[G].pairs>(rows, 0, of.group[G].above) +
                            best_pair<K, of.group[G].pairs>(rows, 2, of.group[G].below))),
   ...);
  return best;
}

/// Converts the scores of kFours blocks to units, shifted left to leave room for ranks.
void to_units(Vec<double, kFours> (&x)[16], bool magnitude, Sums (&units)[16]) {
  constexpr int W = kFours;
  using D = Vec<double, W>;
  const Sums bits = broadcast<W>(magnitude ? 0x7fffffffffffffff : std::int64_t{-1});
  Sums top{};
  for (int e = 0; e < 16; ++e) top = larger(top, bit_cast<Sums>(absolute<W>(x[e])));
  const Sums infinite = top > bit_cast<std::int64_t>(kLargest);
  bool any_infinite = false;
  for (int l = 0; l < W; ++l) any_infinite |= infinite[l] != 0;
  if (any_infinite) {
    top = Sums{};
    for (int e = 0; e < 16; ++e) {
      const D size = absolute<W>(x[e]);
      top = larger(top, bit_cast<Sums>(size) & (size <= broadcast<W>(kLargest)));
    }
  }
  const Factors<W> factors(bit_cast<D>(top), infinite, kSmallUnits);
  for (int e = 0; e < 16; ++e) {
    const D signed_x = bit_cast<D>(bit_cast<Sums>(x[e]) & bits);
    const D shifted = any_infinite ? factors(signed_x) + kRound : factors.shifted(signed_x);
    units[e] = (bit_cast<Sums>(shifted) - bit_cast<std::int64_t>(kRound)) << kRankBits;
  }
}

void to_units(Vec<float, kFours> (&x)[16], bool magnitude, Sums (&units)[16]) {
  Vec<double, kFours> wide[16];
  for (int e = 0; e < 16; ++e) wide[e] = __builtin_convertvector(x[e], Vec<double, kFours>);
  to_units(wide, magnitude, units);
}

#if defined(GOSSAMER_AVX512)

/// The same in single precision, if every block is zero or its scale is one float. Otherwise
/// returns false.
GOSSAMER_INLINE bool to_units_directly(Vec<float, kFours> (&x)[16], bool magnitude,
                                       Sums (&units)[16]) {
  using F = Vec<float, kFours>;
  using I = Vec<std::int32_t, kFours>;
  constexpr std::int32_t kMagnitude = 0x7fffffff;
  constexpr std::int32_t kBias = 127, kLeast = kSmallUnits.bits;  // biased exponents
  I top{};
  for (int e = 0; e < 16; ++e) {
    const I size = bit_cast<I>(x[e]) & kMagnitude;
    top = size > top ? size : top;
  }
  const I exponent = top >> 23;
  const I usual = (top == 0) | ((exponent >= kLeast) & (exponent < 255));
  if (_mm256_movemask_epi8(reinterpret_cast<__m256i>(usual)) != -1) return false;
  const I power =
      kBias + kSmallUnits.bits - ((exponent < kLeast ? I{} + kLeast : exponent) - kBias);
  const F factor = bit_cast<F>(power << 23);
  const I bits = broadcast<kFours>(magnitude ? kMagnitude : std::int32_t{-1});
  for (int e = 0; e < 16; ++e) {
    const F scaled = bit_cast<F>(bit_cast<I>(x[e]) & bits) * factor;
    units[e] = reinterpret_cast<Sums>(_mm512_cvtps_epi64(reinterpret_cast<__m256>(scaled)))
               << kRankBits;
  }
  return true;
}

#endif

/// The rank of each block's best pattern.
template <int N>
GOSSAMER_INLINE Sums best_patterns(const Sums (&units)[16]) {
  constexpr const Patterns<N>& of = kPatterns<N>;
  Sums rows[4][of.sets];
  for (int r = 0; r < 4; ++r) {
    for (int s = 0; s < of.sets; ++s) {
      rows[r][s] = broadcast<kFours>(std::int64_t{of.rank(s, r)});
      for (int c = 0; c < 4; ++c) {
        if ((of.mask[s] >> c) & 1) rows[r][s] += units[r * 4 + c];
      }
    }
  }
  const Sums best = best_of_groups<N>(rows, typename MakeLanes<of.groups>::type{});
  return best & ((1 << kRankBits) - 1);
}

using Octet = Vec<std::int32_t, 8>;

/// Moves the result of block l to lane l.
template <int... I>
GOSSAMER_INLINE Octet in_block_order(Vec<std::int32_t, kFours> v, Lanes<I...>) {
  // four() leaves block j*(kFours/4) + q in lane 4*q + j.
  constexpr int Q = kFours / 4;
  return __builtin_shufflevector(v, v, (I < kFours ? 4 * (I % Q) + I / Q : 0)...);
}

/// Masks kFours blocks of 4 x 4 that lie side by side.
template <int N, class S>
void four(const S* score, std::int64_t stride, bool magnitude, std::uint8_t* mask,
          std::int64_t mask_stride) {
  using L = typename MakeLanes<kFours>::type;
  using V = decltype(load_real<kFours>(score));
  V x[16];
  for (int r = 0; r < 4; ++r) {
    V* row = x + 4 * r;
    for (int j = 0; j < 4; ++j) row[j] = load_real<kFours>(score + r * stride + j * kFours);
    exchange_halves<2>(row[0], row[2], L{});
    exchange_halves<2>(row[1], row[3], L{});
    exchange_halves<1>(row[0], row[1], L{});
    exchange_halves<1>(row[2], row[3], L{});
  }
  Sums units[16];
#if defined(GOSSAMER_AVX512)
  bool done = false;
  if constexpr (sizeof(V) == sizeof(float) * kFours) done = to_units_directly(x, magnitude, units);
  if (!done) to_units(x, magnitude, units);
#else
  to_units(x, magnitude, units);
#endif
  const Sums ranks = best_patterns<N>(units);
  const Octet rank = in_block_order(__builtin_convertvector(ranks, Vec<std::int32_t, kFours>),
                                    typename MakeLanes<8>::type{});
  Octet bytes_of;  // each set with bit c moved to byte c
  for (int l = 0; l < 8; ++l) {
    const int set = 7 - l;
    bytes_of[l] = set < kPatterns<N>.sets ? (kPatterns<N>.mask[set] * 0x00204081) & 0x01010101 : 0;
  }
  for (int r = 0; r < 4; ++r) {
    const Octet which = (rank >> (3 * (3 - r))) & 7;
#if __has_builtin(__builtin_shuffle)
    const Octet bytes = __builtin_shuffle(bytes_of, which);
#else  // Clang
    Octet bytes;
    for (int l = 0; l < 8; ++l) bytes[l] = bytes_of[which[l]];
#endif
    __builtin_memcpy(mask + r * mask_stride, &bytes, 4 * kFours);
  }
}

template <int N, class S>
void fours(const TransposableArgs& a) {
  constexpr int kWidth = 4 * kFours;
  const S* score = static_cast<const S*>(a.score);
  std::int64_t b = 0;
  for (; b + kFours <= a.blocks; b += kFours) {
    four<N>(score + b * 4, a.stride, a.magnitude, a.mask + b * 4, a.stride);
  }
  if (b == a.blocks) return;
  const auto left = static_cast<std::size_t>(a.blocks - b) * 4;
  S entries[4 * kWidth] = {};
  std::uint8_t mask[4 * kWidth];
  for (int r = 0; r < 4; ++r) {
    __builtin_memcpy(entries + r * kWidth, score + r * a.stride + b * 4, left * sizeof(S));
  }
  four<N>(entries, kWidth, a.magnitude, mask, kWidth);
  for (int r = 0; r < 4; ++r) {
    __builtin_memcpy(a.mask + r * a.stride + b * 4, mask + r * kWidth, left);
  }
}

// Any M, by minimum-cost flow. Rows are padded to whole vectors. M is 8, or 0 for a size that is
// known at run time only.

/// What blocks of up to Max x Max elements are solved in: too large for the stack of every thread.
template <int Max>
struct Cells {
  double left[Max][Max];
  double bar[Max][Max];  // kBar where a row keeps the column already: no path may enter there
  double flat[Max * Max];
  std::int16_t order[Max * Max], spare[Max * Max];
};

template <int M>
class Block {
  static constexpr int W = min_int(kLanes<double>, 8);

 public:
  static constexpr int kMax = M == 0 ? kMost : M;

  Block(int size, int n, Cells<kMax>& cells) : size_(size), n_(n), cells_(cells) {}

  /// Reads the block at `score` and converts it to units, in which all that follows is exact.
  template <class S>
  void read(const S* score, std::int64_t stride, bool magnitude) {
    Vec<double, W> most{};
    Vec<std::int64_t, W> beyond{};
    for (int r = 0; r < m(); ++r) {
      for (int c = 0; c < padded(); c += W) {
        Vec<double, W> x{};
        if (c + W <= m()) {
          x = __builtin_convertvector(load_real<W>(score + r * stride + c), Vec<double, W>);
        } else {
          for (int l = 0; c + l < m(); ++l) {
            x[l] = static_cast<double>(to_float(score[r * stride + c + l]));
          }
        }
        const Vec<double, W> size = absolute<W>(x);
        if (magnitude) x = x == x ? size : x;
        const auto finite = size <= broadcast<W>(kLargest);
        beyond |= ~finite;
        most = finite && size > most ? size : most;
        store<W>(&cells_.left[r][c], x);
      }
    }
    double top = 0.0;
    bool infinite = false;
    for (int l = 0; l < W; ++l) {
      top = most[l] > top ? most[l] : top;
      infinite |= beyond[l] != 0;
    }
    const Factors<W> factors(broadcast<W>(top), broadcast<W>(std::int64_t{infinite ? -1 : 0}),
                             kMax <= 8 ? kSmallUnits : kLargeUnits);
    for (int r = 0; r < m(); ++r) {
      for (int c = 0; c < padded(); c += W)
        store<W>(&cells_.left[r][c], factors(load<W>(&cells_.left[r][c])));
      for (int c = m(); c < padded(); ++c) cells_.left[r][c] = -kNone;
    }
  }

  void solve() {
    for (int c = 0; c < kMax; ++c) taken_[c] = 0;
    for (int r = 0; r < m(); ++r) {
      kept_[r] = best_of_row(r);
      for (int c = 0; c < m(); ++c) {
        const bool kept = (kept_[r] >> c) & 1;
        taken_[c] += kept;
        cells_.bar[r][c] = kept ? kBar : 0.0;
      }
      for (int c = m(); c < padded(); ++c) cells_.bar[r][c] = kBar;
    }
    while (move_one()) {
    }
    if (has_ties()) make_first();
  }

  void greedy() {
    take_best_cells();
    while (complete_one()) {
    }
  }

  void write(std::uint8_t* mask, std::int64_t stride) const {
    for (int r = 0; r < m(); ++r) {
      for (int c = 0; c < m(); ++c) {
        mask[r * stride + c] = static_cast<std::uint8_t>((kept_[r] >> c) & 1);
      }
    }
  }

 private:
  using Set = std::uint64_t;  // a bit for each column

  [[nodiscard]] int m() const { return M == 0 ? size_ : M; }
  [[nodiscard]] int padded() const { return (m() + W - 1) / W * W; }
  static int lowest(Set set) { return __builtin_ctzll(set); }
  static Set one(int c) { return Set{1} << c; }
  [[nodiscard]] Set all() const { return ~Set{0} >> (64 - m()); }

  /// The n largest of a row; of equal ones the first.
  [[nodiscard]] Set best_of_row(int r) const {
    double before[kMax] = {};
    for (int d = 0; d < m(); ++d) {
      const Vec<double, W> mine = broadcast<W>(cells_.left[r][d]);
      for (int c = 0; c < padded(); c += W) {
        // Counts where column d comes before c: it is larger, or equal with d < c.
        const Vec<double, W> others = load<W>(&cells_.left[r][c]);
        Vec<double, W> count = load<W>(before + c);
        if (c > d) {
          count += mine >= others ? broadcast<W>(1.0) : Vec<double, W>{};
        } else {
          count += mine > others ? broadcast<W>(1.0) : Vec<double, W>{};
        }
        store<W>(before + c, count);
      }
      for (int c = d + 1; c < min_int((d / W + 1) * W, m()); ++c) {
        if (cells_.left[r][c] == cells_.left[r][d]) before[c] += 1.0;
      }
    }
    Set set = 0;
    for (int c = 0; c < m(); ++c) {
      if (before[c] < n_) set |= one(c);
    }
    return set;
  }

  /// Moves one row from a column that is used too often to one that is used too seldom, over the
  /// columns between, at the least loss of score. A step from column a to column b means that a row
  /// which keeps a keeps b instead. `cells_.left` holds the scores minus the columns' prices. By
  /// these, no row would rather keep another column, so no step has a negative length, and
  /// Dijkstra's algorithm finds the shortest path.
  bool move_one() {
    double distance[kMax], from[kMax];
    double by_row[kMax] = {};
    bool any = false;
    for (int c = 0; c < padded(); ++c) {
      const bool source = c < m() && taken_[c] > n_;
      any |= source;
      distance[c] = source ? 0.0 : kNone;
      from[c] = -1;
    }
    if (!any) return false;
    Set open = all();
    int target = 0;
    for (;;) {
      int a = lowest(open);
      for (Set rest = open & (open - 1); rest != 0; rest &= rest - 1) {
        if (distance[lowest(rest)] < distance[a]) a = lowest(rest);
      }
      if (taken_[a] < n_) {
        target = a;
        break;
      }
      open &= ~one(a);
      const double here = distance[a];
      // Columns that were closed before are at most as far away as this one, so this changes none
      // of them.
      for (int r = 0; r < m(); ++r) {
        if (((kept_[r] >> a) & 1) == 0) continue;
        const Vec<double, W> base = broadcast<W>(here + cells_.left[r][a]);
        for (int b = 0; b < padded(); b += W) {
          const auto there = base - (load<W>(&cells_.left[r][b]) - load<W>(&cells_.bar[r][b]));
          const auto known = load<W>(distance + b);
          const auto nearer = there < known;
          store<W>(distance + b, nearer ? there : known);
          store<W>(by_row + b, nearer ? broadcast<W>(static_cast<double>(r)) : load<W>(by_row + b));
          store<W>(from + b, nearer ? broadcast<W>(static_cast<double>(a)) : load<W>(from + b));
        }
      }
    }
    const double end = distance[target];
    double price[kMax] = {};
    for (int c = 0; c < m(); ++c) price[c] = distance[c] < end ? end - distance[c] : 0.0;
    for (int r = 0; r < m(); ++r) {
      for (int c = 0; c < padded(); c += W) {
        store<W>(&cells_.left[r][c], load<W>(&cells_.left[r][c]) - load<W>(price + c));
      }
    }
    ++taken_[target];
    int c = target;
    while (from[c] >= 0) {
      const int r = static_cast<int>(by_row[c]), a = static_cast<int>(from[c]);
      kept_[r] ^= one(c) | one(a);
      cells_.bar[r][c] = kBar;
      cells_.bar[r][a] = 0.0;
      c = a;
    }
    --taken_[c];
    return true;
  }

  /// The kept columns and the others that a row could exchange for each other without loss.
  struct Tied {
    Set kept, others;
  };
  [[nodiscard]] Tied tied(int r) const {
    Vec<double, W> low = broadcast<W>(kNone), high = broadcast<W>(-kNone);
    for (int c = 0; c < padded(); c += W) {
      const auto x = load<W>(&cells_.left[r][c]);
      const auto kept = load<W>(&cells_.bar[r][c]) > Vec<double, W>{};
      low = kept && x < low && x > broadcast<W>(-kNone) ? x : low;
      high = !kept && x > high ? x : high;
    }
    double least = kNone, most = -kNone;
    for (int l = 0; l < W; ++l) {
      least = low[l] < least ? low[l] : least;
      most = high[l] > most ? high[l] : most;
    }
    Tied sets{0, 0};
    if (least > most) return sets;
    for (int c = 0; c < m(); ++c) {
      if (cells_.left[r][c] == least) (((kept_[r] >> c) & 1) ? sets.kept : sets.others) |= one(c);
    }
    return sets;
  }

  /// Whether another choice has the same sum, that is, whether exchanges without loss form a cycle.
  bool has_ties() {
    Set next[kMax] = {};
    for (int r = 0; r < m(); ++r) {
      ties_[r] = tied(r);
      for (Set a = ties_[r].kept; a != 0; a &= a - 1) next[lowest(a)] |= ties_[r].others;
    }
    Set alive = all();
    for (bool changed = true; changed;) {
      changed = false;
      for (Set rest = alive; rest != 0; rest &= rest - 1) {
        const int c = lowest(rest);
        if ((next[c] & alive) == 0) {
          alive &= ~one(c);
          changed = true;
        }
      }
    }
    return alive != 0;
  }

  /// Turns the choice into the first in lexicographic order of those with the same sum. Visits cell
  /// after cell; one that is not kept is kept instead if exchanges without loss among the cells not
  /// yet visited form a cycle through it.
  void make_first() {
    for (int r = 0; r < m(); ++r) {
      for (int c = 0; c < m(); ++c) {
        if (ties_[r].others & one(c)) exchange(r, c);
        ties_[r].kept &= ~one(c);
        ties_[r].others &= ~one(c);
      }
    }
  }

  void exchange(int row, int column) {
    int from[kMax], by_row[kMax];
    int queue[kMax];
    int head = 0, tail = 0;
    Set seen = one(column);
    queue[tail++] = column;
    while (head < tail) {
      const int a = queue[head++];
      if (ties_[row].kept & one(a)) {
        // The row gives up column a for `column`; the rows on the way take one column for the next,
        // back from a to `column`, so that each column is used as often as before.
        swap(row, a, column);
        for (int b = a; b != column; b = from[b]) swap(by_row[b], from[b], b);
        return;
      }
      for (int r = row; r < m(); ++r) {
        if ((ties_[r].kept & one(a)) == 0) continue;
        for (Set to = ties_[r].others & ~seen; to != 0; to &= to - 1) {
          const int b = lowest(to);
          from[b] = a;
          by_row[b] = r;
          queue[tail++] = b;
        }
        seen |= ties_[r].others;
      }
    }
  }

  void swap(int r, int out, int in) {
    kept_[r] ^= one(out) | one(in);
    ties_[r].kept ^= one(out) | one(in);
    ties_[r].others ^= one(out) | one(in);
  }

  /// Keeps cells in descending order of score, of equal ones the first, where row and column have
  /// room.
  void take_best_cells() {
    const int cells = m() * m();
    for (int i = 0; i < cells; ++i) cells_.order[i] = static_cast<std::int16_t>(i);
    std::int16_t *in = cells_.order, *out = cells_.spare;
    double* const flat = cells_.flat;
    for (int r = 0; r < m(); ++r) {
      for (int c = 0; c < m(); ++c) flat[r * m() + c] = cells_.left[r][c];
    }
    for (int width = 1; width < cells; width *= 2) {
      for (int begin = 0; begin < cells; begin += 2 * width) {
        const int middle = min_int(begin + width, cells), end = min_int(begin + 2 * width, cells);
        int i = begin, j = middle;
        for (int k = begin; k < end; ++k) {
          const bool left = j >= end || (i < middle && flat[in[i]] >= flat[in[j]]);
          out[k] = left ? in[i++] : in[j++];
        }
      }
      std::int16_t* swap = in;
      in = out;
      out = swap;
    }
    int room[kMax];
    for (int r = 0; r < m(); ++r) {
      kept_[r] = 0;
      room[r] = n_;
      taken_[r] = 0;
    }
    for (int i = 0; i < cells; ++i) {
      const int r = in[i] / m(), c = in[i] % m();
      if (room[r] == 0 || taken_[c] == n_) continue;
      kept_[r] |= one(c);
      --room[r];
      ++taken_[c];
    }
  }

  /// If a row has room but none of the columns that have room can be added to it, lets it keep
  /// another column, with the fewest exchanges in other rows.
  bool complete_one() {
    int row = 0;
    while (row < m() && __builtin_popcountll(kept_[row]) == n_) ++row;
    if (row == m()) return false;
    int from[kMax], by_row[kMax], queue[kMax];
    int head = 0, tail = 0;
    Set seen = 0;
    for (Set to = all() & ~kept_[row]; to != 0; to &= to - 1) {
      const int c = lowest(to);
      from[c] = -1;
      by_row[c] = row;
      seen |= one(c);
      queue[tail++] = c;
    }
    while (head < tail) {
      const int a = queue[head++];
      if (taken_[a] < n_) {
        ++taken_[a];
        for (int b = a; b >= 0; b = from[b]) {
          kept_[by_row[b]] |= one(b);
          if (from[b] >= 0) kept_[by_row[b]] &= ~one(from[b]);
        }
        return true;
      }
      for (int r = 0; r < m(); ++r) {
        if (((kept_[r] >> a) & 1) == 0) continue;
        for (Set to = all() & ~kept_[r] & ~seen; to != 0; to &= to - 1) {
          const int b = lowest(to);
          from[b] = a;
          by_row[b] = r;
          queue[tail++] = b;
          seen |= one(b);
        }
      }
    }
    return false;
  }

  int size_, n_;
  Cells<kMax>& cells_;
  Set kept_[kMax];
  int taken_[kMax];
  Tied ties_[kMax];
};

template <int M, class S>
void any(const TransposableArgs& a, Cells<Block<M>::kMax>& cells) {
  Block<M> block(static_cast<int>(a.m), static_cast<int>(a.n), cells);
  for (std::int64_t b = 0; b < a.blocks; ++b) {
    block.read(static_cast<const S*>(a.score) + b * a.m, a.stride, a.magnitude);
    if (a.greedy) {
      block.greedy();
    } else {
      block.solve();
    }
    block.write(a.mask + b * a.m, a.stride);
  }
}

template <class S>
void transposable_of(const TransposableArgs& a) {
  if (a.m == 4 && !a.greedy) {
    if (a.n == 1) return fours<1, S>(a);
    if (a.n == 2) return fours<2, S>(a);
    return fours<3, S>(a);
  }
  if (a.m == 8) {
    Cells<8> cells;
    return any<8, S>(a, cells);
  }
  static_assert(sizeof(Cells<64>) <= kTransposableScratch);
  any<0, S>(a, *reinterpret_cast<Cells<64>*>(a.scratch));
}

}  // namespace

void transposable(const TransposableArgs& a);
void transposable(const TransposableArgs& a) {
  with_float_type(a.type,
                  [&](auto stored) { transposable_of<typename decltype(stored)::type>(a); });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
