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

/// How a tile of sums lies in shared memory. Its extents are powers of two, at least eight.
struct SumsTile {
  int row_bits, column_bits;
  int pitch;  // the distance of rows

  __host__ __device__ constexpr SumsTile(int rows, int columns, int pitch_)
      : row_bits(log2_of(rows)), column_bits(log2_of(columns)), pitch(pitch_) {}
  __host__ __device__ static constexpr int log2_of(int n) {
    return n == 1 ? 0 : 1 + log2_of(n / 2);
  }
};

/// Writes a tile that begins with row `row0` and column `column0` of C. `by_columns`: C is stored
/// as [n, m].
template <class T>
__device__ __forceinline__ void store_tile(const MmaOutput<T>& to, bool by_columns,
                                           const SumsTile& shape, const float* tile,
                                           std::int64_t row0, std::int64_t column0, int thread,
                                           int threads) {
  const std::int64_t rows = to.m - row0, columns = to.n - column0;
  const auto last = [](int bits) { return (1 << bits) - 1; };
  if (!by_columns && to.packs && to.partial == nullptr) {
    const int across = shape.column_bits - 3;
    for (int i = thread; i < 1 << (shape.row_bits + across); i += threads) {
      const int row = i >> across, column = (i & last(across)) * 8;
      if (row >= rows || column >= columns) continue;
      float pack[8];
#pragma unroll
      for (int l = 0; l < 8; ++l) pack[l] = tile[row * shape.pitch + column + l];
      to.finish.store_pack(to.out + (row0 + row) * to.ldo + column0 + column, pack, row0 + row);
    }
    return;
  }
  const bool down = by_columns && to.partial == nullptr;
  for (int i = thread; i < 1 << (shape.row_bits + shape.column_bits); i += threads) {
    // Neighbours in memory are written by neighbouring threads.
    const int row = down ? i & last(shape.row_bits) : i >> shape.column_bits;
    const int column = down ? i >> shape.row_bits : i & last(shape.column_bits);
    if (row >= rows || column >= columns) continue;
    const float sum = tile[row * shape.pitch + column];
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
