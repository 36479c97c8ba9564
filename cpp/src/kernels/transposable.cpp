// Transposable N:M: each row and each column of an M x M block keeps exactly N. Scores become whole
// numbers in units of the block's largest, so that every sum is exact and the answer, the first
// maximum in lexicographic order, is one and the same however it is found.
// M = 4 tries all patterns, a block in each lane. Others: every row takes its N best, then columns
// that were taken too often pass rows on to those that were taken too seldom along shortest paths
// (minimum-cost flow; the prices of the columns are its duals).

#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

constexpr int kMost = 64;
constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to a whole number
constexpr double kLargest = 0x1.fffffffffffffp1023;
constexpr double kNone = 0x1p60;  // more than any distance
constexpr double kBar = 0x1p62;   // no way, from wherever

/// Whole numbers below 2^(bits+1) stand for the finite scores of a block. Where a score is
/// infinite, fewer bits leave room for a number beyond any sum of them.
struct Units {
  int bits, bits_beside_infinity;
  double infinity;
};
constexpr Units kSmallUnits = {46, 28, 0x1p37};  // m ≤ 8: sums of 64 stay below 2^53
constexpr Units kLargeUnits = {39, 20, 0x1p35};  // m ≤ 64: sums of 4096

template <int W>
GOSSAMER_INLINE Vec<double, W> absolute(Vec<double, W> x) {
  return bit_cast<Vec<double, W>>(bit_cast<Vec<std::int64_t, W>>(x) & 0x7fffffffffffffff);
}

/// The two factors whose product takes a block's scores to its units.
template <int W>
struct Factors {
  Vec<double, W> first, second, infinity;

  Factors(Vec<double, W> top, Vec<std::int64_t, W> infinite, const Units& units) {
    using I = Vec<std::int64_t, W>;
    const I exponent = bit_cast<I>(top) >> 52;
    const I bits = infinite ? broadcast<W>(std::int64_t{units.bits_beside_infinity})
                            : broadcast<W>(std::int64_t{units.bits});
    // Half of an even number that is shifted to be positive.
    const I power = bits + 1023 - exponent + 4096;
    const I half = bit_cast<I>(bit_cast<Vec<std::uint64_t, W>>(power) >> 1) - 2048;
    first = bit_cast<Vec<double, W>>((half + 1023) << 52);
    second = bit_cast<Vec<double, W>>((power - 4096 - half + 1023) << 52);
    infinity = broadcast<W>(units.infinity);
  }

  GOSSAMER_INLINE Vec<double, W> operator()(Vec<double, W> x) const {
    const Vec<double, W> whole = (x * first * second + kRound) - kRound;
    const Vec<double, W> beyond = x > Vec<double, W>{} ? infinity : -infinity;
    return absolute<W>(x) <= broadcast<W>(kLargest) ? whole : beyond;
  }
};

// M = 4.

/// The sets of N of 4 columns in lexicographic order, and the sequences of four of them that take
/// each column N times, as pairs of pairs.
template <int N>
struct Patterns {
  int sets = 0, count = 0;
  int mask[6] = {};  // bit c: column c
  int top[90] = {}, bottom[90] = {};

  constexpr Patterns() {
    // Column 0 first: of masks with the bits reversed, the larger ones.
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
    for (int all = 0; all < sets * sets * sets * sets; ++all) {
      const int set[4] = {all / (sets * sets * sets), all / (sets * sets) % sets, all / sets % sets,
                          all % sets};
      bool fits = true;
      for (int c = 0; c < 4; ++c) {
        int taken = 0;
        for (int r = 0; r < 4; ++r) taken += (mask[set[r]] >> c) & 1;
        if (taken != N) fits = false;
      }
      if (fits) {
        top[count] = set[0] * sets + set[1];
        bottom[count++] = set[2] * sets + set[3];
      }
    }
  }
};

