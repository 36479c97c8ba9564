#pragma once

// Products with blocks of half precision on tensor cores. A thread block computes a tile of the
// result: as many rows as divide a row of blocks, by 32 columns for each warp. It goes through the
// blocks in order, in slices of A [rows, depth] and B [depth, columns]; asynchronous copies bring
// these into a ring of stages in shared memory while the oldest stage is multiplied. With 16 rows,
// a slice has four pieces of 16 by 16, which may be of four blocks.
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
  std::int64_t block_size;  // elements
  unsigned row_tiles;
  const T* b;
  std::int64_t ldb;
  MmaOutput<T> to;
  bool wide_a, wide_b;    // whether A and B can be copied 16 bytes at a time
  bool along_a, along_b;  // whether blocks are stored by rows, and B by columns
  bool down;              // out is stored as [n, m]
};

/// Goes through the slices of a row of blocks, or where thread blocks share it (blockIdx.y),
/// through an equal part of them. A slice has several pieces, which may be of different blocks;
/// this is about one of them. What it needs is read one slice before.
template <int Pieces, bool Ordered>
struct BsrSlices {
  int deep;           // pieces of a block
  int blocks, rest;   // a slice has so many blocks' pieces, and these besides
  int left;           // pieces from this slice's first one on
  int piece;          // which of the slice
  int entry, place;   // its entry, and its place within the block
  int block, column;  // the block, and its column of blocks

  template <class Args>
  __device__ __forceinline__ BsrSlices(const Args& args, int block_row, int depth, int which)
      : deep(args.block_cols / depth),
        blocks(Pieces / deep),
        rest(Pieces % deep),
        piece(which),
        block(0),
        column(0) {
    const int begin = args.indptr[block_row];
    const std::int64_t all = static_cast<std::int64_t>(args.indptr[block_row + 1] - begin) * deep;
    int first = 0, last = static_cast<int>(all);
    if (gridDim.y > 1) {
      first = static_cast<int>(all * blockIdx.y / gridDim.y);
      last = static_cast<int>(all * (blockIdx.y + 1) / gridDim.y);
    }
    left = last - first;
    entry = begin + (first + piece) / deep;
    place = (first + piece) % deep;
    read(args);
  }

  [[nodiscard]] __device__ __forceinline__ bool valid() const {
    return Pieces == 1 || piece < left;
  }

  template <class Args>
  __device__ __forceinline__ void read(const Args& args) {
    if (left <= piece) return;
    column = args.indices[entry];
    block = entry;
    if (Ordered && args.order != nullptr) block = args.order[entry];
  }

  template <class Args>
  __device__ __forceinline__ void next(const Args& args) {
    left -= Pieces;
    if constexpr (Pieces == 1) {
      if (++place < deep) return;
      place = 0;
      ++entry;
    } else {
      entry += blocks;
      place += rest;
      if (place >= deep) {
        place -= deep;
        ++entry;
      }
    }
    read(args);
  }
};

/// a · b of numbers that are not negative, in one instruction or, where b is wide, in two: with
/// signs the compiler takes four.
__device__ __forceinline__ std::int64_t times(int a, int b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(static_cast<std::uint32_t>(a)) *
                                   static_cast<std::uint32_t>(b));
}
__device__ __forceinline__ std::int64_t times(int a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(static_cast<std::uint32_t>(a)) *
                                   static_cast<std::uint64_t>(b));
}

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

  // The next slice that load() brings: a group of threads has a piece of it.
  constexpr int kPieces = Depth / Rows, kGroup = Tile::kThreads / kPieces;
  constexpr bool kWhole = kPieces == 1;  // a slice has all of its pieces
  BsrSlices<kPieces, Tile::kTransposed> slices(args, row_tile / tall, Rows,
                                               kWhole ? 0 : thread / kGroup);
  const int member = thread % kGroup, count = (slices.left + kPieces - 1) / kPieces;
  T* const ring_end = ring + Tile::kStages * Tile::kStageElements;
  int next_at = 0;  // the next stage: a pointer to it takes two registers
  const auto load = [&] {
    if (slices.left > 0) {
      T* const next_stage = ring + next_at;
      T* const to_a = next_stage + slices.piece * Rows * (Tile::kTransposed ? Tile::kPitchA : 1);
      T* const to_b =
          next_stage + Tile::kStageA + slices.piece * Rows * (Tile::kByColumns ? 1 : Tile::kPitchB);
      next_at += Tile::kStageElements;
      if (next_at == Tile::kStages * Tile::kStageElements) next_at = 0;
      const int inner_column = slices.place * Rows;
      // What the last slice is short of becomes zeros.
      const int across = slices.valid() ? Rows : 0;
      if constexpr (Tile::kTransposed) {
        const T* const a = args.blocks + times(slices.block, args.block_size) +
                           (times(inner_column, args.block_rows) + inner_row);
        copy_tile<Rows, Rows, Tile::kPitchA, kGroup, true, kWhole>(
            args.wide_a, to_a, a, args.block_rows, Rows, across, member);
      } else {
        const T* const a = args.blocks + times(slices.entry, args.block_size) +
                           (times(inner_row, args.block_cols) + inner_column);
        copy_tile<Rows, Rows, Tile::kPitchA, kGroup, true, kWhole>(
            args.wide_a, to_a, a, args.block_cols, Rows, across, member);
      }
      const int k = slices.column * args.block_cols + inner_column;  // a row of B, so an int
      if constexpr (Tile::kByColumns) {
        copy_tile<Tile::kRowsB, Rows, Tile::kPitchB, kGroup, false, kWhole>(
            args.wide_b, to_b, args.b + column0 * args.ldb + k, args.ldb, columns, across, member);
      } else {
        copy_tile<Rows, Tile::kLengthB, Tile::kPitchB, kGroup, true, false>(
            args.wide_b, to_b, args.b + times(k, args.ldb) + column0, args.ldb, Rows,
            slices.valid() ? columns : 0, member);
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

  constexpr SumsTile kShape(Rows, Tile::kColumns, Tile::kPitchSums);
  store_tile(args.to, Tile::kByColumns, kShape, tile, static_cast<std::int64_t>(row_tile) * Rows,
             column0, thread, Tile::kThreads);
}

}  // namespace gossamer::cuda
