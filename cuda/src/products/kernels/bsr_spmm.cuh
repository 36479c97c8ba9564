#pragma once

// Products with blocks of any sizes and types. A warp computes up to four rows of a row of blocks
// by 128 columns, four for each lane, over the blocks in order. All lanes read the same element of
// A, so that this is one read; a row of B is read once for the four rows.

#include "base/kernels/epilogue.cuh"

namespace gossamer::cuda {

inline constexpr int kBsrRows = 4, kBsrColumns = 4, kBsrWarps = 4;

template <class T>
struct BsrArgs {
  const int* indptr;
  const int* indices;
  const int* order;  // which block entry p has, where blocks are stored transposed
  const T* blocks;
  int block_rows, block_cols;  // of the product's A
  int groups;                  // groups of kBsrRows rows in a row of blocks
  std::int64_t tasks;
  const T* b;
  std::int64_t b_row, b_col;
  std::int64_t n;
  T* out;
  std::int64_t out_row, out_col;
  Finish<T> finish;
};

template <class T, bool Transposed>
__global__ void __launch_bounds__(32 * kBsrWarps) bsr_spmm(const BsrArgs<T> args) {
  using S = Sum<T>;
  const std::int64_t task = static_cast<std::int64_t>(blockIdx.x) * kBsrWarps + threadIdx.y;
  if (task >= args.tasks) return;
  const auto block_row = static_cast<int>(task / args.groups);
  const int first = static_cast<int>(task % args.groups) * kBsrRows;
  const int left = args.block_rows - first, rows = left < kBsrRows ? left : kBsrRows;
  const int begin = args.indptr[block_row], end = args.indptr[block_row + 1];
  const int a_row = Transposed ? 1 : args.block_cols, a_col = Transposed ? args.block_rows : 1;
  const std::int64_t size = static_cast<std::int64_t>(args.block_rows) * args.block_cols;
  for (std::int64_t column0 = static_cast<std::int64_t>(blockIdx.y) * 32 * kBsrColumns;
       column0 < args.n; column0 += static_cast<std::int64_t>(gridDim.y) * 32 * kBsrColumns) {
    std::int64_t column[kBsrColumns];
#pragma unroll
    for (int c = 0; c < kBsrColumns; ++c) column[c] = column0 + 32 * c + threadIdx.x;
    S sums[kBsrRows][kBsrColumns] = {};
    for (int p = begin; p < end; ++p) {
      const int place = Transposed ? args.order[p] : p;
      const T* a = args.blocks + place * size + static_cast<std::int64_t>(first) * a_row;
      const T* b =
          args.b + static_cast<std::int64_t>(args.indices[p]) * args.block_cols * args.b_row;
      for (int k = 0; k < args.block_cols; ++k, a += a_col, b += args.b_row) {
        S x[kBsrColumns];
#pragma unroll
        for (int c = 0; c < kBsrColumns; ++c) {
          x[c] = column[c] < args.n ? widen(b[column[c] * args.b_col]) : S(0);
        }
#pragma unroll
        for (int r = 0; r < kBsrRows; ++r) {
          // Rows beyond the block read its last one again; their results are not written.
          const S value = widen(a[(r < rows ? r : rows - 1) * a_row]);
#pragma unroll
          for (int c = 0; c < kBsrColumns; ++c) sums[r][c] += value * x[c];
        }
      }
    }
    const std::int64_t row0 = static_cast<std::int64_t>(block_row) * args.block_rows + first;
#pragma unroll
    for (int r = 0; r < kBsrRows; ++r) {
#pragma unroll
      for (int c = 0; c < kBsrColumns; ++c) {
        if (r < rows && column[c] < args.n) {
          args.finish.store(args.out + (row0 + r) * args.out_row + column[c] * args.out_col,
                            sums[r][c], row0 + r);
        }
      }
    }
  }
}

}  // namespace gossamer::cuda
