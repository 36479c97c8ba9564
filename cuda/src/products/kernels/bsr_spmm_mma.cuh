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

#include "base/kernels/epilogue.cuh"
#include "products/kernels/bsr_mma.cuh"

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
  std::int64_t n;
  T* out;
  std::int64_t ldo;
  Finish<T> finish;
  bool wide_a, wide_b;  // whether A and B can be copied 16 bytes at a time
  bool packs;           // whether eight neighbours of out can be written at once
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
  const int tall = args.block_rows / Rows, deep = args.block_cols / Depth;
  const int block_row = row_tile / tall, inner_row = row_tile % tall * Rows;
  const int begin = args.indptr[block_row];
  const int slices = (args.indptr[block_row + 1] - begin) * deep;
  const std::int64_t columns = args.n - column0;

  // The slice that the next load() brings: its entry, its place within the block, the block and its
  // column. These are read one iteration before they are needed.
  int next_slice = 0, entry = begin, place = 0, block = begin;
  int column_of_blocks = slices > 0 ? args.indices[begin] : 0;
  if (Tile::kTransposed && slices > 0) block = args.order[begin];
  T* const ring_end = ring + Tile::kStages * Tile::kStageElements;
  T* next_stage = ring;
  const auto load = [&] {
    if (next_slice < slices) {
      T* const stage = next_stage;
      next_stage += Tile::kStageElements;
      if (next_stage == ring_end) next_stage = ring;
      if constexpr (Tile::kTransposed) {
        const T* const a =
            args.blocks +
            (static_cast<std::int64_t>(block) * args.block_cols + place * Depth) * args.block_rows +
            inner_row;
        copy_tile<Depth, Rows, Tile::kPitchA, Tile::kThreads, true, true>(
            args.wide_a, stage, a, args.block_rows, Depth, Rows, thread);
      } else {
        const T* const a =
            args.blocks +
            (static_cast<std::int64_t>(entry) * args.block_rows + inner_row) * args.block_cols +
            place * Depth;
        copy_tile<Rows, Depth, Tile::kPitchA, Tile::kThreads, true, true>(
            args.wide_a, stage, a, args.block_cols, Rows, Depth, thread);
      }
      const std::int64_t k =
          static_cast<std::int64_t>(column_of_blocks) * args.block_cols + place * Depth;
      T* const to = stage + Tile::kStageA;
      if constexpr (Tile::kByColumns) {
        copy_tile<Tile::kRowsB, Tile::kLengthB, Tile::kPitchB, Tile::kThreads, false, true>(
            args.wide_b, to, args.b + column0 * args.ldb + k, args.ldb, columns, Depth, thread);
      } else {
        copy_tile<Tile::kRowsB, Tile::kLengthB, Tile::kPitchB, Tile::kThreads, true, false>(
            args.wide_b, to, args.b + k * args.ldb + column0, args.ldb, Depth, columns, thread);
      }
      ++next_slice;
      if (++place == deep) {
        place = 0;
        ++entry;
        if (next_slice < slices) {
          column_of_blocks = args.indices[entry];
          if constexpr (Tile::kTransposed) block = args.order[entry];
        }
      }
    }
    // Each slice has a group, at the end an empty one, so that waiting counts slices.
    cp_async_commit();
  };

  float sums[Rows / 16][4][4] = {};
#pragma unroll 1
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) load();
  const T* stage = ring;
  for (int slice = 0; slice < slices; ++slice) {
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

  const std::int64_t row0 = static_cast<std::int64_t>(row_tile) * Rows;
  if (!Tile::kByColumns && args.packs) {
    constexpr int kAcross = Tile::kColumns / 8;
    for (int i = thread; i < Rows * kAcross; i += Tile::kThreads) {
      const int row = i / kAcross, column = i % kAcross * 8;
      if (column >= columns) continue;
      float pack[8];
#pragma unroll
      for (int l = 0; l < 8; ++l) pack[l] = tile[row * Tile::kPitchSums + column + l];
      args.finish.store_pack(args.out + (row0 + row) * args.ldo + column0 + column, pack,
                             row0 + row);
    }
    return;
  }
  for (int i = thread; i < Rows * Tile::kColumns; i += Tile::kThreads) {
    // Neighbours in out, by row or by column, are written by neighbouring threads.
    const int row = Tile::kByColumns ? i % Rows : i / Tile::kColumns;
    const int column = Tile::kByColumns ? i / Rows : i % Tile::kColumns;
    if (column >= columns) continue;
    T* const to = Tile::kByColumns ? args.out + (column0 + column) * args.ldo + row0 + row
                                   : args.out + (row0 + row) * args.ldo + column0 + column;
    args.finish.store(to, tile[row * Tile::kPitchSums + column], row0 + row);
  }
}

}  // namespace gossamer::cuda
