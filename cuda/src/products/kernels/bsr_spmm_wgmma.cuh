#pragma once

// Products with large blocks of half precision by Hopper's wgmma. A thread block computes a tile of
// the result: 64 rows for each of its one or two warpgroups, all in one row of blocks, by 128
// columns. It goes through the blocks in order, 64 of their depth at a time. One thread of the last
// warp starts the copies of tiles of A and B into a ring of stages in shared memory; each warpgroup
// multiplies its 64 rows of A by the B that they share. Two mbarriers a stage say that it is full,
// and that all warps have read it.
//
// For a stage of 64 of depth, a warp issues four wgmma, which take 64 clocks each, and some seventy
// other instructions (counted in SASS). Bytes bind: with one warpgroup a stage of 24 KB is
// multiplied in 256 clocks, with two 32 KB in 512.

#include "base/hopper.cuh"
#include "base/kernels/epilogue.cuh"
#include "products/kernels/bsr_mma.cuh"

namespace gossamer::cuda {

struct WgmmaTile {
  static constexpr int kSide = 64;             // of a box that is copied: 128 bytes a row
  static constexpr int kBox = 8192;            // its bytes
  static constexpr int kColumns = 128;         // of the result
  static constexpr int kPitch = kColumns + 4;  // of the sums in shared memory, in floats
  static constexpr int kMaxGroups = 2, kMaxStages = 4;
  static constexpr int kMaxThreads = 128 * kMaxGroups + 32;

  __host__ __device__ static constexpr int stages(int groups) { return groups == 1 ? 4 : 3; }
  __host__ __device__ static constexpr int stage(int groups) { return (groups + 2) * kBox; }
  /// Dynamic shared memory; the ring begins at a multiple of 1024 bytes.
  __host__ __device__ static constexpr int shared(int groups) {
    return 1024 + stages(groups) * stage(groups);
  }
};
static_assert(64 * WgmmaTile::kPitch * 4 <= WgmmaTile::stages(1) * WgmmaTile::stage(1) &&
                  128 * WgmmaTile::kPitch * 4 <= WgmmaTile::stages(2) * WgmmaTile::stage(2),
              "the sums fit into the ring");

template <class T>
struct BsrWgmmaArgs {
  const int* indptr;
  const int* indices;
  const int* order;            // which block entry p has, where blocks are stored transposed
  int block_rows, block_cols;  // of the product's A: multiples of the tile's rows and of 64
  unsigned row_tiles;
  std::int64_t n;
  T* out;
  std::int64_t ldo;
  Finish<T> finish;
  bool packs;  // whether eight neighbours of out can be written at once
};

/// `map_a` is that of the blocks in memory, one below the other; `map_b` that of B.
template <class T, BsrLayout Layout>
__global__ void __launch_bounds__(WgmmaTile::kMaxThreads, 2)
    bsr_spmm_wgmma(const __grid_constant__ CUtensorMap map_a,
                   const __grid_constant__ CUtensorMap map_b, const BsrWgmmaArgs<T> args) {
  using Tile = WgmmaTile;
  constexpr bool kByColumns = Layout == BsrLayout::columns;
  constexpr bool kTransposed = Layout == BsrLayout::transposed;
  constexpr int kSide = Tile::kSide;
  __shared__ std::uint64_t full[Tile::kMaxStages], empty[Tile::kMaxStages];
  unsigned char* ring = dynamic_shared<unsigned char>();
  ring += (0 - reinterpret_cast<std::uintptr_t>(ring)) % 1024;  // where a swizzle's pattern begins
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int groups = static_cast<int>(blockDim.x) / 128, stages = Tile::stages(groups);
  const int stage_bytes = Tile::stage(groups), rows = kSide * groups;
  if (thread == 0) {
    for (int i = 0; i < stages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, static_cast<unsigned>(4 * groups));
    }
    fence_mbarrier_init();
  }
  __syncthreads();  // orders the making of the mbarriers before their use

  // Neighbouring thread blocks have different rows and the same columns, so they share rows of B.
  const int row_tile = static_cast<int>(blockIdx.x % args.row_tiles);
  const int column0 = static_cast<int>(blockIdx.x / args.row_tiles) * Tile::kColumns;
  const int tall = args.block_rows / rows, deep = args.block_cols / kSide;
  const int block_row = row_tile / tall, inner_row = row_tile % tall * rows;
  const int begin = args.indptr[block_row], end = args.indptr[block_row + 1];

