#pragma once

// Sampled A · Bᵀ for blocks of half precision on tensor cores. The blocks of a row of blocks, side
// by side, form a matrix; each of its columns belongs to a row of B, anywhere in memory. A thread
// block computes a tile of this matrix, of 16 or 32 rows by 32 columns for each warp, in slices of
// depth 32 that asynchronous copies bring into a ring of stages in shared memory. So the rows of A
// are read once for 128 columns.
//
// Each row of blocks has as many tiles as its blocks need, and thread blocks find theirs by a
// search. So rows of any length are balanced, and the host need not know their lengths.

#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"
#include "products/kernels/bsr_mma.cuh"
#include "products/kernels/sddmm_dense.cuh"

namespace gossamer::cuda {

template <class T>
struct BsrSddmmArgs {
  const int* indptr;
  const int* indices;
  int rows;                    // rows of blocks
  int block_rows, block_cols;  // multiples of the tile's rows, and of 8
  int tall;                    // how many tiles one below the other a block has
  SddmmDense<T> dense;
  int copy_a, copy_b;  // bytes that one copy of A or of B may move: 16, 8, 4 or 2
  bool packs;          // whether eight neighbours of out can be written at once
};

inline constexpr int kSddmmDepth = 32;

/// The number of the first tile of a row of blocks whose first block is number `place`. Up to the
/// next row's first tile there are as many as the row can need: floor(y) - floor(x) + 1, if its
/// columns begin at x tiles and end at y tiles.
__host__ __device__ inline std::int64_t first_tile(std::int64_t row, std::int64_t place,
                                                   int block_cols, int columns) {
  return place * block_cols / columns + row;
}

template <class T, int Rows, int Warps>
__global__ void __launch_bounds__(32 * Warps, 16 / Warps)
    bsr_sddmm_mma(const BsrSddmmArgs<T> args) {
  using Tile = BsrMmaTile<Rows, kSddmmDepth, Warps, BsrLayout::columns>;
  __shared__ int row_of_b[Tile::kColumns];  // for each column; -1 beyond the last one
  T* const ring = dynamic_shared<T>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const std::int64_t number = blockIdx.x / static_cast<unsigned>(args.tall);
  const int inner_row = static_cast<int>(blockIdx.x % static_cast<unsigned>(args.tall)) * Rows;
  const auto first = [&](int row) {
    return first_tile(row, args.indptr[row], args.block_cols, Tile::kColumns);
  };
  const int row = last_up_to(first, 0, args.rows, number, lane);
  const int begin = args.indptr[row];
  const int column0 = static_cast<int>(number - first(row)) * Tile::kColumns;
  const int columns = (args.indptr[row + 1] - begin) * args.block_cols - column0;
  if (columns <= 0) return;  // for the whole thread block
  for (int c = thread; c < Tile::kColumns; c += Tile::kThreads) {
    const int column = column0 + c;
    row_of_b[c] = c < columns ? args.indices[begin + column / args.block_cols] * args.block_cols +
                                    column % args.block_cols
                              : -1;
  }
  __syncthreads();  // orders the writes of row_of_b before the first copies

  const T* const a = args.dense.a + (static_cast<std::int64_t>(row) * args.block_rows + inner_row) *
                                        args.dense.lda;
  const auto slices = static_cast<int>((args.dense.depth + kSddmmDepth - 1) / kSddmmDepth);
  int next_slice = 0;
  const auto load = [&] {
    if (next_slice < slices) {
      T* const stage = ring + next_slice % Tile::kStages * Tile::kStageElements;
      const std::int64_t k = static_cast<std::int64_t>(next_slice) * kSddmmDepth;
      const std::int64_t depth = args.dense.depth - k;
      copy_piece<Rows, kSddmmDepth, Tile::kPitchA, Tile::kThreads>(
          args.copy_a, stage, a + k, args.dense.lda, Rows, depth, thread);
      const auto row_at = [&](int c) {
        return row_of_b[c] < 0 ? nullptr : args.dense.b + row_of_b[c] * args.dense.ldb + k;
      };
      copy_rows<Tile::kRowsB, Tile::kLengthB, Tile::kPitchB, Tile::kThreads>(
          args.copy_b, stage + Tile::kStageA, args.dense.b, row_at, depth, thread);
      ++next_slice;
    }
    // Each slice has a group, at the end an empty one, so that waiting counts slices.
    cp_async_commit();
  };

  float sums[Rows / 16][4][4] = {};
#pragma unroll
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) load();
  for (int slice = 0; slice < slices; ++slice) {
    cp_async_wait<Tile::kStages - 2>();
    __syncthreads();  // orders all threads' copies of this slice before its reads, and the last
                      // reads of the stage that is loaded next
    load();
    const T* const stage = ring + slice % Tile::kStages * Tile::kStageElements;
    multiply_stage<Tile>(stage, stage + Tile::kStageA + 32 * warp * Tile::kPitchB, lane, sums);
  }
  cp_async_wait<0>();
  __syncthreads();  // orders the reads of the ring before it is used for the tile of sums

  float* const tile = reinterpret_cast<float*>(ring);
  spread_sums<Tile>(sums, tile, 32 * warp, lane);
  __syncthreads();  // orders the writes of all sums before they are read in another order

  constexpr int kAcross = Tile::kColumns / 8;
  for (int i = thread; i < Rows * kAcross; i += Tile::kThreads) {
    const int r = i / kAcross, c = i % kAcross * 8;
    if (c >= columns) continue;
    const float* const from = tile + r * Tile::kPitchSums + c;
    const std::int64_t block = begin + (column0 + c) / args.block_cols;
    T* const to = args.dense.out + (block * args.block_rows + inner_row + r) * args.block_cols +
                  (column0 + c) % args.block_cols;
    Pack<T, 8> y = {};
    if (args.dense.accumulate && args.packs) y = load_pack<8>(to);
#pragma unroll
    for (int l = 0; l < 8; ++l) {
      if (args.dense.accumulate && !args.packs) y.at[l] = to[l];
      y.at[l] = narrow<T>(args.dense.accumulate ? from[l] + widen(y.at[l]) : from[l]);
      if (!args.packs) to[l] = y.at[l];
    }
    if (args.packs) store_pack<8>(to, y);
  }
}

}  // namespace gossamer::cuda
