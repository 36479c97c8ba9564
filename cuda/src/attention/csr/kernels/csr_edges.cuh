#pragma once

// What attention over the entries of a CSR pattern and its gradient share. A warp handles the
// entries of one list, four at a time for each group of lanes side by side along the depth; a list
// longer than `cut` is handled by all warps of its thread block, after the block's other lists.

#include "base/kernels/numbers.cuh"
#include "base/kernels/pack.cuh"
#include "base/kernels/row_team.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

inline constexpr int kEdgeWarps = 4, kEdgeThreads = 32 * kEdgeWarps;
/// Entries that a group of lanes handles at a time.
inline constexpr int kEdges = 4;
/// Columns of a result that a lane holds, and a warp.
inline constexpr int kEdgeColumns = 8, kEdgeTile = 32 * kEdgeColumns;

/// Element d of row r of head h in batch b is data[b*batch + r*row + h*head + d].
template <class T>
struct EdgeRows {
  T* data;
  std::int64_t batch, row, head;

  __device__ T* at(std::int64_t b, std::int64_t h) const { return data + b * batch + h * head; }
};

/// scale·⟨q, k⟩ or, with `gat`, scale·leaky(q + k) of single numbers; plus bias[b*bias_batch +
/// h*bias_head + p] where there is one.
template <class T>
struct EdgeScores {
  bool gat;
  Sum<T> scale, slope;
  const T* bias;
  std::int64_t bias_batch, bias_head;
};

/// The lists of a pattern or of its transpose. For `stacks` > 1, those of as many heads lie one
/// below the other: rows [stack·rows, (stack+1)·rows) or, in the transpose, the entries whose index
/// is in [stack·others, (stack+1)·others) of each list.
struct EdgeLists {
  const int* indptr;
  const int* indices;
  const int* permutation;  // of the transpose: each entry's place in the pattern; else null
  int rows, others;        // of one stack: lists, and what indices point to
  std::int64_t stacks;     // 1, the heads or the heads of all batches
  unsigned cut;            // 0: no list is long

  __device__ std::int64_t stack_of(std::int64_t b, std::int64_t h, std::int64_t heads) const {
    return stacks == 1 ? 0 : stacks == heads ? h : b * heads + h;
  }
};

/// Entries [begin, end) of a list.
struct EdgeRange {
  unsigned begin, end;
};

/// The first place in [begin, end) whose index is at least `least_index`.
__device__ inline unsigned first_edge(const int* indices, EdgeRange range, std::int64_t index) {
  while (range.begin < range.end) {
    const unsigned middle = range.begin + (range.end - range.begin) / 2;
    if (indices[middle] < index) {
      range.begin = middle + 1;
    } else {
      range.end = middle;
    }
  }
  return range.begin;
}

__device__ inline EdgeRange edges_of(const EdgeLists& a, std::int64_t row, std::int64_t stack) {
  const bool turned = a.permutation != nullptr;
  const std::int64_t r = turned ? row : stack * a.rows + row;
  EdgeRange range{static_cast<unsigned>(a.indptr[r]), static_cast<unsigned>(a.indptr[r + 1])};
  if (turned && a.stacks > 1) {
    const unsigned first = first_edge(a.indices, range, stack * a.others);
    range.end = first_edge(a.indices, {first, range.end}, (stack + 1) * a.others);
    range.begin = first;
  }
  return range;
}

/// Calls body(row, range, first, warps, together) for the lists of this thread block: `first` is
/// the number of this warp among the `warps` that share the list, `together` whether these are all
/// of the block's, which then call it together.
template <class F>
__device__ __forceinline__ void for_edge_lists(const EdgeLists& a, std::int64_t stack,
                                               const F& body) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kEdgeWarps;
  const int passes = a.cut == 0 ? 1 : 1 + kEdgeWarps;
  for (int pass = 0; pass < passes; ++pass) {
    const std::int64_t row = row0 + (pass == 0 ? warp : pass - 1);
    if (row >= a.rows) continue;
    const EdgeRange range = edges_of(a, row, stack);
    if (a.cut != 0 && (range.end - range.begin > a.cut) != (pass != 0)) continue;
    body(row, range, pass == 0 ? 0 : warp, pass == 0 ? 1 : kEdgeWarps, pass != 0);
  }
}

/// The lanes of a group, and the place of the calling one.
struct EdgeGroup {
  int lanes, g, base;  // lanes, number of this one, the group's first in the warp
  int groups, number;  // groups of a warp, number of this one

  __device__ explicit EdgeGroup(int log_lanes) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    lanes = 1 << log_lanes;
    g = lane & (lanes - 1);
    base = lane - g;
    groups = 32 >> log_lanes;
    number = lane >> log_lanes;
  }
};

/// Adds ⟨x, rows[k]⟩ of this lane's part of the depth to sums[k].
template <int V, class T>
__device__ __forceinline__ void edge_dots(const T* x, const T* (&rows)[kEdges], std::int64_t depth,
                                          const EdgeGroup& group, Sum<T>* sums) {
#pragma unroll 1
  for (std::int64_t d = group.g * V; d < depth; d += group.lanes * V) {
    Pack<T, V> v[kEdges];
    const Pack<T, V> u = load_pack<V>(x + d);
#pragma unroll
    for (int k = 0; k < kEdges; ++k) v[k] = load_pack<V>(rows[k] + d);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const Sum<T> factor = widen(u.at[i]);
#pragma unroll
      for (int k = 0; k < kEdges; ++k) sums[k] += factor * widen(v[k].at[i]);
    }
  }
}

/// sums = sums·factor + Σ_k weights[k]·rows[k] over the first `count` rows, for this lane's
/// columns, of which the first is in [column0, depth).
template <int V, class T>
__device__ __forceinline__ void add_edges(Sum<T> (&sums)[kEdgeColumns], Sum<T> factor,
                                          const Sum<T> (&weights)[kEdges], const T* (&rows)[kEdges],
                                          int count, std::int64_t column0, std::int64_t depth,
                                          const EdgeGroup& group) {
#pragma unroll
  for (int tile = 0; tile < kEdgeColumns / V; ++tile) {
    const std::int64_t c = column0 + (tile * group.lanes + group.g) * V;
    if (c >= depth) break;
    Sum<T>* at = sums + tile * V;
#pragma unroll
    for (int i = 0; i < V; ++i) at[i] *= factor;
#pragma unroll
    for (int k = 0; k < kEdges; ++k) {
      if (k < count) {
        const Pack<T, V> v = load_pack<V>(rows[k] + c);
#pragma unroll
        for (int i = 0; i < V; ++i) at[i] += weights[k] * widen(v.at[i]);
      }
    }
  }
}

/// Stores sums·factor in this lane's columns of `out`.
template <int V, class T>
__device__ __forceinline__ void store_edges(const Sum<T> (&sums)[kEdgeColumns], Sum<T> factor,
                                            T* out, std::int64_t column0, std::int64_t depth,
                                            const EdgeGroup& group) {
#pragma unroll
  for (int tile = 0; tile < kEdgeColumns / V; ++tile) {
    const std::int64_t c = column0 + (tile * group.lanes + group.g) * V;
    if (c >= depth) break;
    Pack<T, V> pack;
#pragma unroll
    for (int i = 0; i < V; ++i) pack.at[i] = narrow<T>(sums[tile * V + i] * factor);
    store_pack<V>(out + c, pack);
  }
}

}  // namespace gossamer::cuda
