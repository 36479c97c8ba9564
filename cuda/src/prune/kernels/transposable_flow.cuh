#pragma once

// Transposable masks of m×m, m ≤ 64, a warp a block. A lane has a row (or two) as the set of
// columns that it keeps, and a column (or two) as a number: how many rows keep it. In the exact
// method every row first keeps its n best columns; then columns that are used too often give rows
// to columns that are used too seldom along shortest paths, as on the CPU. The result, the first in
// lexicographic order of the masks with the largest sum, does not depend on how it is found; that
// of the greedy method is found in the CPU's order.

#include "base/kernels/warp.cuh"
#include "prune/kernels/transposable.cuh"

namespace gossamer::cuda {

struct TransposableFlowArgs {
  ScoreArgs score;
  bool f64, greedy, fine;
  int n, m;
  int stride;  // of a row of units in shared memory: odd, so that lanes read rows side by side
  std::int64_t blocks, wide, cols;  // blocks, those of a row of them, columns
  std::uint8_t* mask;
};

/// Bytes of shared memory of a warp.
__host__ __device__ constexpr std::int64_t flow_bytes(std::int64_t m, std::int64_t stride) {
  return m * stride * 8 + 64;
}

template <int Lines>
struct ColumnSet {
  using type = unsigned;
};
template <>
struct ColumnSet<2> {
  using type = unsigned long long;
};

/// A block. `Lines` rows and columns a lane: number lane + 32·i.
template <int Lines>
class FlowBlock {
  using Set = typename ColumnSet<Lines>::type;
  static constexpr long long kNone = 1ll << 60;  // longer than any path

 public:
  __device__ FlowBlock(const TransposableFlowArgs& a, long long* memory)
      : left_(memory),
        queue_(reinterpret_cast<unsigned char*>(memory + a.m * a.stride)),
        n_(a.n),
        m_(a.m),
        stride_(a.stride),
        lane_(static_cast<int>(threadIdx.x) % 32) {}

  /// Reads the block's scores from element `first` on, as units.
  __device__ void read(const TransposableFlowArgs& a, std::int64_t first) {
    double top = 0;
    bool infinite = false;
    const int cells = m_ * m_;
    for (int e = lane_; e < cells; e += 32) {
      const int r = e / m_, c = e % m_;
      const std::int64_t i = first + r * a.cols + c;
      const double x =
          a.f64 ? score_at<double>(a.score, i) : static_cast<double>(score_at<float>(a.score, i));
      const bool finite = is_finite(x);
      infinite |= !finite;
      if (finite && fabs(x) > top) top = fabs(x);
      left_[r * stride_ + c] = __double_as_longlong(x);
    }
    for (int step = 16; step > 0; step /= 2) {
      const double other = __shfl_xor_sync(kAllLanes, top, step);
      if (other > top) top = other;
    }
    const Units units(top, __any_sync(kAllLanes, infinite) != 0, a.fine);
    for (int e = lane_; e < cells; e += 32) {
      long long& cell = left_[e / m_ * stride_ + e % m_];
      cell = units(__longlong_as_double(cell));
    }
    __syncwarp();  // orders the writes of the units before their reads
  }

  __device__ void solve() {
    for (int i = 0; i < Lines; ++i) taken_[i] = 0;
    for (int r = 0; r < m_; ++r) keep_best_of_row(r);
    while (move_one()) {
    }
    if (has_ties()) make_first();
  }

  __device__ void greedy() {
    take_best_cells();
    while (complete_one()) {
    }
  }

  __device__ void write(std::uint8_t* mask, std::int64_t cols) const {
    for (int r = 0; r < m_; ++r) {
      const Set row = of(kept_, r);
      for (int i = 0; i < Lines; ++i) {
        const int c = line(i);
        if (c < m_) mask[r * cols + c] = static_cast<std::uint8_t>(row >> c & 1u);
      }
    }
  }

 private:
  [[nodiscard]] __device__ int line(int i) const { return lane_ + 32 * i; }
  [[nodiscard]] __device__ bool exists(int i) const { return line(i) < m_; }
  static __device__ Set one(int c) { return Set{1} << c; }
  [[nodiscard]] __device__ Set all() const { return ~Set{0} >> (32 * Lines - m_); }
  static __device__ int lowest(Set set) {
    if constexpr (Lines == 1) return __ffs(static_cast<int>(set)) - 1;
    return __ffsll(static_cast<long long>(set)) - 1;
  }
  static __device__ int size_of_set(Set set) {
    if constexpr (Lines == 1) return __popc(set);
    return __popcll(set);
  }