template <int N, class S>
void four(const TransposableArgs& a) {
  static constexpr Patterns<N> kPatterns;
  constexpr int W = kLanes<double>;
  constexpr int K = kPatterns.sets;
  const S* score = static_cast<const S*>(a.score);
  for (std::int64_t b = 0; b < a.blocks; b += W) {
    const int lanes = static_cast<int>(min_i64(W, a.blocks - b));
    double gathered[16][W] = {};
    for (int r = 0; r < 4; ++r) {
      const S* row = score + r * a.stride + b * 4;
      for (int l = 0; l < lanes; ++l) {
        for (int c = 0; c < 4; ++c) {
          gathered[r * 4 + c][l] = static_cast<double>(to_float(row[l * 4 + c]));
        }
      }
    }
    Vec<double, W> x[16], top{};
    Vec<std::int64_t, W> infinite{};
    for (int e = 0; e < 16; ++e) {
      x[e] = load<W>(gathered[e]);
      const Vec<double, W> size = absolute<W>(x[e]);
      if (a.magnitude) x[e] = x[e] == x[e] ? size : x[e];
      const auto finite = size <= broadcast<W>(kLargest);
      infinite |= ~finite;
      top = finite && size > top ? size : top;
    }
    const Factors<W> factors(top, infinite, kSmallUnits);
    Vec<double, W> row_sum[4][K];
    for (int r = 0; r < 4; ++r) {
      Vec<double, W> q[4];
      for (int c = 0; c < 4; ++c) q[c] = factors(x[r * 4 + c]);
      for (int s = 0; s < K; ++s) {
        Vec<double, W> sum{};
        for (int c = 0; c < 4; ++c) {
          if ((kPatterns.mask[s] >> c) & 1) sum += q[c];
        }
        row_sum[r][s] = sum;
      }
    }
    Vec<double, W> above[K * K], below[K * K];
    for (int s = 0; s < K; ++s) {
      for (int t = 0; t < K; ++t) {
        above[s * K + t] = row_sum[0][s] + row_sum[1][t];
        below[s * K + t] = row_sum[2][s] + row_sum[3][t];
      }
    }
    Vec<double, W> best = above[kPatterns.top[0]] + below[kPatterns.bottom[0]];
    Vec<std::int64_t, W> which{};
    for (int p = 1; p < kPatterns.count; ++p) {
      const Vec<double, W> sum = above[kPatterns.top[p]] + below[kPatterns.bottom[p]];
      const auto better = sum > best;
      best = better ? sum : best;
      which = better ? broadcast<W>(std::int64_t{p}) : which;
    }
    for (int l = 0; l < lanes; ++l) {
      const int p = static_cast<int>(which[l]);
      const int set[4] = {kPatterns.top[p] / K, kPatterns.top[p] % K, kPatterns.bottom[p] / K,
                          kPatterns.bottom[p] % K};
      for (int r = 0; r < 4; ++r) {
        std::uint8_t* mask = a.mask + r * a.stride + (b + l) * 4;
        for (int c = 0; c < 4; ++c) {
          mask[c] = static_cast<std::uint8_t>((kPatterns.mask[set[r]] >> c) & 1);
        }
      }
    }
  }
}

// Any M. A row's columns are padded to whole vectors; M is 8, or 0 for what `size` says.

template <int M>
class Block {
  static constexpr int kMax = M == 0 ? kMost : M;
  static constexpr int W = min_int(kLanes<double>, 8);

 public:
  Block(int size, int n) : size_(size), n_(n) {}

