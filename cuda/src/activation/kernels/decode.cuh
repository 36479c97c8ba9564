#pragma once

// Weighted sums of rows of a table that each token names by itself, and what their gradients need
// beside the products with a CSR matrix that the names and weights make.
//
// A thread block has a token and 32 lanes of 16 bytes of columns; its warps share the token's
// entries, each a run of them, and their sums are added in the order of the warps. So 64 entries
// are eight loads of 16 bytes a thread, four of which are in flight together. Rows of half
// precision come from L2 or memory at 2 bytes a product; a warp issues some 40 instructions for 256
// of these.

#include "base/kernels/numbers.cuh"
#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

/// Indices [tokens, k] into `count` places; int64 if `wide`.
struct DecodeIndices {
  const void* data;
  bool wide;
  std::int64_t stride, k;
  std::int64_t count;

  /// -1 for one that is out of range.
  __device__ int at(std::int64_t t, std::int64_t i) const {
    const std::int64_t place = t * stride + i;
    const std::int64_t index =
        wide ? static_cast<const std::int64_t*>(data)[place] : static_cast<const int*>(data)[place];
    return index >= 0 && index < count ? static_cast<int>(index) : -1;
  }
};

template <class T>
struct DecodeSumArgs {
  DecodeIndices rows;
  const T* values;  // [tokens, k]
  std::int64_t values_stride;
  const T* table;
  std::int64_t stride, cols;
  bool wide;      // rows begin at multiples of 16 bytes
  const T* bias;  // [cols] or null
  std::int64_t tokens;
  T* out;
  std::int64_t out_stride;
  float nan;
};

inline constexpr int kDecodeWarps = 8, kDecodeThreads = 32 * kDecodeWarps;

template <class T>
__global__ void __launch_bounds__(kDecodeThreads) decode_sum(const DecodeSumArgs<T> a) {
  using S = Sum<T>;
  constexpr int V = 16 / static_cast<int>(sizeof(T)), kColumns = 32 * V;
  __shared__ __align__(16) S pieces[kDecodeWarps][kColumns];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const std::int64_t col0 = static_cast<std::int64_t>(blockIdx.x) * kColumns, col = col0 + lane * V;
  const auto width = static_cast<int>(least<std::int64_t>(V, a.cols - col));
  // Lanes beyond the last column read columns before it; their results are not written.
  const std::int64_t from = width > 0 ? col : col0;
  const std::int64_t k = a.rows.k;
  for (std::int64_t t = blockIdx.y; t < a.tokens; t += gridDim.y) {
    S sums[V] = {};
    const std::int64_t end = k * (warp + 1) / kDecodeWarps;
#pragma unroll 4
    for (std::int64_t i = k * warp / kDecodeWarps; i < end; ++i) {
      const int index = a.rows.at(t, i);
      const bool inside = index >= 0;
      const S weight = inside ? widen(a.values[t * a.values_stride + i]) : S(a.nan);
      const T* row = a.table + (inside ? index : 0) * a.stride + from;
      Pack<T, V> w = {};
      if (inside && a.wide && width == V) {
        w = load_pack<V>(row);
      } else if (inside) {
#pragma unroll
        for (int v = 0; v < V; ++v) w.at[v] = row[largest(least(v, width - 1), 0)];
      }
#pragma unroll
      for (int v = 0; v < V; ++v) sums[v] += weight * widen(w.at[v]);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) pieces[warp][lane * V + v] = sums[v];
    __syncthreads();  // orders the writes of the pieces before their reads
    for (int c = thread; c < kColumns && col0 + c < a.cols; c += kDecodeThreads) {
      S sum = pieces[0][c];
#pragma unroll
      for (int w = 1; w < kDecodeWarps; ++w) sum += pieces[w][c];
      if (a.bias != nullptr) sum += widen(a.bias[col0 + c]);
      a.out[t * a.out_stride + col0 + c] = narrow<T>(sum);
    }
    __syncthreads();  // orders these reads before the next token's writes
  }
}

/// The entries as a CSR matrix: indptr [tokens+1] and indices [tokens·k], with `stray` for one that
/// is out of range.
struct DecodePatternArgs {
  DecodeIndices rows;
  std::int64_t tokens;
  int stray;
  int* indptr;
  int* indices;
};

static __global__ void __launch_bounds__(kDecodeThreads) decode_pattern(const DecodePatternArgs a) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kDecodeThreads;
#pragma unroll 1
  for (std::int64_t p = static_cast<std::int64_t>(blockIdx.x) * kDecodeThreads + threadIdx.x;
       p <= a.tokens * a.rows.k || p <= a.tokens; p += step) {
    if (p <= a.tokens) a.indptr[p] = static_cast<int>(p * a.rows.k);
    if (p >= a.tokens * a.rows.k) continue;
    const int index = a.rows.at(p / a.rows.k, p % a.rows.k);
    a.indices[p] = index < 0 ? a.stray : index;
  }
}

/// to [tokens, k] = from, or `stray` where an index is out of range; without `from`, only there.
template <class U>
struct DecodeValuesArgs {
  DecodeIndices rows;
  std::int64_t tokens;
  const U* from;  // or null
  std::int64_t stride;
  U* to;
  U stray;
};

template <class U>
__global__ void __launch_bounds__(kDecodeThreads) decode_values(const DecodeValuesArgs<U> a) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kDecodeThreads;
#pragma unroll 1
  for (std::int64_t p = static_cast<std::int64_t>(blockIdx.x) * kDecodeThreads + threadIdx.x;
       p < a.tokens * a.rows.k; p += step) {
    const std::int64_t t = p / a.rows.k, i = p % a.rows.k;
    if (a.from != nullptr) {
      a.to[p] = a.from[t * a.stride + i];
    } else if (a.rows.at(t, i) < 0) {
      a.to[p] = a.stray;
    }
  }
}

/// Zeros but for out[t, indices[t, i]] = from[t, i]; all `stray` in a row with an index that is out
/// of range. A thread block has a row.
template <class U>
struct DecodeScatterArgs {
  DecodeIndices columns;
  std::int64_t tokens;
  const U* from;
  std::int64_t stride;
  U* out;
  std::int64_t out_stride;
  U stray;
};

template <class U>
__global__ void __launch_bounds__(kDecodeThreads) decode_scatter(const DecodeScatterArgs<U> a) {
  const int thread = static_cast<int>(threadIdx.x);
  for (std::int64_t t = blockIdx.x; t < a.tokens; t += gridDim.x) {
    int lost = 0;
#pragma unroll 1
    for (std::int64_t i = thread; i < a.columns.k; i += kDecodeThreads) {
      if (a.columns.at(t, i) < 0) lost = 1;
    }
    const bool stray = __syncthreads_or(lost) != 0;
    U* const row = a.out + t * a.out_stride;
    const U fill = stray ? a.stray : U{0};
#pragma unroll 2
    for (std::int64_t c = thread; c < a.columns.count; c += kDecodeThreads) row[c] = fill;
    __syncthreads();  // orders these writes before those of the values
    if (stray) continue;
#pragma unroll 1
    for (std::int64_t i = thread; i < a.columns.k; i += kDecodeThreads) {
      row[a.columns.at(t, i)] = a.from[t * a.stride + i];
    }
  }
}

}  // namespace gossamer::cuda