  /// What the lane that has line l holds of it; l is the same in all lanes.
  template <class T>
  static __device__ T of(const T (&own)[Lines], int l) {
    if constexpr (Lines == 1) return __shfl_sync(kAllLanes, own[0], l);
    return __shfl_sync(kAllLanes, l < 32 ? own[0] : own[Lines - 1], l % 32);
  }
  /// The lines i for which f(i) holds in the lane that has them.
  template <class F>
  __device__ Set lines(F&& f) const {
    Set set = __ballot_sync(kAllLanes, exists(0) && f(0));
    if constexpr (Lines == 2) {
      set |= static_cast<Set>(__ballot_sync(kAllLanes, exists(1) && f(1))) << 32;
    }
    return set;
  }
  /// Calls f(i) in the lane that has line l.
  template <class F>
  __device__ void in_line(int l, F&& f) const {
    for (int i = 0; i < Lines; ++i) {
      if (line(i) == l) f(i);
    }
  }
  /// The n largest of a row; of equal ones the first.
  __device__ void keep_best_of_row(int r) {
    const long long* row = left_ + r * stride_;
    int before[Lines] = {};
    for (int i = 0; i < Lines; ++i) {
      if (!exists(i)) continue;
      const long long own = row[line(i)];
      for (int c = 0; c < m_; ++c) {
        before[i] += row[c] > own || (row[c] == own && c < line(i)) ? 1 : 0;
      }
    }
    const Set best = lines([&](int i) { return before[i] < n_; });
    in_line(r, [&](int i) { kept_[i] = best; });
    for (int i = 0; i < Lines; ++i) taken_[i] += best >> line(i) & 1u ? 1 : 0;
  }

  /// Moves one row from a column that is used too often to one that is used too seldom, over the
  /// columns between, at the least loss of score. `left_` holds the scores minus the columns'
  /// prices, by which no row would rather keep another column: no step has a negative length, and
  /// Dijkstra's algorithm finds the shortest path.
  __device__ bool move_one() {
    const Set sources = lines([&](int i) { return taken_[i] > n_; });
    if (sources == 0) return false;
    long long distance[Lines];
    int from[Lines], by_row[Lines];
    for (int i = 0; i < Lines; ++i) {
      distance[i] = (sources >> line(i) & 1u) != 0 ? 0 : kNone;
      from[i] = -1;
      by_row[i] = 0;
    }
    Set open = all();
    long long here = 0;
    int a = 0;
    for (;;) {
      here = 2 * kNone;
      a = 64;
      for (int i = 0; i < Lines; ++i) {
        if (exists(i) && (open >> line(i) & 1u) != 0 && distance[i] < here) {
          here = distance[i];
          a = line(i);
        }
      }
      for (int step = 16; step > 0; step /= 2) {
        const long long other = __shfl_xor_sync(kAllLanes, here, step);
        const int its = __shfl_xor_sync(kAllLanes, a, step);
        if (other < here || (other == here && its < a)) {
          here = other;
          a = its;
        }
      }
      if (of(taken_, a) < n_) break;
      open &= ~one(a);
      // Columns that were closed before are at most as far away as this one, so this changes none
      // of them.
      for (Set rows = lines([&](int i) { return (kept_[i] >> a & 1u) != 0; }); rows != 0;
           rows &= rows - 1) {
        const int r = lowest(rows);
        const Set kept = of(kept_, r);
        const long long* row = left_ + r * stride_;
        const long long base = here + row[a];
        for (int i = 0; i < Lines; ++i) {
          if (!exists(i) || (kept >> line(i) & 1u) != 0) continue;
          const long long there = base - row[line(i)];
          if (there >= distance[i]) continue;
          distance[i] = there;
          by_row[i] = r;
          from[i] = a;
        }
      }
    }
    __syncwarp();  // orders the reads of the scores before their change
    for (int i = 0; i < Lines; ++i) {
      if (!exists(i) || distance[i] >= here) continue;
      for (int r = 0; r < m_; ++r) left_[r * stride_ + line(i)] -= here - distance[i];
    }
    __syncwarp();  // orders the changed scores before their reads
    in_line(a, [&](int i) { ++taken_[i]; });
    int c = a;
    for (int next = of(from, c); next >= 0; next = of(from, c)) {
      in_line(of(by_row, c), [&](int i) { kept_[i] ^= one(c) | one(next); });
      c = next;
    }
    in_line(c, [&](int i) { --taken_[i]; });
    return true;
  }

