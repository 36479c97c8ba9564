#pragma once

// Transposes a CSR matrix by a stable counting sort in four kernels: each block counts the entries
// of its rows by column; for each column, one thread adds up the counts of the blocks; one block
// computes the prefix sums of the columns' totals; and each block places the entries of its rows,
// row after row. The columns of one row are distinct, so the cursors need no atomics, and a
// column's entries end up in the order of rows.
//
// Reads indices twice and values once, and writes as much: (12 + 2·size) bytes an entry. The writes
// fill a sector each where rows are sparse. The counts take 16 bytes for each column and block.

#include "base/kernels/pack.cuh"
#include "base/kernels/scan.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

template <class T>
struct CsrTransposeArgs {
  const int* indptr;
  const int* indices;
  const T* values;
  int rows, cols;
  int block_rows;  // how many rows a block handles
  int blocks;
  int* counts;           // [blocks, cols], scratch
  int* out_indptr;       // [cols+1]
  int* out_indices;      // [nnz]
  T* out_values;         // [nnz]; may be null
  int* out_permutation;  // [nnz]: where each entry came from; may be null
};

inline constexpr int kTransposeThreads = 256;

/// counts[block, c] = the number of entries in column c of the block's rows.
template <class T>
__global__ void __launch_bounds__(kTransposeThreads, 4) csr_transpose_count(CsrTransposeArgs<T> a) {
  int* counts = a.counts + static_cast<std::int64_t>(blockIdx.x) * a.cols;
  for (int c = static_cast<int>(threadIdx.x); c < a.cols; c += kTransposeThreads) counts[c] = 0;
  __syncthreads();  // orders the zeros before the first count
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * a.block_rows;
  const std::int64_t row1 = least<std::int64_t>(row0 + a.block_rows, a.rows);
  if (row0 >= row1) return;
  const std::int64_t end = a.indptr[row1];
  for (std::int64_t p = a.indptr[row0] + static_cast<int>(threadIdx.x); p < end;
       p += kTransposeThreads) {
    atomicAdd(&counts[a.indices[p]], 1);
  }
}

/// counts[block, c] becomes the number of entries in column c before that block's; out_indptr[c+1]
/// = the number of all entries in column c.
template <class T>
__global__ void __launch_bounds__(kTransposeThreads, 4)
    csr_transpose_blocks(CsrTransposeArgs<T> a) {
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kTransposeThreads + threadIdx.x;
  if (c == 0) a.out_indptr[0] = 0;
  if (c >= a.cols) return;
  int before = 0;
#pragma unroll 8
  for (int block = 0; block < a.blocks; ++block) {
    int* count = a.counts + static_cast<std::int64_t>(block) * a.cols + c;
    const int here = *count;
    *count = before;
    before += here;
  }
  a.out_indptr[c + 1] = before;
}

template <class T>
__global__ void __launch_bounds__(kTransposeThreads, 4) csr_transpose_fill(CsrTransposeArgs<T> a) {
  int* next = a.counts + static_cast<std::int64_t>(blockIdx.x) * a.cols;
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * a.block_rows;
  const std::int64_t row1 = least<std::int64_t>(row0 + a.block_rows, a.rows);
  for (std::int64_t row = row0; row < row1; ++row) {
    const std::int64_t end = a.indptr[row + 1];
    for (std::int64_t p = a.indptr[row] + static_cast<int>(threadIdx.x); p < end;
         p += kTransposeThreads) {
      const int c = a.indices[p];
      const int before = next[c];
      next[c] = before + 1;
      const std::int64_t to = static_cast<std::int64_t>(a.out_indptr[c]) + before;
      a.out_indices[to] = static_cast<int>(row);
      if (a.out_values != nullptr) a.out_values[to] = a.values[p];
      if (a.out_permutation != nullptr) a.out_permutation[to] = static_cast<int>(p);
    }
    __syncthreads();  // orders this row's updates of the cursors before the next row's
  }
}

/// The same for rows that may have a column several times: a warp places the entries of a block's
/// rows, 32 at a time, and each lane counts those before it that have its column.
template <class T>
__global__ void __launch_bounds__(32) csr_transpose_place(CsrTransposeArgs<T> a) {
  const int lane = static_cast<int>(threadIdx.x);
  int* next = a.counts + static_cast<std::int64_t>(blockIdx.x) * a.cols;
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * a.block_rows;
  const std::int64_t row1 = least<std::int64_t>(row0 + a.block_rows, a.rows);
  for (std::int64_t row = row0; row < row1; ++row) {
    const std::int64_t end = a.indptr[row + 1];
    for (std::int64_t base = a.indptr[row]; base < end; base += 32) {
      const std::int64_t p = base + lane;
      const bool inside = p < end;
      const int c = inside ? a.indices[p] : -1;
      const unsigned same = __match_any_sync(kAllLanes, c);
      const int rank = __popc(same & ((1u << lane) - 1));
      const int before = inside ? next[c] : 0;
      __syncwarp();  // orders the reads of the cursors before their updates
      if (inside && rank == 0) next[c] = before + __popc(same);
      __syncwarp();  // orders the updates before the next reads
      if (!inside) continue;
      const std::int64_t to = static_cast<std::int64_t>(a.out_indptr[c]) + before + rank;
      a.out_indices[to] = static_cast<int>(row);
      if (a.out_values != nullptr) a.out_values[to] = a.values[p];
      if (a.out_permutation != nullptr) a.out_permutation[to] = static_cast<int>(p);
    }
  }
}

}  // namespace gossamer::cuda
