#pragma once

// Weighted sums of the rows of a dense matrix that a list names. A thread has 16 bytes of columns
// for N tokens; neighbouring threads read neighbouring columns, so each row is read once, in full
// lines. The list is cut into `splits` pieces, one for each block in y, so that memory has enough
// to do; a second kernel adds the pieces up in their order. There are no atomics.
//
// 4096² in half precision with half of the rows are 16.8 MB: 3.9 µs at 4.3 TB/s.

#include "base/kernels/epilogue.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

template <class T>
struct ActivationSumArgs {
  const T* table;
  std::int64_t stride, cols;
  const int* rows;
  const int* found;
  const Sum<T>* weights;  // [tokens, ld]
  std::int64_t ld, tokens;
  int splits;
  bool wide;       // rows begin at multiples of 16 bytes
  Sum<T>* pieces;  // [splits, tokens, cols]
};

inline constexpr int kSumThreads = 128;

template <class T, int N>
__global__ void __launch_bounds__(kSumThreads) activation_sum(const ActivationSumArgs<T> a) {
  using S = Sum<T>;
  constexpr int V = 16 / static_cast<int>(sizeof(T));
  const std::int64_t col = (static_cast<std::int64_t>(blockIdx.x) * kSumThreads + threadIdx.x) * V;
  if (col >= a.cols) return;
  const int width = static_cast<int>(least(static_cast<std::int64_t>(V), a.cols - col));
  const std::int64_t found = *a.found, split = blockIdx.y;
  const int begin = static_cast<int>(found * split / a.splits);
  const int end = static_cast<int>(found * (split + 1) / a.splits);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.z) * N; first < a.tokens;
       first += static_cast<std::int64_t>(gridDim.z) * N) {
    const int tokens = static_cast<int>(least(static_cast<std::int64_t>(N), a.tokens - first));
    const S* weights = a.weights + first * a.ld;
    S sums[N][V] = {};
#pragma unroll 4
    for (int i = begin; i < end; ++i) {
      const T* row = a.table + a.rows[i] * a.stride + col;
      S w[V];
      if (a.wide && width == V) {
        const Pack<T, V> pack = load_pack<V>(row);
#pragma unroll
        for (int v = 0; v < V; ++v) w[v] = widen(pack.at[v]);
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) w[v] = v < width ? widen(row[v]) : S(0);
      }
#pragma unroll
      for (int t = 0; t < N; ++t) {
        const S weight = N == 1 || t < tokens ? weights[t * a.ld + i] : S(0);
#pragma unroll
        for (int v = 0; v < V; ++v) sums[t][v] += weight * w[v];
      }
    }
#pragma unroll
    for (int t = 0; t < N; ++t) {
      if (N > 1 && t >= tokens) continue;
      S* to = a.pieces + (split * a.tokens + first + t) * a.cols + col;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (v < width) to[v] = sums[t][v];
      }
    }
  }
}

template <class T>
struct ActivationFinishArgs {
  const Sum<T>* pieces;  // [splits, tokens, cols]
  std::int64_t tokens, cols;
  int splits;
  T* out;
  std::int64_t stride;
  Finish<T> finish;
  Sum<T>* kept;     // [tokens, cols] or null: becomes the sum, to which it is added before,
  const int* anew;  // unless this is not 0
};

template <class T>
__global__ void __launch_bounds__(kSumThreads) activation_finish(const ActivationFinishArgs<T> a) {
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (col >= a.cols) return;
  for (std::int64_t t = blockIdx.y; t < a.tokens; t += gridDim.y) {
    Sum<T> sum(0);
    for (int s = 0; s < a.splits; ++s) sum += a.pieces[(s * a.tokens + t) * a.cols + col];
    if (a.kept != nullptr) {
      Sum<T>* const kept = a.kept + t * a.cols + col;
      if (*a.anew == 0) sum += *kept;
      *kept = sum;
    }
    a.finish.store(a.out + t * a.stride + col, sum, col);
  }
}

}  // namespace gossamer::cuda