  /// The kept columns and the others that a row could exchange for each other without loss; whether
  /// such exchanges form a cycle, so that another choice has the same sum.
  __device__ bool has_ties() {
    for (int i = 0; i < Lines; ++i) {
      tied_[i] = others_[i] = 0;
      if (!exists(i)) continue;
      const long long* row = left_ + line(i) * stride_;
      long long low = kNone, high = -kNone;
      for (int c = 0; c < m_; ++c) {
        if ((kept_[i] >> c & 1u) != 0) {
          low = row[c] < low ? row[c] : low;
        } else {
          high = row[c] > high ? row[c] : high;
        }
      }
      if (low > high) continue;
      for (int c = 0; c < m_; ++c) {
        if (row[c] == low) ((kept_[i] >> c & 1u) != 0 ? tied_[i] : others_[i]) |= one(c);
      }
    }
    Set next[Lines] = {};
    for (int r = 0; r < m_; ++r) {
      const Set kept = of(tied_, r), others = of(others_, r);
      for (int i = 0; i < Lines; ++i) {
        if (exists(i) && (kept >> line(i) & 1u) != 0) next[i] |= others;
      }
    }
    Set alive = all();
    for (Set before = 0; before != alive;) {
      before = alive;
      alive =
          lines([&](int i) { return (before >> line(i) & 1u) != 0 && (next[i] & before) != 0; });
    }
    return alive != 0;
  }

  /// Turns the choice into the first in lexicographic order of those with the same sum: a cell that
  /// is not kept is kept instead if exchanges without loss among the cells not yet visited form a
  /// cycle through it.
  __device__ void make_first() {
    for (int r = 0; r < m_; ++r) {
      for (int c = 0; c < m_; ++c) {
        if ((of(others_, r) >> c & 1u) != 0) exchange(r, c);
        in_line(r, [&](int i) {
          tied_[i] &= ~one(c);
          others_[i] &= ~one(c);
        });
      }
    }
  }

  /// A search of columns, nearest first.
  struct Search {
    int from[Lines] = {}, by_row[Lines] = {};
    int head = 0, tail = 0;
    Set seen = 0;
  };
  /// Appends the columns that were not seen, in order.
  __device__ void append(Search& search, Set columns, int from, int row) const {
    columns &= ~search.seen;
    for (int i = 0; i < Lines; ++i) {
      if (!exists(i) || (columns >> line(i) & 1u) == 0) continue;
      search.from[i] = from;
      search.by_row[i] = row;
      queue_[search.tail + size_of_set(columns & (one(line(i)) - 1))] =
          static_cast<unsigned char>(line(i));
    }
    search.tail += size_of_set(columns);
    search.seen |= columns;
    __syncwarp();  // orders the writes of the queue before their reads
  }
  __device__ int take(Search& search) const { return queue_[search.head++]; }

  __device__ void exchange(int row, int column) {
    __syncwarp();  // orders the reads of the queue before its next writes
    Search search;
    append(search, one(column), -1, row);
    const Set own = of(tied_, row);
    while (search.head < search.tail) {
      const int a = take(search);
      if ((own >> a & 1u) != 0) {
        // The row gives up column a for `column`; the rows on the way take one column for the next,
        // back from a to `column`, so that each column is used as often as before.
        const auto swap = [&](int r, int out, int in) {
          const Set both = one(out) | one(in);
          in_line(r, [&](int i) {
            kept_[i] ^= both;
            tied_[i] ^= both;
            others_[i] ^= both;
          });
        };
        swap(row, a, column);
        for (int b = a; b != column;) {
          const int next = of(search.from, b);
          swap(of(search.by_row, b), next, b);
          b = next;
        }
        return;
      }
      for (Set rows = lines([&](int i) { return line(i) >= row && (tied_[i] >> a & 1u) != 0; });
           rows != 0; rows &= rows - 1) {
        const int r = lowest(rows);
        append(search, of(others_, r), a, r);
      }
    }
  }

