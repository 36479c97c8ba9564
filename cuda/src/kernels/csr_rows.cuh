#pragma once

// A warp computes a row of the product in strips of 32 columns, one a lane, and walks the row's
// entries in their order for each. Coalesced for row-major B; right for any strides.

#include <cstdint>

#include "kernels/epilogue.cuh"

namespace gossamer::cuda {

inline constexpr int kRowsWarps = 4;

template <class T>
struct CsrRows {
  const int* indptr;
  const int* indices;
  const T* values;
  const T* b;
  std::int64_t b_row, b_col;
  T* out;
  std::int64_t out_row, out_col;
  int rows;
  std::int64_t n;
  Finish<T> finish;
};

template <class T>
__global__ void __launch_bounds__(32 * kRowsWarps) csr_rows(const CsrRows<T> args) {
  const int row = static_cast<int>(blockIdx.x) * kRowsWarps + static_cast<int>(threadIdx.y);
  if (row >= args.rows) return;
  const int begin = args.indptr[row], end = args.indptr[row + 1];
  for (std::int64_t j = threadIdx.x; j < args.n; j += 32) {
    Sum<T> sum = 0;
    for (int p = begin; p < end; ++p) {
      sum += widen(args.values[p]) * widen(args.b[args.indices[p] * args.b_row + j * args.b_col]);
    }
    args.finish.store(args.out + row * args.out_row + j * args.out_col, sum, row);
  }
}

}  // namespace gossamer::cuda
