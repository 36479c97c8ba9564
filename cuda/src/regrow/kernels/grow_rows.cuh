#pragma once

// The steps of a drop and growth of a sparse matrix, between which it is a matrix of bytes. A warp
// has a row. Column indices out of range are skipped: the structure of a matrix on a GPU is not
// checked when it is made.

#include "formats/csr/kernels/csr_dense.cuh"
#include "prune/kernels/keys.cuh"

namespace gossamer::cuda {

inline constexpr int kGrowWarps = 8, kGrowThreads = 32 * kGrowWarps;

struct GrowRowsArgs {
  const int* indptr;
  const int* indices;
  int rows;
  std::int64_t cols;
  const std::uint8_t* keep;  // of the entries; null: all count
  std::uint8_t* places;      // [rows][cols]
};

__device__ inline std::int64_t grow_row() {
  return static_cast<std::int64_t>(blockIdx.x) * kGrowWarps + static_cast<int>(threadIdx.x) / 32;
}

/// places = value at the entries that count.
static __global__ void __launch_bounds__(kGrowThreads)
    grow_mark_entries(GrowRowsArgs a, std::uint8_t value) {
  const std::int64_t row = grow_row();
  if (row >= a.rows) return;
  const int end = a.indptr[row + 1];
  for (int p = a.indptr[row] + static_cast<int>(threadIdx.x) % 32; p < end; p += 32) {
    const auto column = static_cast<unsigned>(a.indices[p]);
    if (column >= a.cols || (a.keep != nullptr && a.keep[p] == 0)) continue;
    a.places[row * a.cols + column] = value;
  }
}

/// src[q] = p for each old entry p whose place is marked: the new entry q.
static __global__ void __launch_bounds__(kGrowThreads)
    grow_trace_entries(GrowRowsArgs a, const int* indptr, const int* indices, int* src) {
  const std::int64_t row = grow_row();
  if (row >= a.rows) return;
  const int end = a.indptr[row + 1], first = indptr[row], last = indptr[row + 1];
  for (int p = a.indptr[row] + static_cast<int>(threadIdx.x) % 32; p < end; p += 32) {
    const auto column = static_cast<unsigned>(a.indices[p]);
    if (column >= a.cols || a.places[row * a.cols + column] == 0) continue;
    const int q = first_from(indices, first, last, column);
    if (q < last) src[q] = p;
  }
}

/// An array that follows the entries: its elements' bits, and what they were.
template <class U>
struct GrowMoved {
  U* to;
  const U* from;
  U value;  // at new entries
  std::int64_t width;
};

template <class U>
__global__ void __launch_bounds__(kGrowThreads)
    grow_move(const int* __restrict__ src, std::int64_t count, GrowMoved<U> array) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kGrowThreads + static_cast<int>(threadIdx.x);
  if (i >= count * array.width) return;
  const std::int64_t q = array.width == 1 ? i : i / array.width;
  const int p = src[q];
  array.to[i] = p < 0 ? array.value : array.from[p * array.width + (i - q * array.width)];
}

/// norms[b] = the sum of magnitudes of a block, in order. A thread has a block.
template <class S>
__global__ void __launch_bounds__(kGrowThreads)
    grow_block_norms(const void* blocks, DType type, std::int64_t count, std::int64_t size,
                     S* norms) {
  const std::int64_t b =
      static_cast<std::int64_t>(blockIdx.x) * kGrowThreads + static_cast<int>(threadIdx.x);
  if (b >= count) return;
  S sum = 0;
#pragma unroll 4
  for (std::int64_t i = 0; i < size; ++i) sum += fabs(operand<S>(blocks, type, b * size + i));
  norms[b] = sum;
}

}  // namespace gossamer::cuda
