#pragma once

// Products with blocks of half precision on tensor cores. A thread block computes a tile of the
// result: as many rows as divide a row of blocks, by 32 columns for each warp. It goes through the
// blocks in order, in slices of A [rows, depth] and B [depth, columns]; asynchronous copies bring
// these into a ring of stages in shared memory while the oldest stage is multiplied.
//
// For each 16 of depth, a warp issues rows/16 + 2 ldmatrix.x4 and rows/4 mma. With 32 rows these
// are 4 loads of 512 bytes for 8 products, so 4 warps read shared memory at half the rate at which
// they multiply. Rows of a stage are padded by 16 bytes, so that the eight rows of an ldmatrix are
// in different banks.

#include "products/kernels/bsr_mma.cuh"
#include "products/kernels/mma_output.cuh"

namespace gossamer::cuda {

template <class T>
struct BsrMmaArgs {
  const int* indptr;
  const int* indices;
  const int* order;  // which block entry p has, where blocks are stored transposed
  const T* blocks;
  int block_rows,
      block_cols;  // of the product's A: multiples of the tile's rows and of the slice's depth
  unsigned row_tiles;
  const T* b;
  std::int64_t ldb;
  MmaOutput<T> to;
  bool wide_a, wide_b;    // whether A and B can be copied 16 bytes at a time
  bool along_a, along_b;  // whether blocks are stored by rows, and B by columns
  bool down;              // out is stored as [n, m]
};

/// Goes through the slices of a row of blocks, or where thread blocks share it (blockIdx.y),
/// through an equal part of them. What a slice needs is read one slice before.
template <bool Ordered>
struct BsrSlices {
  int deep;           // slices of a block
  int left;           // slices from this one on
  int entry, place;   // this slice's entry, and its place within the block
  int block, column;  // the block, and its column of blocks

  template <class Args>
  __device__ __forceinline__ BsrSlices(const Args& args, int block_row, int depth)
      : deep(args.block_cols / depth), block(0), column(0) {
    const int begin = args.indptr[block_row];
    const std::int64_t all = static_cast<std::int64_t>(args.indptr[block_row + 1] - begin) * deep;
    int first = 0, last = static_cast<int>(all);
    if (gridDim.y > 1) {
      first = static_cast<int>(all * blockIdx.y / gridDim.y);
      last = static_cast<int>(all * (blockIdx.y + 1) / gridDim.y);
    }
    left = last - first;
    entry = begin + first / deep;
    place = first % deep;
    read(args);
  }

  template <class Args>
  __device__ __forceinline__ void read(const Args& args) {
    if (left <= 0) return;
    column = args.indices[entry];
    block = entry;
    if (Ordered && args.order != nullptr) block = args.order[entry];
  }

  template <class Args>
  __device__ __forceinline__ void next(const Args& args) {
    --left;
    if (++place < deep) return;
    place = 0;
    ++entry;
    read(args);
  }
};

/// How many warps should fit on a multiprocessor; limits the registers of a thread.
constexpr int bsr_warps(BsrLayout layout) { return layout == BsrLayout::transposed ? 12 : 16; }

template <class T, int Rows, int Depth, int Warps, BsrLayout Layout>
__global__ void __launch_bounds__(32 * Warps, bsr_warps(Layout) / Warps)
    bsr_spmm_mma(const BsrMmaArgs<T> args) {
  using Tile = BsrMmaTile<Rows, Depth, Warps, Layout>;
  T* const ring = dynamic_shared<T>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  // Neighbouring thread blocks have different rows and the same columns, so they share rows of B.
  const int row_tile = static_cast<int>(blockIdx.x % args.row_tiles);
  const std::int64_t column0 =
      static_cast<std::int64_t>(blockIdx.x / args.row_tiles) * Tile::kColumns;
  const int tall = args.block_rows / Rows;
  const int inner_row = row_tile % tall * Rows;
  const std::int64_t columns = args.to.n - column0;

  BsrSlices<Tile::kTransposed> slices(args, row_tile / tall, Depth);  // the next that load() brings
  const int count = slices.left;
  T* const ring_end = ring + Tile::kStages * Tile::kStageElements;
  T* next_stage = ring;
  const auto load = [&] {
    if (slices.left > 0) {
      T* const stage = next_stage;
      next_stage += Tile::kStageElements;
      if (next_stage == ring_end) next_stage = ring;
      const int inner_column = slices.place * Depth;
      if constexpr (Tile::kTransposed) {
        const T* const a =
            args.blocks +
            (static_cast<std::int64_t>(slices.block) * args.block_cols + inner_column) *
                args.block_rows +
            inner_row;
        copy_tile<Depth, Rows, Tile::kPitchA, Tile::kThreads, true, true>(
            args.wide_a, stage, a, args.block_rows, Depth, Rows, thread);
      } else {
        const T* const a = args.blocks +
                           (static_cast<std::int64_t>(slices.entry) * args.block_rows + inner_row) *
                               args.block_cols +
                           inner_column;
        copy_tile<Rows, Depth, Tile::kPitchA, Tile::kThreads, true, true>(
            args.wide_a, stage, a, args.block_cols, Rows, Depth, thread);
      }
      const std::int64_t k =
          static_cast<std::int64_t>(slices.column) * args.block_cols + inner_column;
      T* const to = stage + Tile::kStageA;
      if constexpr (Tile::kByColumns) {
        copy_tile<Tile::kRowsB, Tile::kLengthB, Tile::kPitchB, Tile::kThreads, false, true>(
            args.wide_b, to, args.b + column0 * args.ldb + k, args.ldb, columns, Depth, thread);
      } else {
        copy_tile<Tile::kRowsB, Tile::kLengthB, Tile::kPitchB, Tile::kThreads, true, false>(
            args.wide_b, to, args.b + k * args.ldb + column0, args.ldb, Depth, columns, thread);
      }
      slices.next(args);
    }
    // Each slice has a group, at the end an empty one, so that waiting counts slices.
    cp_async_commit();
  };

  float sums[Rows / 16][4][4] = {};
#pragma unroll 1
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) load();
  const T* stage = ring;
  for (int slice = 0; slice < count; ++slice) {
    cp_async_wait<Tile::kStages - 2>();
    __syncthreads();  // orders all threads' copies of this slice before its reads, and the last
                      // reads of the stage that is loaded next
    load();
    const T* const b = stage + Tile::kStageA;
    multiply_stage<Tile>(stage, b + 32 * warp * (Tile::kByColumns ? Tile::kPitchB : 1), lane, sums);
    stage += Tile::kStageElements;
    if (stage == ring_end) stage = ring;
  }
  cp_async_wait<0>();
  __syncthreads();  // orders the reads of the ring before it is used for the tile of sums

  float* const tile = reinterpret_cast<float*>(ring);
  spread_sums<Tile>(sums, tile, 32 * warp, lane);
  __syncthreads();  // orders the writes of all sums before they are read in another order

  store_tile<Rows, Tile::kColumns, Tile::kPitchSums, Tile::kThreads>(
      args.to, Tile::kByColumns, tile, static_cast<std::int64_t>(row_tile) * Rows, column0, thread);
}

}  // namespace gossamer::cuda
