#pragma once

// Converts between dense matrices and blocks. Elements are moved in units: unsigned integers of the
// largest size that the rows of a block are made of. Blocks with rows of 16 half-precision elements
// move 16 bytes with each load and store.
//
// Finding blocks reads the matrix once; filling them reads and writes what they hold; converting
// back writes each element once. If a row of a block has 32 bytes, it is a run of whole sectors.

#include "base/kernels/pack.cuh"
#include "formats/csr/kernels/csr_dense.cuh"

namespace gossamer::cuda {

/// The widest unit.
using Unit16 = Pack<std::uint64_t, 2>;

/// Whether a unit has a nonzero element; `keep` masks out the signs.
template <class U>
__device__ inline bool is_kept(U unit, std::uint64_t keep) {
  if constexpr (sizeof(U) == 16) {
    return ((unit.at[0] | unit.at[1]) & keep) != 0;
  } else {
    return (static_cast<std::uint64_t>(unit) & keep) != 0;
  }
}

inline constexpr int kFindThreads = 256;
/// How many units side by side a thread block reads; four threads share each column of units.
inline constexpr int kFindColumns = 64;

struct BsrFindArgs {
  const void* source;
  std::int64_t stride;  // in units, as are the following
  std::uint64_t keep;
  int block_rows, width;  // rows of a block, units in a row of a block
  int across;             // blocks in a row of blocks
  int tile;  // blocks that a thread block handles: kFindColumns units' worth, or one wide block
  std::uint8_t* kept;  // [rows of blocks, across]
};

/// kept[i, j] = whether block (i, j) holds a nonzero.
template <class U>
__global__ void __launch_bounds__(kFindThreads) bsr_find(const BsrFindArgs a) {
  constexpr int kWarps = kFindThreads / 32, kGroups = kFindThreads / kFindColumns;
  __shared__ unsigned votes[kWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % kFindColumns, group = thread / kFindColumns;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.y) * a.tile;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * a.tile; first < a.across;
       first += step) {
    const int count = static_cast<int>(least<std::int64_t>(a.tile, a.across - first));
    const U* from = static_cast<const U*>(a.source) +
                    static_cast<std::int64_t>(blockIdx.x) * a.block_rows * a.stride +
                    first * a.width;
    bool found = false;
    for (int u = column; u < count * a.width; u += kFindColumns) {
#pragma unroll 4
      for (int r = group; r < a.block_rows; r += kGroups) {
        found |= is_kept(from[r * a.stride + u], a.keep);
      }
    }
    const unsigned vote = __ballot_sync(kAllLanes, found);
    if (thread % 32 == 0) votes[thread / 32] = vote;
    __syncthreads();  // orders the writes of the warps' votes before their reads
    if (thread < count) {
      std::uint64_t all = 0;
      for (int w = 0; w < kWarps; w += 2) {
        all |= votes[w] | static_cast<std::uint64_t>(votes[w + 1]) << 32;
      }
      // A block at least kFindColumns units wide is alone in the thread block: all votes are its
      // own.
      if (a.width < kFindColumns) {
        all = all >> (thread * a.width) & ((std::uint64_t{1} << a.width) - 1);
      }
      a.kept[static_cast<std::int64_t>(blockIdx.x) * a.across + first + thread] = all != 0 ? 1 : 0;
    }
    __syncthreads();  // orders these reads before the writes of the next votes
  }
}

inline constexpr int kBlockThreads = 256;

struct BsrFillArgs {
  const void* source;
  std::int64_t stride;
  const std::uint8_t* mask;
  std::int64_t mask_stride;
  const int* indptr;
  const int* indices;
  int block_rows, width;
  int tile;  // blocks that a thread block handles in one step
  void* out;
};

/// Copies the blocks. If Masked, elements that the mask does not keep become zero; units are then
/// single elements.
template <class U, bool Masked>
__global__ void __launch_bounds__(kBlockThreads) bsr_fill_blocks(const BsrFillArgs a) {
  const auto across = static_cast<int>(blockDim.x), down = static_cast<int>(blockDim.y);
  const int end = a.indptr[blockIdx.x + 1];
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * a.block_rows;
  for (std::int64_t p0 = a.indptr[blockIdx.x] + static_cast<std::int64_t>(blockIdx.y) * a.tile;
       p0 < end; p0 += static_cast<std::int64_t>(gridDim.y) * a.tile) {
    const int units = static_cast<int>(least<std::int64_t>(a.tile, end - p0)) * a.width;
    for (int u = static_cast<int>(threadIdx.x); u < units; u += across) {
      const std::int64_t p = p0 + u / a.width, c = u % a.width;
      const std::int64_t column = static_cast<std::int64_t>(a.indices[p]) * a.width + c;
      const U* from = static_cast<const U*>(a.source) + row0 * a.stride + column;
      U* to = static_cast<U*>(a.out) + p * a.block_rows * a.width + c;
      const std::uint8_t* mask = Masked ? a.mask + row0 * a.mask_stride + column : nullptr;
#pragma unroll 4
      for (int r = static_cast<int>(threadIdx.y); r < a.block_rows; r += down) {
        U unit = from[r * a.stride];
        if constexpr (Masked) {
          if (!is_kept(mask[r * a.mask_stride])) unit = U{0};
        }
        to[static_cast<std::int64_t>(r) * a.width] = unit;
      }
    }
  }
}

/// The largest number of blocks side by side that a thread block writes in one step.
inline constexpr int kBlockTile = 1024;

