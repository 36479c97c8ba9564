#pragma once

// The gradient of attention over the entries of a CSR pattern: one pass over the lists of the
// pattern, for dq, and one over those of its transpose, for dk and dv. Both compute the scores
// anew, so that each sum is one warp's, in the order of its list.
//
// For D = Dv = 64 in float32, 8 entries a step: 18 LDG.128, 64 FMA for the two products, 15
// shuffles, 2 MUFU and 32 (dk and dv: 64) FMA for the sums.

#include "attention/csr/kernels/csr_edges.cuh"

namespace gossamer::cuda {

/// By rows of the pattern: x = q, y = do, other_x = k, other_y = v, dx = dq; delta = ⟨do, o⟩ - dlse
/// is written. By `columns`: x = k, y = v, other_x = q, other_y = do, dx = dk, dy = dv; delta is
/// read. With w = e^(score - lse) and g = w·(⟨do, v⟩ - delta): dq = scale·Σ g·k, dk = scale·Σ g·q,
/// dv = Σ w·do.
template <class T>
struct CsrAttentionBackwardArgs {
  bool columns;
  EdgeLists lists;
  std::int64_t pairs, heads, group;  // batch·(heads of x); heads of queries
  std::int64_t queries;
  EdgeRows<const T> x, y, other_x, other_y, o;
  EdgeRows<T> dx, dy;
  const Sum<T>* lse;   // [batch·heads, queries]
  const Sum<T>* dlse;  // the same, or null
  Sum<T>* delta;       // the same
  Sum<T>* g;           // by rows: [batch·heads / stacks, nnz]; null where not wanted
  std::int64_t nnz;
  EdgeScores<T> score;
  std::int64_t depth, depth_v;
  int log_group;
};

template <class T, int V>
__global__ void __launch_bounds__(kEdgeThreads, sizeof(T) == 8 ? 2 : 3)
    csr_attention_lists(CsrAttentionBackwardArgs<T> a) {
  using S = Sum<T>;
  __shared__ S shared_sums[kEdgeWarps][2][kEdgeTile];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const EdgeGroup group(a.log_group);
  // Lanes 2i and 2i + 1 of a group hold the two products of one entry.
  const int summand = summand_of<2 * kEdges>(group.g), own = summand % kEdges;
  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.z) * kEdgeTile;
  const std::int64_t members = a.columns ? a.group : 1;
  const std::int64_t own_heads = a.columns ? a.heads / a.group : a.heads;
  for (std::int64_t pair = blockIdx.y; pair < a.pairs; pair += gridDim.y) {
    const std::int64_t b = pair / own_heads, own_head = pair % own_heads;
    const std::int64_t first_head = a.columns ? own_head * a.group : own_head;
    for_edge_lists(
        a.lists, a.lists.stack_of(b, first_head, a.heads),
        [&](std::int64_t row, EdgeRange of_first, int first, int warps, bool together) {
          const T* x = a.x.at(b, own_head) + row * a.x.row;
          const T* y = a.y.at(b, own_head) + row * a.y.row;
          S delta(0);
          if (!a.columns) {
            const T* o = a.o.at(b, own_head) + row * a.o.row;
            for (std::int64_t d = lane; d < a.depth_v; d += 32) delta += widen(y[d]) * widen(o[d]);
            for (int mask = 1; mask < 32; mask *= 2) {
              delta += __shfl_xor_sync(kAllLanes, delta, mask);
            }
            const std::int64_t place = pair * a.queries + row;
            if (a.dlse != nullptr) delta -= a.dlse[place];
            if (lane == 0 && first == 0 && column0 == 0) a.delta[place] = delta;
          }
          S sum_x[kEdgeColumns] = {}, sum_y[kEdgeColumns] = {};
          for (std::int64_t member = 0; member < members; ++member) {
            const std::int64_t h = a.columns ? own_head * a.group + member : own_head;
            const std::int64_t other = a.columns ? h : h / a.group;
            const std::int64_t stack = a.lists.stack_of(b, h, a.heads);
            // Heads that share keys may have patterns of their own.
            const EdgeRange range = member == 0 ? of_first : edges_of(a.lists, row, stack);
            const T* other_x = a.other_x.at(b, other);
            const T* other_y = a.other_y.at(b, other);
            const T* bias = a.score.bias == nullptr
                                ? nullptr
                                : a.score.bias + b * a.score.bias_batch + h * a.score.bias_head;
            const std::int64_t places = (b * a.heads + h) * a.queries;
            const auto step = static_cast<unsigned>(group.groups * kEdges);
            for (unsigned at = range.begin + static_cast<unsigned>(first) * step; at < range.end;
                 at += static_cast<unsigned>(warps) * step) {
              const unsigned e = at + static_cast<unsigned>(group.number * kEdges);
              const int count = e < range.end ? static_cast<int>(least(range.end - e, 4u)) : 0;
              const T* xs[kEdges];
              const T* ys[kEdges];
#pragma unroll
              for (int k = 0; k < kEdges; ++k) {
                // Places beyond the last entry stand for that one, and are not counted.
                std::int64_t j = a.lists.indices[least(e + k, range.end - 1)];
                if (a.columns) j -= stack * a.lists.others;
                xs[k] = other_x + j * a.other_x.row;
                ys[k] = other_y + j * a.other_y.row;
              }
              S dots[2 * kEdges] = {};
              if (!a.score.gat) edge_dots<V>(x, xs, a.depth, group, dots);
              edge_dots<V>(y, ys, a.depth_v, group, dots + kEdges);
              const S mine = reduce_many(dots, group.lanes, lane);
              const S theirs = __shfl_xor_sync(kAllLanes, mine, 1);
              S score = summand < kEdges ? mine : theirs;
              const S product = summand < kEdges ? theirs : mine;
              const unsigned p = least(e + own, range.end - 1);
              std::int64_t j = a.lists.indices[p];
              if (a.columns) j -= stack * a.lists.others;
              const std::int64_t entry = a.columns ? a.lists.permutation[p] : p;
              S slope(1);
              if (a.score.gat) {
                score = widen(x[0]) + widen(other_x[j * a.other_x.row]);
                slope = score > S(0) ? S(1) : a.score.slope;
                score *= slope;
              }
              score *= a.score.scale;
              if (bias != nullptr) score += widen(bias[entry]);
              const std::int64_t place = places + (a.columns ? j : row);
              const S lse = a.lse[place];
              const bool counts = own < count && lse != -S(INFINITY);
              const S weight = counts ? exp(score - lse) : S(0);
              const S gradient =
                  counts ? weight * (product - (a.columns ? a.delta[place] : delta)) : S(0);
              if (a.g != nullptr && own < count && group.g < 2 * kEdges && summand < kEdges &&
                  column0 == 0) {
                const std::int64_t set = a.lists.stacks == 1         ? pair
                                         : a.lists.stacks == a.heads ? b
                                                                     : 0;
                a.g[set * a.nnz + entry] = gradient;
              }
              const S coefficient = gradient * slope;
              S of_x[kEdges], of_y[kEdges];
#pragma unroll
              for (int k = 0; k < kEdges; ++k) {
                const int from = group.base + summand_of<2 * kEdges>(k);
                of_x[k] = __shfl_sync(kAllLanes, coefficient, from);
                of_y[k] = __shfl_sync(kAllLanes, weight, from);
              }
              if (a.score.gat) {
#pragma unroll
                for (int k = 0; k < kEdges; ++k) sum_x[0] += k < count ? of_x[k] : S(0);
              } else {
                add_edges<V>(sum_x, S(1), of_x, xs, count, column0, a.depth, group);
              }
              if (a.columns) {
                add_edges<V>(sum_y, S(1), of_y, ys, count, column0, a.depth_v, group);
              }
            }
          }
#pragma unroll
          for (int i = 0; i < kEdgeColumns; ++i) {
            for (int mask = group.lanes; mask < 32; mask *= 2) {
              sum_x[i] += __shfl_xor_sync(kAllLanes, sum_x[i], mask);
              sum_y[i] += __shfl_xor_sync(kAllLanes, sum_y[i], mask);
            }
          }
          if (together) {
            if (group.number == 0) {
#pragma unroll
              for (int i = 0; i < kEdgeColumns; ++i) {
                shared_sums[warp][0][i * 32 + lane] = sum_x[i];
                shared_sums[warp][1][i * 32 + lane] = sum_y[i];
              }
            }
            __syncthreads();  // orders the writes of all warps before warp 0 reads them
            if (warp == 0 && group.number == 0) {
              for (int w = 1; w < kEdgeWarps; ++w) {
#pragma unroll
                for (int i = 0; i < kEdgeColumns; ++i) {
                  sum_x[i] += shared_sums[w][0][i * 32 + lane];
                  sum_y[i] += shared_sums[w][1][i * 32 + lane];
                }
              }
            }
            __syncthreads();  // orders these reads before the writes for the next list
            if (warp != 0) return;
          }
          if (group.number != 0) return;
          T* dx = a.dx.at(b, own_head) + row * a.dx.row;
          if (a.score.gat) {
            if (lane == 0 && column0 == 0) dx[0] = narrow<T>(sum_x[0] * a.score.scale);
          } else {
            store_edges<V>(sum_x, a.score.scale, dx, column0, a.depth, group);
          }
          if (a.columns) {
            store_edges<V>(sum_y, S(1), a.dy.at(b, own_head) + row * a.dy.row, column0, a.depth_v,
                           group);
          }
        });
  }
}

template <class T>
struct CsrAddSetsArgs {
  const Sum<T>* sets;  // [count, size]
  std::int64_t count, size;
  T* out;  // [size]: their sum
};

inline constexpr int kAddSetsThreads = 256;

template <class T>
__global__ void __launch_bounds__(kAddSetsThreads, 4) csr_add_sets(CsrAddSetsArgs<T> a) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kAddSetsThreads + threadIdx.x;
  if (i >= a.size) return;
  Sum<T> sum(0);
  for (std::int64_t set = 0; set < a.count; ++set) sum += a.sets[set * a.size + i];
  a.out[i] = narrow<T>(sum);
}

}  // namespace gossamer::cuda
