#pragma once

// Transposes through shared memory, tile by tile, so that global memory is read and written in runs
// of 64 elements on both sides. Beside its product, `linear` moves 4·K + 10·M bytes for each row of
// activations in half precision (float: 8·K + 12·M).

#include "base/kernels/epilogue.cuh"

namespace gossamer::cuda {

inline constexpr int kTileSide = 64, kTileThreads = 256;
inline constexpr int kTileSteps = kTileSide * kTileSide / kTileThreads;

/// store(r, c, load(r, c)) for all r < rows, c < cols. The loads of a warp are neighbours in c, its
/// stores in r. Each block handles one column of tiles.
template <class S, class Load, class Store>
__device__ inline void transpose_tiles(std::int64_t rows, std::int64_t cols,
                                       S (&tile)[kTileSide][kTileSide + 1], const Load& load,
                                       const Store& store) {
  const int minor = static_cast<int>(threadIdx.x) % kTileSide;
  const int major = static_cast<int>(threadIdx.x) / kTileSide;
  const std::int64_t col0 = static_cast<std::int64_t>(blockIdx.x) * kTileSide;
  for (std::int64_t row0 = static_cast<std::int64_t>(blockIdx.y) * kTileSide; row0 < rows;
       row0 += static_cast<std::int64_t>(gridDim.y) * kTileSide) {
#pragma unroll 4
    for (int i = 0; i < kTileSteps; ++i) {
      const int r = major + i * (kTileThreads / kTileSide);
      if (row0 + r < rows && col0 + minor < cols) tile[r][minor] = load(row0 + r, col0 + minor);
    }
    __syncthreads();  // orders the writes of the tile before its reads
#pragma unroll 4
    for (int i = 0; i < kTileSteps; ++i) {
      const int c = major + i * (kTileThreads / kTileSide);
      if (row0 + minor < rows && col0 + c < cols) store(row0 + minor, col0 + c, tile[minor][c]);
    }
    __syncthreads();  // orders these reads before the writes of the next tile
  }
}

/// to[k*ld + j] = from[j*stride + k] for j < n, 0 for n ≤ j < padded.
template <class T>
struct PackColumnsArgs {
  const T* from;
  std::int64_t stride;
  std::int64_t n, k;
  T* to;
  std::int64_t ld, padded;
};

template <class T>
__global__ void __launch_bounds__(kTileThreads) pack_columns(PackColumnsArgs<T> a) {
  __shared__ T tile[kTileSide][kTileSide + 1];
  transpose_tiles(
      a.padded, a.k, tile,
      [&](std::int64_t j, std::int64_t k) {
        return j < a.n ? a.from[j * a.stride + k] : narrow<T>(Sum<T>(0));
      },
      [&](std::int64_t j, std::int64_t k, const T& x) { a.to[k * a.ld + j] = x; });
}

/// out[j*stride + i] = epilogue(sums[i*ld + j]) for i < m, j < n.
template <class T>
struct UnpackColumnsArgs {
  const Sum<T>* sums;
  std::int64_t ld;
  std::int64_t m, n;
  T* out;
  std::int64_t stride;
  Finish<T> finish;
};

template <class T>
__global__ void __launch_bounds__(kTileThreads) unpack_columns(UnpackColumnsArgs<T> a) {
  __shared__ Sum<T> tile[kTileSide][kTileSide + 1];
  transpose_tiles(
      a.m, a.n, tile, [&](std::int64_t i, std::int64_t j) { return a.sums[i * a.ld + j]; },
      [&](std::int64_t i, std::int64_t j, const Sum<T>& sum) {
        a.finish.store(a.out + j * a.stride + i, sum, i);
      });
}

}  // namespace gossamer::cuda
