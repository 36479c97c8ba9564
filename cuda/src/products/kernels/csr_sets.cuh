#pragma once

// What products with the transposes of several matrices on one pattern need beside a transpose of
// structure.

#include "base/device.cuh"

namespace gossamer::cuda {

inline constexpr int kSetsThreads = 256;

/// to[p] = from[p] + row / rows · cols for the entries of each row: the columns of matrices that
/// lie one below the other, as those of one with their blocks on its diagonal. A warp has a row.
static __global__ void __launch_bounds__(kSetsThreads)
    csr_spread_columns(const int* __restrict__ indptr, const int* __restrict__ from, int* to,
                       std::int64_t all_rows, int rows, int cols) {
  const std::int64_t row =
      (static_cast<std::int64_t>(blockIdx.x) * kSetsThreads + threadIdx.x) / 32;
  if (row >= all_rows) return;
  const int step = static_cast<int>(row) / rows * cols;
  for (std::int64_t p = indptr[row] + static_cast<int>(threadIdx.x) % 32; p < indptr[row + 1];
       p += 32) {
    to[p] = from[p] + step;
  }
}

/// indices[p] = indices[p] mod cols, the reverse of csr_spread_columns.
static __global__ void __launch_bounds__(kSetsThreads)
    csr_fold_columns(int* indices, std::int64_t nnz, int cols) {
  const std::int64_t p = static_cast<std::int64_t>(blockIdx.x) * kSetsThreads + threadIdx.x;
  if (p < nnz) indices[p] %= cols;
}

/// to[s·nnz + p] = from[s·nnz + order[p]] for each set s.
template <class U>
__global__ void __launch_bounds__(kSetsThreads)
    csr_gather_values(const U* __restrict__ from, const int* __restrict__ order, U* to,
                      std::int64_t nnz, std::int64_t sets) {
  const std::int64_t p = static_cast<std::int64_t>(blockIdx.x) * kSetsThreads + threadIdx.x;
  if (p >= nnz) return;
  const int place = order[p];
  for (std::int64_t s = blockIdx.y; s < sets; s += gridDim.y) {
    to[s * nnz + p] = from[s * nnz + place];
  }
}

}  // namespace gossamer::cuda
