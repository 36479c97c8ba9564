#pragma once

// Dot products of a few tokens with rows of a dense matrix: all of them, or those that a list
// names. A warp has a row and reads 16 bytes of it a lane; the lanes' sums are added by shuffles in
// a fixed order. The tokens come from L1.

#include "base/kernels/epilogue.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

template <class T>
struct ActivationDotArgs {
  const T* table;
  std::int64_t stride, depth;
  const int* rows;   // null: all `count`
  const int* found;  // how many rows are listed
  std::int64_t count;
  const T* x;  // [tokens, depth], rows x_stride apart
  std::int64_t x_stride, tokens;
  bool wide;     // rows of both begin at multiples of 16 bytes
  Sum<T>* dots;  // [tokens, ld]
  std::int64_t ld;
  bool multiply;     // what is there by the sum; else dots = activation(sum)
  Finish<T> finish;  // its activation
};

inline constexpr int kDotThreads = 256;

template <class T, int N>
__global__ void __launch_bounds__(kDotThreads) activation_dot(const ActivationDotArgs<T> a) {
  using S = Sum<T>;
  constexpr int V = 16 / static_cast<int>(sizeof(T));
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * (kDotThreads / 32) + thread / 32;
  if (i >= (a.rows == nullptr ? a.count : *a.found)) return;  // the same for a warp
  const T* row = a.table + (a.rows == nullptr ? i : a.rows[i]) * a.stride;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * N; first < a.tokens;
       first += static_cast<std::int64_t>(gridDim.y) * N) {
    const int tokens = static_cast<int>(least(static_cast<std::int64_t>(N), a.tokens - first));
    const T* x = a.x + first * a.x_stride;
    S sums[N] = {};
#pragma unroll 2
    for (std::int64_t j = lane * V; j < a.depth; j += 32 * V) {
      const auto read = [&](const T* p, S(&to)[V]) {
        if (a.wide && j + V <= a.depth) {
          const Pack<T, V> pack = load_pack<V>(p + j);
#pragma unroll
          for (int v = 0; v < V; ++v) to[v] = widen(pack.at[v]);
        } else {
#pragma unroll
          for (int v = 0; v < V; ++v) to[v] = j + v < a.depth ? widen(p[j + v]) : S(0);
        }
      };
      S w[V];
      read(row, w);
#pragma unroll
      for (int t = 0; t < N; ++t) {
        if (N > 1 && t >= tokens) continue;
        S y[V];
        read(x + t * a.x_stride, y);
#pragma unroll
        for (int v = 0; v < V; ++v) sums[t] += w[v] * y[v];
      }
    }
    const S total = reduce_many(sums, 32, lane);
    const int t = summand_of<N>(lane);
    if (lane < N && t < tokens) {
      S& to = a.dots[(first + t) * a.ld + i];
      to = a.multiply ? to * total : a.finish.activate(total);
    }
  }
}

}  // namespace gossamer::cuda
