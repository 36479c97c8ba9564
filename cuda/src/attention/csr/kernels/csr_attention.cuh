#pragma once

// Attention over the entries of a CSR pattern: for four entries at a time, each group of lanes
// computes the scores and their powers of e, softmax as the scores come, and adds the weighted
// values to what its lanes hold; groups, and warps that share a row, are merged in a fixed order.
//
// For D = Dv = 64 in float32 two groups of 16 lanes take 8 entries a step: 9 LDG.128, 32 FMA for
// the scores, 9 shuffles, 2 MUFU and 36 FMA for the values. Rows of K and V that are in L2 are 512
// bytes an entry, which at some 40 bytes a clock and SM is a bound of 13 clocks; the instructions
// take about 3.

#include "attention/csr/kernels/csr_edges.cuh"

namespace gossamer::cuda {

template <class T>
struct CsrAttentionArgs {
  EdgeLists lists;
  std::int64_t pairs, heads, group;  // batch·heads; heads of queries to one of keys
  EdgeRows<const T> q, k, v;
  EdgeRows<T> o;
  Sum<T>* lse;  // [pairs, rows]
  EdgeScores<T> score;
  std::int64_t depth, depth_v;
  int log_group;
};

/// A running softmax over some of the scores, and the weighted values for a lane's columns.
template <class S>
struct EdgeState {
  S most = -S(INFINITY), total = S(0);
  S sums[kEdgeColumns] = {};

  /// The factor for what has been summed up before `next` became the largest score.
  __device__ static S factor(S before, S next) {
    return before == -S(INFINITY) ? S(0) : exp(before - next);
  }
  __device__ void merge(S other_most, S other_total, const S (&other)[kEdgeColumns]) {
    const S next = larger_or_nan(most, other_most);
    const S mine = factor(most, next), theirs = factor(other_most, next);
    total = total * mine + other_total * theirs;
#pragma unroll
    for (int i = 0; i < kEdgeColumns; ++i) sums[i] = sums[i] * mine + other[i] * theirs;
    most = next;
  }
};

template <class T, int V>
__global__ void __launch_bounds__(kEdgeThreads, 4) csr_attention_rows(CsrAttentionArgs<T> a) {
  using S = Sum<T>;
  __shared__ S shared_state[kEdgeWarps][2];
  __shared__ S shared_sums[kEdgeWarps][kEdgeTile];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const EdgeGroup group(a.log_group);
  const int own = summand_of<kEdges>(group.g);  // which of four entries this lane weighs
  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.z) * kEdgeTile;
  for (std::int64_t pair = blockIdx.y; pair < a.pairs; pair += gridDim.y) {
    const std::int64_t b = pair / a.heads, h = pair % a.heads;
    const T* k_rows = a.k.at(b, h / a.group);
    const T* v_rows = a.v.at(b, h / a.group);
    const T* bias = a.score.bias == nullptr
                        ? nullptr
                        : a.score.bias + b * a.score.bias_batch + h * a.score.bias_head;
    for_edge_lists(
        a.lists, a.lists.stack_of(b, h, a.heads),
        [&](std::int64_t row, EdgeRange range, int first, int warps, bool together) {
          const T* q = a.q.at(b, h) + row * a.q.row;
          EdgeState<S> state;
          const auto step = static_cast<unsigned>(group.groups * kEdges);
          for (unsigned at = range.begin + static_cast<unsigned>(first) * step; at < range.end;
               at += static_cast<unsigned>(warps) * step) {
            const unsigned e = at + static_cast<unsigned>(group.number * kEdges);
            const int count = e < range.end ? static_cast<int>(least(range.end - e, 4u)) : 0;
            const T* keys[kEdges];
            const T* values[kEdges];
#pragma unroll
            for (int k = 0; k < kEdges; ++k) {
              // Places beyond the last entry stand for that one, and are not counted.
              const std::int64_t j = a.lists.indices[least(e + k, range.end - 1)];
              keys[k] = k_rows + j * a.k.row;
              values[k] = v_rows + j * a.v.row;
            }
            const unsigned p = least(e + own, range.end - 1);
            S score;
            if (a.score.gat) {
              const S x = widen(q[0]) + widen(k_rows[a.lists.indices[p] * a.k.row]);
              score = x > S(0) ? x : x * a.score.slope;
            } else {
              S dots[kEdges] = {};
              edge_dots<V>(q, keys, a.depth, group, dots);
              score = reduce_many(dots, group.lanes, lane);
            }
            score *= a.score.scale;
            if (bias != nullptr) score += widen(bias[p]);
            if (own >= count) score = -S(INFINITY);
            S most = score;
            most = larger_or_nan(most, __shfl_xor_sync(kAllLanes, most, 1));
            most = larger_or_nan(most, __shfl_xor_sync(kAllLanes, most, 2));
            most = larger_or_nan(state.most, most);
            const S factor = EdgeState<S>::factor(state.most, most);
            const S weight = own < count ? EdgeState<S>::factor(score, most) : S(0);
            S total = weight + __shfl_xor_sync(kAllLanes, weight, 1);
            total += __shfl_xor_sync(kAllLanes, total, 2);
            state.total = state.total * factor + total;
            state.most = most;
            S weights[kEdges];
#pragma unroll
            for (int k = 0; k < kEdges; ++k) {
              weights[k] = __shfl_sync(kAllLanes, weight, group.base + summand_of<kEdges>(k));
            }
            add_edges<V>(state.sums, factor, weights, values, count, column0, a.depth_v, group);
          }
          for (int mask = group.lanes; mask < 32; mask *= 2) {
            S sums[kEdgeColumns];
#pragma unroll
            for (int i = 0; i < kEdgeColumns; ++i) {
              sums[i] = __shfl_xor_sync(kAllLanes, state.sums[i], mask);
            }
            const S most = __shfl_xor_sync(kAllLanes, state.most, mask);
            state.merge(most, __shfl_xor_sync(kAllLanes, state.total, mask), sums);
          }
          if (together) {
            if (group.number == 0) {
              if (lane == 0) {
                shared_state[warp][0] = state.most;
                shared_state[warp][1] = state.total;
              }
#pragma unroll
              for (int i = 0; i < kEdgeColumns; ++i)
                shared_sums[warp][i * 32 + lane] = state.sums[i];
            }
            __syncthreads();  // orders the writes of all warps before warp 0 reads them
            if (warp == 0 && group.number == 0) {
              for (int w = 1; w < kEdgeWarps; ++w) {
                S sums[kEdgeColumns];
#pragma unroll
                for (int i = 0; i < kEdgeColumns; ++i) sums[i] = shared_sums[w][i * 32 + lane];
                state.merge(shared_state[w][0], shared_state[w][1], sums);
              }
            }
            __syncthreads();  // orders these reads before the writes for the next list
            if (warp != 0) return;
          }
          if (group.number != 0) return;
          const bool none = state.most == -S(INFINITY);
          store_edges<V>(state.sums, none ? S(0) : S(1) / state.total, a.o.at(b, h) + row * a.o.row,
                         column0, a.depth_v, group);
          if (lane == 0 && column0 == 0) {
            a.lse[pair * a.lists.rows + row] = none ? state.most : state.most + log(state.total);
          }
        });
  }
}

}  // namespace gossamer::cuda