  /// Reads the block at `score`. Where scores are whole numbers, rank and flow are exact.
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
        store<W>(&left_[r][c], x);
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
      for (int c = 0; c < padded(); c += W) store<W>(&left_[r][c], factors(load<W>(&left_[r][c])));
      for (int c = m(); c < padded(); ++c) left_[r][c] = -kNone;
    }
  }

  void solve() {
    for (int c = 0; c < kMax; ++c) taken_[c] = 0;
    for (int r = 0; r < m(); ++r) {
      kept_[r] = best_of_row(r);
      for (int c = 0; c < m(); ++c) {
        const bool kept = (kept_[r] >> c) & 1;
        taken_[c] += kept;
        bar_[r][c] = kept ? kBar : 0.0;
      }
      for (int c = m(); c < padded(); ++c) bar_[r][c] = kBar;
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
  using Set = std::uint64_t;  // of columns

  [[nodiscard]] int m() const { return M == 0 ? size_ : M; }
  [[nodiscard]] int padded() const { return (m() + W - 1) / W * W; }
  static int lowest(Set set) { return __builtin_ctzll(set); }
  static Set one(int c) { return Set{1} << c; }
  [[nodiscard]] Set all() const { return ~Set{0} >> (64 - m()); }

  /// The n largest of a row; of equals the first.
  [[nodiscard]] Set best_of_row(int r) const {
    double before[kMax] = {};
    for (int d = 0; d < m(); ++d) {
      const Vec<double, W> mine = broadcast<W>(left_[r][d]);
      for (int c = 0; c < padded(); c += W) {
        // Column d comes before c if it is larger, or equal with d < c.
        const Vec<double, W> others = load<W>(&left_[r][c]);
        Vec<double, W> count = load<W>(before + c);
        if (c > d) {
          count += mine >= others ? broadcast<W>(1.0) : Vec<double, W>{};
        } else {
          count += mine > others ? broadcast<W>(1.0) : Vec<double, W>{};
        }
        store<W>(before + c, count);
      }
      for (int c = d + 1; c < min_int((d / W + 1) * W, m()); ++c) {
        if (left_[r][c] == left_[r][d]) before[c] += 1.0;
      }
    }
    Set set = 0;
    for (int c = 0; c < m(); ++c) {
      if (before[c] < n_) set |= one(c);
    }
    return set;
  }

  /// Moves one row from a column that is taken too often to one that is taken too seldom, over the
  /// columns between, at the least loss. `left_` holds the scores less the columns' prices: in
  /// each row, what is kept is never below what is not, so that no step is a gain (Dijkstra).
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
      // Columns that are closed are no farther than this one, and stay as they are.
      for (int r = 0; r < m(); ++r) {
        if (((kept_[r] >> a) & 1) == 0) continue;
        const Vec<double, W> base = broadcast<W>(here + left_[r][a]);
        for (int b = 0; b < padded(); b += W) {
          const auto there = base - (load<W>(&left_[r][b]) - load<W>(&bar_[r][b]));
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
        store<W>(&left_[r][c], load<W>(&left_[r][c]) - load<W>(price + c));
      }
    }
    ++taken_[target];
    int c = target;
    while (from[c] >= 0) {
      const int r = static_cast<int>(by_row[c]), a = static_cast<int>(from[c]);
      kept_[r] ^= one(c) | one(a);
      bar_[r][c] = kBar;
      bar_[r][a] = 0.0;
      c = a;
    }
    --taken_[c];
    return true;
  }

  /// Where a row could exchange a kept column for another without loss.
  struct Tied {
    Set kept, others;
  };
  [[nodiscard]] Tied tied(int r) const {
    Vec<double, W> low = broadcast<W>(kNone), high = broadcast<W>(-kNone);
    for (int c = 0; c < padded(); c += W) {
      const auto x = load<W>(&left_[r][c]);
      const auto kept = load<W>(&bar_[r][c]) > Vec<double, W>{};
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
      if (left_[r][c] == least) (((kept_[r] >> c) & 1) ? sets.kept : sets.others) |= one(c);
    }
    return sets;
  }

  /// Whether another choice is as good: a cycle of exchanges without loss.
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

  /// Of the choices that are as good, the first in lexicographic order: cell by cell, keeps what
  /// can be kept by a cycle of exchanges among the cells that are not settled yet.
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
        // Column a of the row is given up for `column`, and column by column back to a.
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

  /// Takes cells from the largest on, of equals the first, where row and column have room.
  void take_best_cells() {
    constexpr int kCells = kMax * kMax;
    static_assert(kCells <= 4096);
    std::int16_t order[kCells], spare[kCells];
    const int cells = m() * m();
    for (int i = 0; i < cells; ++i) order[i] = static_cast<std::int16_t>(i);
    std::int16_t *in = order, *out = spare;
    double flat[kCells];
    for (int r = 0; r < m(); ++r) {
      for (int c = 0; c < m(); ++c) flat[r * m() + c] = left_[r][c];
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

  /// Where a row and a column still have room but their cell is kept already: gives the row another
  /// column, over the fewest exchanges in other rows.
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
  double left_[kMax][kMax];
  double bar_[kMax][kMax];  // keeps paths from columns that the row keeps
  Set kept_[kMax];
  int taken_[kMax];
  Tied ties_[kMax];
};

template <int M, class S>
void any(const TransposableArgs& a) {
  Block<M> block(static_cast<int>(a.m), static_cast<int>(a.n));
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
    if (a.n == 1) return four<1, S>(a);
    if (a.n == 2) return four<2, S>(a);
    return four<3, S>(a);
  }
  if (a.m == 8) return any<8, S>(a);
  any<0, S>(a);
}

}  // namespace

void transposable(const TransposableArgs& a);
void transposable(const TransposableArgs& a) {
  with_float_type(a.type,
                  [&](auto stored) { transposable_of<typename decltype(stored)::type>(a); });
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
