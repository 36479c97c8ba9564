#pragma once

// Between dense rows and blocks. Elements are moved in units, unsigned integers of the widest kind
// that rows of a block consist of: of blocks of 16 halves, 16 bytes a load and a store.
//
// Finding blocks reads the matrix once; filling them reads and writes what they hold; back to dense
// each element is written once. A row of a block is a run of whole sectors where it has 32 bytes.

#include "base/kernels/pack.cuh"
#include "formats/csr/kernels/csr_dense.cuh"

namespace gossamer::cuda {

/// The widest unit.
using Unit16 = Pack<std::uint64_t, 2>;

/// `keep` has the bits that count: without the signs, those of zeros are none.
template <class U>
__device__ inline bool is_kept(U unit, std::uint64_t keep) {
  if constexpr (sizeof(U) == 16) {
    return ((unit.at[0] | unit.at[1]) & keep) != 0;
  } else {
    return (static_cast<std::uint64_t>(unit) & keep) != 0;
  }
}

inline constexpr int kFindThreads = 256;
/// Units side by side that a thread block looks at, by a quarter of its threads each.
inline constexpr int kFindColumns = 64;

struct BsrFindArgs {
  const void* source;
  std::int64_t stride;  // in units, as what follows
  std::uint64_t keep;
  int block_rows, width;  // rows of a block, units of one of them
  int across;             // blocks side by side
  int tile;               // of them a thread block takes: kFindColumns units, or one wide block
  std::uint8_t* kept;     // [rows of blocks, across]
};

/// kept[i, j] = does block (i, j) hold a unit that is kept.
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
    __syncthreads();  // the warps' votes before a thread a block reads them
    if (thread < count) {
      std::uint64_t all = 0;
      for (int w = 0; w < kWarps; w += 2) {
        all |= votes[w] | static_cast<std::uint64_t>(votes[w + 1]) << 32;
      }
      // A wide block has all votes: it is alone.
      if (a.width < kFindColumns) {
        all = all >> (thread * a.width) & ((std::uint64_t{1} << a.width) - 1);
      }
      a.kept[static_cast<std::int64_t>(blockIdx.x) * a.across + first + thread] = all != 0 ? 1 : 0;
    }
    __syncthreads();  // their reads before the next votes
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
  int tile;  // blocks that a thread block takes at a time
  void* out;
};

/// Copies the blocks, with zeros for what the mask does not keep: units are then single elements.
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

/// The most blocks side by side that a thread block writes.
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

/// A thread block finds the blocks of a stretch of a row of blocks, and writes the stretch.
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
    __syncthreads();  // no block before the blocks
    for (std::int64_t p = first_from(a.indices, a.indptr[blockIdx.x], last, first) + thread;
         p < last && a.indices[p] < first + count; p += kBlockThreads) {
      block_at[a.indices[p] - first] = static_cast<int>(p);
    }
    __syncthreads();  // the blocks' places before their reads
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
    __syncthreads();  // their reads before the next stretch
  }
}

// --- transpose ---

/// Elements that a thread block transposes at a time: a tile of 64 by 64 and its padding.
inline constexpr int kTurnSide = 64, kTurnElements = kTurnSide * (kTurnSide + 1);

template <class U>
struct BsrTurnArgs {
  const U* blocks;
  const int* order;  // out block p is block order[p]
  int nblocks;
  int rows, cols;            // of a block of `blocks`
  int tile_rows, tile_cols;  // of it, at most kTurnSide
  int pitch;                 // of the tile in shared memory: odd, against bank conflicts
  int group;                 // blocks at a time; 1 where a block has several tiles
  U* out;
};

/// out[p, c, r] = blocks[order[p], r, c], V neighbours a load and a store.
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
    __syncthreads();  // the tile's writes before its reads
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
    __syncthreads();  // its reads before the next tile's writes
  }
}

}  // namespace gossamer::cuda
