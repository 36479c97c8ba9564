#pragma once

// Sampled A · Bᵀ for blocks of half precision on tensor cores. The blocks of a row of blocks, side
// by side, are a matrix whose columns are rows of B, wherever those lie: a thread block computes a
// tile of it, of 16 or 32 rows by 32 columns a warp, in slices of 32 of depth that asynchronous
// copies bring to a ring of stages in shared memory. A's rows are so read once for 128 columns.
//
// Rows of blocks have tiles as their blocks need, and thread blocks find theirs by a search: rows
// of any length balance, and the host need not know any.

#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"
#include "products/kernels/bsr_mma.cuh"

namespace gossamer::cuda {

template <class T>
struct BsrSddmmArgs {
  const int* indptr;
  const int* indices;
  int rows;                    // of blocks
  int block_rows, block_cols;  // multiples of the tile's rows, and of 8
  int tall;                    // tiles one below the other in a block
  const T* a;
  std::int64_t lda;
  const T* b;
  std::int64_t ldb;
  std::int64_t depth;
  T* out;
  bool accumulate;
  int copy_a, copy_b;  // bytes that copies of A and B may take at a time: 16, 8, 4 or 2
  bool packs;          // eight neighbours of out may be written at once
};

inline constexpr int kSddmmDepth = 32;

/// The first tile of a row of blocks whose first block is `place`: up to the next row's first tile
/// there are as many as the row can need, floor(y) - floor(x) + 1 where its columns end at y tiles
/// and begin at x.
__host__ __device__ inline std::int64_t first_tile(std::int64_t row, std::int64_t place,
                                                   int block_cols, int columns) {
  return place * block_cols / columns + row;
}

template <class T, int Rows, int Warps>
__global__ void __launch_bounds__(32 * Warps, 16 / Warps)
    bsr_sddmm_mma(const BsrSddmmArgs<T> args) {
  using Tile = BsrMmaTile<Rows, kSddmmDepth, Warps, BsrLayout::columns>;
  __shared__ int row_of_b[Tile::kColumns];  // for each column; -1 beyond the last
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
  if (columns <= 0) return;  // the whole block
  for (int c = thread; c < Tile::kColumns; c += Tile::kThreads) {
    const int column = column0 + c;
    row_of_b[c] = c < columns ? args.indices[begin + column / args.block_cols] * args.block_cols +
                                    column % args.block_cols
                              : -1;
  }
  __syncthreads();  // the rows' places before the first copies

  const T* const a =
      args.a + (static_cast<std::int64_t>(row) * args.block_rows + inner_row) * args.lda;
  const auto slices = static_cast<int>((args.depth + kSddmmDepth - 1) / kSddmmDepth);
  int next_slice = 0;
  const auto load = [&] {
    if (next_slice < slices) {
      T* const stage = ring + next_slice % Tile::kStages * Tile::kStageElements;
      const std::int64_t k = static_cast<std::int64_t>(next_slice) * kSddmmDepth;
      const std::int64_t depth = args.depth - k;
      copy_piece<Rows, kSddmmDepth, Tile::kPitchA, Tile::kThreads>(args.copy_a, stage, a + k,
                                                                   args.lda, Rows, depth, thread);
      const auto row_at = [&](int c) {
        return row_of_b[c] < 0 ? nullptr : args.b + row_of_b[c] * args.ldb + k;
      };
      copy_rows<Tile::kRowsB, Tile::kLengthB, Tile::kPitchB, Tile::kThreads>(
          args.copy_b, stage + Tile::kStageA, args.b, row_at, depth, thread);
      ++next_slice;
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
    multiply_stage<Tile>(stage, stage + Tile::kStageA + 32 * warp * Tile::kPitchB, lane, sums);
  }
  cp_async_wait<0>();
  __syncthreads();  // reads of the ring before it becomes a tile of sums

  float* const tile = reinterpret_cast<float*>(ring);
  spread_sums<Tile>(sums, tile, 32 * warp, lane);
  __syncthreads();  // all sums before they are read in another order

  constexpr int kAcross = Tile::kColumns / 8;
  for (int i = thread; i < Rows * kAcross; i += Tile::kThreads) {
    const int r = i / kAcross, c = i % kAcross * 8;
    if (c >= columns) continue;
    const float* const from = tile + r * Tile::kPitchSums + c;
    const std::int64_t block = begin + (column0 + c) / args.block_cols;
    T* const to = args.out + (block * args.block_rows + inner_row + r) * args.block_cols +
                  (column0 + c) % args.block_cols;
    Pack<T, 8> y = {};
    if (args.accumulate && args.packs) y = load_pack<8>(to);
#pragma unroll
    for (int l = 0; l < 8; ++l) {
      if (args.accumulate && !args.packs) y.at[l] = to[l];
      y.at[l] = narrow<T>(args.accumulate ? from[l] + widen(y.at[l]) : from[l]);
      if (!args.packs) to[l] = y.at[l];
    }
    if (args.packs) store_pack<8>(to, y);
  }
}

}  // namespace gossamer::cuda
