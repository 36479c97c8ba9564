#pragma once

// Products with blocks of half precision on tensor cores. A thread block computes a tile of the
// result: as many rows as divide a row of blocks, by 32 columns a warp. It walks the blocks in
// their order, in slices of A [rows, depth] and B [depth, columns], which asynchronous copies bring
// to a ring of stages in shared memory while the oldest is multiplied.
//
// A slice costs a warp rows/16 + 2 ldmatrix.x4 and rows/4 mma a 16 of depth: of 32 rows, 4 loads of
// 512 bytes for 8 products, so that 4 warps read shared memory at half the rate at which they
// multiply. Rows of a stage are padded by 16 bytes, which puts the eight rows of an ldmatrix into
// different banks.

#include "kernels/epilogue.cuh"
#include "ptx.cuh"

namespace gossamer::cuda {

template <class T>
struct BsrMmaArgs {
  const int* indptr;
  const int* indices;
  const T* blocks;
  int block_rows, block_cols;  // multiples of the tile's rows and of the slice's depth
  unsigned row_tiles;
  const T* b;
  std::int64_t ldb;
  std::int64_t n;
  T* out;
  std::int64_t ldo;
  Finish<T> finish;
  int copy_a, copy_b;  // bytes that copies of A and B may take at a time: 16, 8, 4 or 2
  bool packs;          // eight neighbours of out may be written at once
};

/// A tile's sizes. `ByColumns`: B lies [n, k], and out [n, m].
template <int Rows, int Depth, int Warps, bool ByColumns>
struct BsrMmaTile {
  static constexpr int kRows = Rows, kDepth = Depth, kWarps = Warps;
  static constexpr int kThreads = 32 * Warps, kColumns = 32 * Warps;
  static constexpr int kStages = Depth == 16 ? 4 : 3;
  static constexpr int kPad = 8;  // elements of 2 bytes
  static constexpr int kPitchA = Depth + kPad;
  static constexpr int kRowsB = ByColumns ? kColumns : Depth;
  static constexpr int kLengthB = ByColumns ? Depth : kColumns;
  static constexpr int kPitchB = kLengthB + kPad;
  static constexpr int kStageElements = Rows * kPitchA + kRowsB * kPitchB;
  static constexpr int kPitchSums = kColumns + 4;
  static constexpr int kRing = kStages * kStageElements * 2;
  static constexpr int kSums = Rows * kPitchSums * 4;
  static constexpr int kShared = kRing > kSums ? kRing : kSums;
  static_assert(kStageElements * 2 % 16 == 0 && kPitchA * 2 % 16 == 0 && kPitchB * 2 % 16 == 0,
                "ldmatrix and 16-byte copies need rows at multiples of 16 bytes");
};

/// Copies a [Rows, Length] piece to shared rows `Pitch` apart, `bytes` at a time; rows from `rows`
/// on and columns from `columns` on become zero. `columns` is a multiple of the elements of a copy.
template <int Rows, int Length, int Pitch, int Threads, int Bytes, class T>
__device__ __forceinline__ void copy_piece(T* shared, const T* global, std::int64_t stride,
                                           std::int64_t rows, std::int64_t columns, int thread) {
  constexpr int kElements = Bytes / static_cast<int>(sizeof(T)), kAcross = Length / kElements;
#pragma unroll 4
  for (int i = thread; i < Rows * kAcross; i += Threads) {
    const int row = i / kAcross, column = i % kAcross * kElements;
    const bool valid = row < rows && column < columns;
    T* to = shared + row * Pitch + column;
    // An invalid copy does not read, but its address must be one.
    const T* from = valid ? global + row * stride + column : global;
    if constexpr (Bytes >= 4) {
      cp_async<Bytes>(to, from, valid);
    } else {
      *to = valid ? *from : narrow<T>(0.0f);
    }
  }
}

template <int Rows, int Length, int Pitch, int Threads, class T>
__device__ __forceinline__ void copy_piece(int bytes, T* shared, const T* global,
                                           std::int64_t stride, std::int64_t rows,
                                           std::int64_t columns, int thread) {
  switch (bytes) {
    case 16:
      return copy_piece<Rows, Length, Pitch, Threads, 16>(shared, global, stride, rows, columns,
                                                          thread);
    case 8:
      return copy_piece<Rows, Length, Pitch, Threads, 8>(shared, global, stride, rows, columns,
                                                         thread);
    case 4:
      return copy_piece<Rows, Length, Pitch, Threads, 4>(shared, global, stride, rows, columns,
                                                         thread);
    default:
      return copy_piece<Rows, Length, Pitch, Threads, 2>(shared, global, stride, rows, columns,
                                                         thread);
  }
}

/// sums += A · B for a stage: `a` [Rows, Depth], `b` the warp's 32 columns.
template <class Tile, bool ByColumns, class T>
__device__ __forceinline__ void multiply_stage(const T* a, const T* b, int lane,
                                               float (&sums)[Tile::kRows / 16][4][4]) {
  constexpr int kTall = Tile::kRows / 16;
  // Lane 8i + j names row j of matrix i: the second matrix is eight rows down, the third eight
  // columns on; for B by columns the other way round.
  const int j = lane % 8, low = lane / 8 % 2 * 8, high = lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < Tile::kDepth; k += 16) {
    std::uint32_t left[kTall][4], right[2][4];
#pragma unroll
    for (int i = 0; i < kTall; ++i) {
      ldmatrix_x4(left[i], a + (16 * i + low + j) * Tile::kPitchA + k + high);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (ByColumns) {
        ldmatrix_x4(right[i], b + (16 * i + high + j) * Tile::kPitchB + k + low);
      } else {
        ldmatrix_x4_trans(right[i], b + (k + low + j) * Tile::kPitchB + 16 * i + high);
      }
    }
#pragma unroll
    for (int i = 0; i < kTall; ++i) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const std::uint32_t column[2] = {right[c / 2][c % 2 * 2], right[c / 2][c % 2 * 2 + 1]};
        mma_m16n8k16<T>(sums[i][c], left[i], column);
      }
    }
  }
}

