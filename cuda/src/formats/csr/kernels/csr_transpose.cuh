#pragma once

// The transpose of a CSR matrix in four kernels, a stable counting sort: each block counts the
// columns of its rows, a thread a column adds the blocks' counts up, one block scans the columns'
// totals, and each block places its rows' entries row after row. Columns of one row differ, so that
// the cursors need no atomics, and entries end in row order.
//
// Reads indices twice and values once, writes as much: (12 + 2·size) bytes an entry, the writes in
// sectors of their own where rows are sparse, and 16 bytes a column and block for the counts.

#include "base/kernels/pack.cuh"
#include "base/kernels/scan.cuh"

namespace gossamer::cuda {

template <class T>
struct CsrTransposeArgs {
  const int* indptr;
  const int* indices;
  const T* values;
  int rows, cols;
  int block_rows;  // rows of a block
  int blocks;
  int* counts;           // [blocks, cols], scratch
  int* out_indptr;       // [cols+1]
  int* out_indices;      // [nnz]
  T* out_values;         // [nnz]; may be null
  int* out_permutation;  // [nnz]: where each entry came from; may be null
};

inline constexpr int kTransposeThreads = 256;

/// counts[block, c] = entries of the block's rows in column c.
template <class T>
__global__ void __launch_bounds__(kTransposeThreads, 4) csr_transpose_count(CsrTransposeArgs<T> a) {
  int* counts = a.counts + static_cast<std::int64_t>(blockIdx.x) * a.cols;
  for (int c = static_cast<int>(threadIdx.x); c < a.cols; c += kTransposeThreads) counts[c] = 0;
  __syncthreads();  // zeros before the first count
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * a.block_rows;
  const std::int64_t row1 = least<std::int64_t>(row0 + a.block_rows, a.rows);
  if (row0 >= row1) return;
  const std::int64_t end = a.indptr[row1];
  for (std::int64_t p = a.indptr[row0] + static_cast<int>(threadIdx.x); p < end;
       p += kTransposeThreads) {
    atomicAdd(&counts[a.indices[p]], 1);
  }
}

/// counts[block, c] = entries of column c before that block's; out_indptr[c+1] = all of them.
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
    __syncthreads();  // this row's cursors before the next row's
  }
}

}  // namespace gossamer::cuda