struct BsrToDenseArgs {
  const int* indptr;
  const int* indices;
  const void* blocks;
  int block_rows, width;
  int across;
  int tile;  // blocks side by side, at most kBlockTile
  void* out;
  std::int64_t stride;
};

/// A thread block looks up which blocks exist in a part of a row of blocks, and writes that part.
template <class U>
__global__ void __launch_bounds__(kBlockThreads) bsr_to_dense_tiles(const BsrToDenseArgs a) {
  __shared__ int block_at[kBlockTile];
  const auto across = static_cast<int>(blockDim.x), down = static_cast<int>(blockDim.y);
  const int thread = static_cast<int>(threadIdx.y) * across + static_cast<int>(threadIdx.x);
  const int last = a.indptr[blockIdx.x + 1];
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * a.block_rows;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * a.tile; first < a.across;
       first += static_cast<std::int64_t>(gridDim.y) * a.tile) {
    const int count = static_cast<int>(least<std::int64_t>(a.tile, a.across - first));
    for (int j = thread; j < count; j += kBlockThreads) block_at[j] = -1;
    __syncthreads();  // orders the writes of "no block" before those of the blocks' places
    for (std::int64_t p = first_from(a.indices, a.indptr[blockIdx.x], last, first) + thread;
         p < last && a.indices[p] < first + count; p += kBlockThreads) {
      block_at[a.indices[p] - first] = static_cast<int>(p);
    }
    __syncthreads();  // orders the writes of the blocks' places before their reads
    for (int u = static_cast<int>(threadIdx.x); u < count * a.width; u += across) {
      const int p = block_at[u / a.width];
      const U* from = static_cast<const U*>(a.blocks) +
                      static_cast<std::int64_t>(p < 0 ? 0 : p) * a.block_rows * a.width +
                      u % a.width;
      U* to = static_cast<U*>(a.out) + row0 * a.stride + first * a.width + u;
      if (p < 0) {
#pragma unroll 4
        for (int r = static_cast<int>(threadIdx.y); r < a.block_rows; r += down) {
          to[r * a.stride] = U{};
        }
      } else {
#pragma unroll 4
        for (int r = static_cast<int>(threadIdx.y); r < a.block_rows; r += down) {
          to[r * a.stride] = from[static_cast<std::int64_t>(r) * a.width];
        }
      }
    }
    __syncthreads();  // orders these reads before the writes for the next part
  }
}

// Transposing.

/// The most elements that a thread block transposes in one step: a tile of 64 by 64 with padding.
inline constexpr int kTurnSide = 64, kTurnElements = kTurnSide * (kTurnSide + 1);

template <class U>
struct BsrTurnArgs {
  const U* blocks;
  const int* order;  // block p of the result is block order[p]
  int nblocks;
  int rows, cols;            // of each block of `blocks`
  int tile_rows, tile_cols;  // of the tile, at most kTurnSide
  int pitch;  // from row to row of the tile in shared memory: odd, to avoid bank conflicts
  int group;  // blocks in one step; 1 where a block has several tiles
  U* out;
};

/// out[p, c, r] = blocks[order[p], r, c], with V neighbours in each load and store.
template <class U, int V>
__global__ void __launch_bounds__(kBlockThreads) bsr_turn_blocks(const BsrTurnArgs<U> a) {
  __shared__ U tile[kTurnElements];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t p0 = static_cast<std::int64_t>(blockIdx.x) * a.group;
  const int count = static_cast<int>(least<std::int64_t>(a.group, a.nblocks - p0));
  const int across = (a.cols + a.tile_cols - 1) / a.tile_cols;
  const int down = (a.rows + a.tile_rows - 1) / a.tile_rows;
  const std::int64_t tiles = static_cast<std::int64_t>(across) * down;
  for (std::int64_t t = blockIdx.y; t < tiles; t += gridDim.y) {
    const int row0 = static_cast<int>(t / across) * a.tile_rows;
    const int col0 = static_cast<int>(t % across) * a.tile_cols;
    const int height = least(a.tile_rows, a.rows - row0), width = least(a.tile_cols, a.cols - col0);
    const int vectors = width / V;
    for (int i = thread; i < count * height * vectors; i += kBlockThreads) {
      const int c = i % vectors * V, r = i / vectors % height, b = i / vectors / height;
      const std::int64_t row = static_cast<std::int64_t>(a.order[p0 + b]) * a.rows + row0 + r;
      const Pack<U, V> pack = load_pack<V>(a.blocks + row * a.cols + col0 + c);
      U* to = tile + (b * a.tile_rows + r) * a.pitch + c;
#pragma unroll
      for (int k = 0; k < V; ++k) to[k] = pack.at[k];
    }
    __syncthreads();  // orders the writes of the tile before its reads
    const int columns = height / V;
    for (int i = thread; i < count * width * columns; i += kBlockThreads) {
      const int r = i % columns * V, c = i / columns % width, b = i / columns / width;
      const U* from = tile + (b * a.tile_rows + r) * a.pitch + c;
      Pack<U, V> pack;
#pragma unroll
      for (int k = 0; k < V; ++k) pack.at[k] = from[k * a.pitch];
      const std::int64_t row = (p0 + b) * a.cols + col0 + c;
      store_pack<V>(a.out + row * a.rows + row0 + r, pack);
    }
    __syncthreads();  // orders these reads before the writes of the next tile
  }
}

}  // namespace gossamer::cuda