  int stage = 0;
  unsigned round = 0;
  const auto next = [&] {
    if (++stage == stages) {
      stage = 0;
      round ^= 1u;
    }
  };
  float sums[Tile::kColumns / 2] = {};
  if (warp == 4 * groups) {
#pragma unroll 1
    for (int entry = begin; lane == 0 && entry < end; ++entry) {
      const int block = kTransposed ? args.order[entry] : entry;
      const int row_of_b = args.indices[entry] * args.block_cols;
#pragma unroll 1
      for (int place = 0; place < deep; ++place) {
        mbarrier_wait(empty + stage, round ^ 1u);  // in the first round nobody reads
        mbarrier_arrive_expect(full + stage, static_cast<unsigned>(stage_bytes));
        unsigned char* to = ring + stage * stage_bytes;
        for (int group = 0; group < groups; ++group) {
          const int row = inner_row + group * kSide;
          if constexpr (kTransposed) {
            tile_load<2>(to, map_a, {row, block * args.block_cols + place * kSide}, full + stage);
          } else {
            tile_load<2>(to, map_a, {place * kSide, block * args.block_rows + row}, full + stage);
          }
          to += Tile::kBox;
        }
        const int k = row_of_b + place * kSide;
        for (int strip = 0; strip < 2; ++strip) {
          const int column = column0 + strip * kSide;
          if constexpr (kByColumns) {
            tile_load<2>(to, map_b, {k, column}, full + stage);
          } else {
            tile_load<2>(to, map_b, {column, k}, full + stage);
          }
          to += Tile::kBox;
        }
        next();
      }
    }
  } else {
    const int group = warp / 4;
    // Rows of 128 bytes, eight to a pattern of 1024. Sixteen of depth are 32 bytes of each row, or
    // sixteen rows of a matrix whose rows are depth; the second 64 columns of such a B are the
    // next box.
    constexpr std::uint64_t kStepA = (kTransposed ? 16 * 128 : 32) / 16;
    constexpr std::uint64_t kStepB = (kByColumns ? 32 : 16 * 128) / 16;
    int before = -1;  // the stage that the last products read
#pragma unroll 1
    for (int slice = (end - begin) * deep; slice > 0; --slice) {
      const unsigned char* const a = ring + stage * stage_bytes + group * Tile::kBox;
      const unsigned char* const b = ring + stage * stage_bytes + groups * Tile::kBox;
      const std::uint64_t left = matrix_descriptor(a, 0, 1024, MatrixSwizzle::b128);
      const std::uint64_t right =
          matrix_descriptor(b, kByColumns ? 0 : Tile::kBox, 1024, MatrixSwizzle::b128);
      mbarrier_wait(full + stage, round);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const auto i = static_cast<std::uint64_t>(step);
        wgmma_m64k16<T, Tile::kColumns, kTransposed, !kByColumns>(sums, left + i * kStepA,
                                                                  right + i * kStepB, 1);
      }
      wgmma_commit();
      wgmma_wait<1>();  // for the products that read the stage before
      if (before >= 0 && lane == 0) mbarrier_arrive(empty + before);
      before = stage;
      next();
    }
    wgmma_wait<0>();
  }
  __syncthreads();  // orders the last reads of the ring before it is used for the sums
  float* const tile = reinterpret_cast<float*>(ring);
  if (warp < 4 * groups) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < Tile::kColumns / 2; i += 2) {
      const int row = warp * 16 + g + i % 4 / 2 * 8, column = i / 4 * 8 + 2 * t;
      *reinterpret_cast<float2*>(tile + row * Tile::kPitch + column) =
          make_float2(sums[i], sums[i + 1]);
    }
  }
  __syncthreads();  // orders the writes of all sums before they are read in another order

  const std::int64_t row0 = static_cast<std::int64_t>(row_tile) * rows;
  const std::int64_t columns = args.n - column0;
  const int threads = static_cast<int>(blockDim.x);
  if (!kByColumns && args.packs) {
    constexpr int kAcross = Tile::kColumns / 8;
    for (int i = thread; i < rows * kAcross; i += threads) {
      const int row = i / kAcross, column = i % kAcross * 8;
      if (column >= columns) continue;
      float pack[8];
#pragma unroll
      for (int l = 0; l < 8; ++l) pack[l] = tile[row * Tile::kPitch + column + l];
      args.finish.store_pack(args.out + (row0 + row) * args.ldo + column0 + column, pack,
                             row0 + row);
    }
    return;
  }
  for (int i = thread; i < rows * Tile::kColumns; i += threads) {
    // Neighbours in out, by row or by column, are written by neighbouring threads.
    const int row = kByColumns ? i % rows : i / Tile::kColumns;
    const int column = kByColumns ? i / rows : i % Tile::kColumns;
    if (column >= columns) continue;
    T* const to = kByColumns ? args.out + (column0 + column) * args.ldo + row0 + row
                             : args.out + (row0 + row) * args.ldo + column0 + column;
    args.finish.store(to, tile[row * Tile::kPitch + column], row0 + row);
  }
}

}  // namespace gossamer::cuda
