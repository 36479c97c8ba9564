#pragma once

// The last step of products on tensor cores: from a tile of sums in shared memory to C.

#include "base/kernels/epilogue.cuh"
#include "base/launch.h"

namespace gossamer::cuda {

/// C, [m, n], or where products are those of `linear`, [n, m].
template <class T>
struct MmaOutput {
  T* out;
  std::int64_t ldo;
  std::int64_t m, n;
  Finish<T> finish;
  float* partial;  // [splits, m, n], or null where thread blocks do not share the depth of a tile
  bool packs;      // whether eight neighbours of out can be written at once
};

/// Where a product goes whose depth `splits` thread blocks share: `sums` takes theirs.
template <class T>
MmaOutput<T> output_of(const detail::Product& product, std::int64_t splits, void* sums) {
  const detail::DenseView& out = product.out;
  return {.out = static_cast<T*>(out.data),
          .ldo = out.stride,
          .m = product.m,
          .n = product.n,
          .finish = Finish<T>(product),
          .partial = splits == 1 ? nullptr : static_cast<float*>(sums),
          .packs = aligned(out.data, out.stride, sizeof(T), 16) && product.n % 8 == 0};
}

/// Writes a tile that begins with row `row0` and column `column0` of C. `by_columns`: C is stored
/// as [n, m].
template <int Rows, int Columns, int Pitch, int Threads, class T>
__device__ __forceinline__ void store_tile(const MmaOutput<T>& to, bool by_columns,
                                           const float* tile, std::int64_t row0,
                                           std::int64_t column0, int thread) {
  const std::int64_t rows = to.m - row0, columns = to.n - column0;
  if (!by_columns && to.packs && to.partial == nullptr) {
    constexpr int kAcross = Columns / 8;
    for (int i = thread; i < Rows * kAcross; i += Threads) {
      const int row = i / kAcross, column = i % kAcross * 8;
      if (row >= rows || column >= columns) continue;
      float pack[8];
#pragma unroll
      for (int l = 0; l < 8; ++l) pack[l] = tile[row * Pitch + column + l];
      to.finish.store_pack(to.out + (row0 + row) * to.ldo + column0 + column, pack, row0 + row);
    }
    return;
  }
  const bool down = by_columns && to.partial == nullptr;
  for (int i = thread; i < Rows * Columns; i += Threads) {
    // Neighbours in memory are written by neighbouring threads.
    const int row = down ? i % Rows : i / Columns, column = down ? i / Rows : i % Columns;
    if (row >= rows || column >= columns) continue;
    const float sum = tile[row * Pitch + column];
    if (to.partial != nullptr) {
      to.partial[(blockIdx.y * to.m + row0 + row) * to.n + column0 + column] = sum;
      continue;
    }
    T* const at = by_columns ? to.out + (column0 + column) * to.ldo + row0 + row
                             : to.out + (row0 + row) * to.ldo + column0 + column;
    to.finish.store(at, sum, row0 + row);
  }
}

}  // namespace gossamer::cuda
