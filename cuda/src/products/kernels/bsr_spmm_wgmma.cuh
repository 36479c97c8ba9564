#pragma once

// Products with large blocks of half precision by Hopper's wgmma. A thread block computes a tile of
// the result, 64 rows by 128 columns for each of its one or two warpgroups, which lie one below the
// other where a row of blocks has 128 rows, else side by side. It goes through the blocks in order,
// 64 of their depth at a time. One thread of the last warp starts the copies of boxes of A and B
// into a ring of stages in shared memory; two mbarriers a stage say that it is full, and that all
// warps have read it.
//
// For a stage, a warp issues four wgmma, which take 64 clocks each, and some eighty other
// instructions (counted in SASS). Bytes bind: one warpgroup multiplies a stage of 24 KB in 256
// clocks, two multiply 32 KB (one below the other) or 40 KB in 512.

#include "base/hopper.cuh"
#include "products/kernels/bsr_mma.cuh"
#include "products/kernels/mma_output.cuh"
#include "products/wgmma.h"

namespace gossamer::cuda {

/// How many warpgroups a thread block has, one below the other and side by side: at most two.
struct WgmmaTile {
  int down, across;

  static constexpr int kSide = kWgmmaSide, kBox = kWgmmaBoxBytes;
  static constexpr int kColumns = 128;  // of a warpgroup
  static constexpr int kMaxStages = 4;
  static constexpr int kMaxThreads = 2 * 128 + 32;

  __host__ __device__ constexpr int groups() const { return down * across; }
  __host__ __device__ constexpr int threads() const { return 128 * groups() + 32; }
  __host__ __device__ constexpr int rows() const { return kSide * down; }
  __host__ __device__ constexpr int columns() const { return kColumns * across; }
  /// Of the sums in shared memory, in floats.
  __host__ __device__ constexpr int pitch() const { return columns() + 4; }
  /// Two thread blocks fit on a multiprocessor.
  __host__ __device__ constexpr int stages() const {
    return groups() == 1 ? 4 : across == 1 ? 3 : 2;
  }
  __host__ __device__ constexpr int stage() const { return (down + 2 * across) * kBox; }
  __host__ __device__ constexpr int ring() const { return stages() * stage(); }
  /// Dynamic shared memory; the ring begins at a multiple of 1024 bytes.
  __host__ __device__ constexpr int shared() const { return 1024 + ring(); }
  __host__ __device__ constexpr bool holds_sums() const { return rows() * pitch() * 4 <= ring(); }
};
static_assert(WgmmaTile{1, 1}.holds_sums() && WgmmaTile{2, 1}.holds_sums() &&
                  WgmmaTile{1, 2}.holds_sums(),
              "the sums fit into the ring");

template <class T>
struct BsrWgmmaArgs {
  const int* indptr;
  const int* indices;
  const int* order;            // which block entry p has, where blocks are stored transposed
  int block_rows, block_cols;  // of the product's A: multiples of the tile's rows and of 64
  WgmmaTile tile;
  unsigned row_tiles;
  MmaOutput<T> to;
};

/// `map_a` is that of the blocks in memory, one below the other; `map_b` that of B.
template <class T, BsrLayout Layout>
__global__ void __launch_bounds__(WgmmaTile::kMaxThreads, 2)
    bsr_spmm_wgmma(const __grid_constant__ CUtensorMap map_a,
                   const __grid_constant__ CUtensorMap map_b, const BsrWgmmaArgs<T> args) {
  using Tile = WgmmaTile;
  const Tile shape = args.tile;
  constexpr bool kByColumns = Layout == BsrLayout::columns;
  constexpr bool kTransposed = Layout == BsrLayout::transposed;
  constexpr int kSide = Tile::kSide;
  __shared__ std::uint64_t full[Tile::kMaxStages], empty[Tile::kMaxStages];
  unsigned char* ring = dynamic_shared<unsigned char>();
  ring += (0 - reinterpret_cast<std::uintptr_t>(ring)) % 1024;  // where a swizzle's pattern begins
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int groups = shape.groups(), stages = shape.stages();
  const int stage_bytes = shape.stage(), rows = shape.rows();
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
  const int column0 = static_cast<int>(blockIdx.x / args.row_tiles) * shape.columns();
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
  // A warpgroup's place among those of the block.
  const int below = shape.across == 1 ? warp / 4 : 0, beside = shape.across == 1 ? 0 : warp / 4;
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
        for (int box = 0; box < shape.down; ++box) {
          const int row = inner_row + box * kSide;
          if constexpr (kTransposed) {
            tile_load<2>(to, map_a, {row, block * args.block_cols + place * kSide}, full + stage);
          } else {
            tile_load<2>(to, map_a, {place * kSide, block * args.block_rows + row}, full + stage);
          }
          to += Tile::kBox;
        }
        const int k = row_of_b + place * kSide;
        for (int box = 0; box < 2 * shape.across; ++box) {
          const int column = column0 + box * kSide;
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
    __syncwarp();  // the block's barrier takes whole warps
  } else {
    // Rows of 128 bytes, eight to a pattern of 1024. Sixteen of depth are 32 bytes of each row, or
    // sixteen rows of a matrix whose rows are depth; the second 64 columns of such a B are the
    // next box.
    constexpr std::uint64_t kStepA = (kTransposed ? 16 * 128 : 32) / 16;
    constexpr std::uint64_t kStepB = (kByColumns ? 32 : 16 * 128) / 16;
    int before = -1;  // the stage that the last products read
#pragma unroll 1
    for (int slice = (end - begin) * deep; slice > 0; --slice) {
      const unsigned char* const a = ring + stage * stage_bytes + below * Tile::kBox;
      const unsigned char* const b =
          ring + stage * stage_bytes + (shape.down + 2 * beside) * Tile::kBox;
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
  const int pitch = shape.pitch();
  if (warp < 4 * groups) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < Tile::kColumns / 2; i += 2) {
      const int row = below * kSide + warp % 4 * 16 + g + i % 4 / 2 * 8;
      const int column = beside * Tile::kColumns + i / 4 * 8 + 2 * t;
      *reinterpret_cast<float2*>(tile + row * pitch + column) = make_float2(sums[i], sums[i + 1]);
    }
  }
  __syncthreads();  // orders the writes of all sums before they are read in another order

  store_tile(args.to, kByColumns, SumsTile(rows, shape.columns(), pitch), tile,
             static_cast<std::int64_t>(row_tile) * rows, column0, thread, shape.threads());
}

}  // namespace gossamer::cuda