  /// Keeps cells in descending order of score, of equal ones the first, where row and column have
  /// room.
  __device__ void take_best_cells() {
    int room[Lines], at[Lines];
    Set chosen[Lines] = {};  // rows that keep the column
    for (int i = 0; i < Lines; ++i) {
      kept_[i] = 0;
      room[i] = n_;
      taken_[i] = 0;
    }
    Set open = all();  // rows with room
    // The best cell of a column, or none where it has no room.
    const auto look = [&](int i) {
      at[i] = -1;
      if (!exists(i) || taken_[i] == n_) return;
      for (Set rows = open & ~chosen[i]; rows != 0; rows &= rows - 1) {
        const int r = lowest(rows);
        if (at[i] < 0 || left_[r * stride_ + line(i)] > left_[at[i] * stride_ + line(i)]) at[i] = r;
      }
    };
    for (int i = 0; i < Lines; ++i) look(i);
    for (;;) {
      long long best = -kNone;
      int cell = 64 * 64;
      for (int i = 0; i < Lines; ++i) {
        if (at[i] < 0) continue;
        const long long own = left_[at[i] * stride_ + line(i)];
        const int own_cell = at[i] * m_ + line(i);
        if (own > best || (own == best && own_cell < cell)) {
          best = own;
          cell = own_cell;
        }
      }
      for (int step = 16; step > 0; step /= 2) {
        const long long other = __shfl_xor_sync(kAllLanes, best, step);
        const int its = __shfl_xor_sync(kAllLanes, cell, step);
        if (other > best || (other == best && its < cell)) {
          best = other;
          cell = its;
        }
      }
      if (cell == 64 * 64) return;
      const int r = cell / m_, c = cell % m_;
      in_line(r, [&](int i) {
        kept_[i] |= one(c);
        --room[i];
      });
      in_line(c, [&](int i) {
        chosen[i] |= one(r);
        ++taken_[i];
      });
      open = lines([&](int i) { return room[i] > 0; });
      for (int i = 0; i < Lines; ++i) {
        if (at[i] >= 0 && (line(i) == c || (open >> at[i] & 1u) == 0)) look(i);
      }
    }
  }

  /// If a row has room but none of the columns that have room can be added to it, lets it keep
  /// another column, with the fewest exchanges in other rows.
  __device__ bool complete_one() {
    const Set short_rows = lines([&](int i) { return size_of_set(kept_[i]) != n_; });
    if (short_rows == 0) return false;
    const int row = lowest(short_rows);
    __syncwarp();  // orders the reads of the queue before its next writes
    Search search;
    append(search, all() & ~of(kept_, row), -1, row);
    while (search.head < search.tail) {
      const int a = take(search);
      if (of(taken_, a) < n_) {
        in_line(a, [&](int i) { ++taken_[i]; });
        for (int b = a; b >= 0;) {
          const int next = of(search.from, b);
          in_line(of(search.by_row, b), [&](int i) {
            kept_[i] |= one(b);
            if (next >= 0) kept_[i] &= ~one(next);
          });
          b = next;
        }
        return true;
      }
      for (Set rows = lines([&](int i) { return (kept_[i] >> a & 1u) != 0; }); rows != 0;
           rows &= rows - 1) {
        const int r = lowest(rows);
        append(search, all() & ~of(kept_, r), a, r);
      }
    }
    return false;
  }

  long long* left_;       // [m][stride], shared by the warp
  unsigned char* queue_;  // [64], likewise
  int n_, m_, stride_, lane_;
  Set kept_[Lines], tied_[Lines], others_[Lines];  // of rows
  int taken_[Lines];                               // of columns
};

inline constexpr int kMostFlowWarps = 4;

template <int Lines>
__global__ void __launch_bounds__(32 * kMostFlowWarps)
    nm_transposable_flow(const __grid_constant__ TransposableFlowArgs a) {
  const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * warps + warp;
  if (at >= a.blocks) return;
  const std::int64_t row = at / a.wide;
  const std::int64_t first = (row * a.cols + at - row * a.wide) * a.m;
  auto* memory = dynamic_shared<unsigned char>() + warp * flow_bytes(a.m, a.stride);
  FlowBlock<Lines> block(a, reinterpret_cast<long long*>(memory));
  block.read(a, first);
  if (a.greedy) {
    block.greedy();
  } else {
    block.solve();
  }
  block.write(a.mask + first, a.cols);
}

}  // namespace gossamer::cuda