template <class T, int Rows, int Depth, int Warps, bool ByColumns>
__global__ void __launch_bounds__(32 * Warps, 16 / Warps) bsr_spmm_mma(const BsrMmaArgs<T> args) {
  using Tile = BsrMmaTile<Rows, Depth, Warps, ByColumns>;
  T* const ring = dynamic_shared<T>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  // Tiles of rows first, so that blocks at work together share their columns of B.
  const int row_tile = static_cast<int>(blockIdx.x % args.row_tiles);
  const std::int64_t column0 =
      static_cast<std::int64_t>(blockIdx.x / args.row_tiles) * Tile::kColumns;
  const int tall = args.block_rows / Rows, deep = args.block_cols / Depth;
  const int block_row = row_tile / tall, inner_row = row_tile % tall * Rows;
  const int begin = args.indptr[block_row];
  const int slices = (args.indptr[block_row + 1] - begin) * deep;
  const std::int64_t columns = args.n - column0;

  // The slice that the next load brings: its block, its place in it, and the block's column, which
  // is read an iteration before it is needed.
  int next_slice = 0, block = begin, place = 0;
  int column_of_blocks = slices > 0 ? args.indices[begin] : 0;
  const auto load = [&] {
    if (next_slice < slices) {
      T* const stage = ring + next_slice % Tile::kStages * Tile::kStageElements;
      const T* const a =
          args.blocks +
          (static_cast<std::int64_t>(block) * args.block_rows + inner_row) * args.block_cols +
          place * Depth;
      copy_piece<Rows, Depth, Tile::kPitchA, Tile::kThreads>(args.copy_a, stage, a, args.block_cols,
                                                             Rows, Depth, thread);
      const std::int64_t k =
          static_cast<std::int64_t>(column_of_blocks) * args.block_cols + place * Depth;
      T* const to = stage + Rows * Tile::kPitchA;
      if constexpr (ByColumns) {
        copy_piece<Tile::kRowsB, Tile::kLengthB, Tile::kPitchB, Tile::kThreads>(
            args.copy_b, to, args.b + column0 * args.ldb + k, args.ldb, columns, Depth, thread);
      } else {
        copy_piece<Tile::kRowsB, Tile::kLengthB, Tile::kPitchB, Tile::kThreads>(
            args.copy_b, to, args.b + k * args.ldb + column0, args.ldb, Depth, columns, thread);
      }
      ++next_slice;
      if (++place == deep) {
        place = 0;
        ++block;
        if (next_slice < slices) column_of_blocks = args.indices[block];
      }
    }
    // A group a slice, of nothing at the end, so that waiting counts slices.
    cp_async_commit();
  };

  float sums[Rows / 16][4][4] = {};
#pragma unroll
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) load();
  for (int slice = 0; slice < slices; ++slice) {
    cp_async_wait<Tile::kStages - 2>();
    __syncthreads();  // the slice's copies by all threads; reads of the stage that is loaded next
    load();
    const T* const stage = ring + slice % Tile::kStages * Tile::kStageElements;
    const T* const b = stage + Rows * Tile::kPitchA;
    multiply_stage<Tile, ByColumns>(stage, b + 32 * warp * (ByColumns ? Tile::kPitchB : 1), lane,
                                    sums);
  }
  cp_async_wait<0>();
  __syncthreads();  // reads of the ring before it becomes a tile of sums

  float* const tile = reinterpret_cast<float*>(ring);
#pragma unroll
  for (int i = 0; i < Rows / 16; ++i) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* const to = tile + (16 * i + 8 * half + lane / 4) * Tile::kPitchSums + 32 * warp +
                          8 * c + lane % 4 * 2;
        to[0] = sums[i][c][2 * half];
        to[1] = sums[i][c][2 * half + 1];
      }
    }
  }
  __syncthreads();  // all sums before they are read in another order

  const std::int64_t row0 = static_cast<std::int64_t>(row_tile) * Rows;
  if (!ByColumns && args.packs) {
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
    // Neighbours in out, by row or by column, fall to neighbouring threads.
    const int row = ByColumns ? i % Rows : i / Tile::kColumns;
    const int column = ByColumns ? i / Rows : i % Tile::kColumns;
    if (column >= columns) continue;
    T* const to = ByColumns ? args.out + (column0 + column) * args.ldo + row0 + row
                            : args.out + (row0 + row) * args.ldo + column0 + column;
    args.finish.store(to, tile[row * Tile::kPitchSums + column], row0 + row);
  }
}

}  // namespace gossamer::cuda
