#pragma once

// Products of many columns with blocks of half precision whose rows are multiples of 64 and whose
// columns are multiples of 32. A thread block of four warps computes 64 by 256 elements of C, a
// warp 64 by 64 of these, so that shared memory and L2 are read for twice as many products a byte
// as with the tiles of bsr_spmm_mma. For a slice a warp issues 16 ldmatrix.x4, 64 mma and 10
// copies.
//
// Whether the blocks are stored transposed, and how B is stored, is asked at run time: each is one
// branch for the slice's operands.

#include "products/kernels/bsr_spmm_mma.cuh"
#include "products/kernels/wide_tile.cuh"

namespace gossamer::cuda {

inline constexpr int kBsrWideRows = kWideSide;
inline constexpr int kBsrWideThreads = 32 * kWideColumns / kWideSide;

/// The parts of shared memory, in elements of 2 bytes: a ring of slices of A and B.
struct BsrWideShared {
  static constexpr int kStages = 3;
  static constexpr int kA = kBsrWideRows * kWideDepth, kB = kWideColumns * kWideDepth;
  static constexpr int kStage = kA + kB;
  static constexpr int kRing = kStages * kStage * 2;
  static constexpr int kSums = kBsrWideRows * kWidePitch * 4;
  static constexpr int kBytes = kRing > kSums ? kRing : kSums;
  static_assert(2 * (kBytes + 1024) <= 164 * 1024,
                "two thread blocks on a multiprocessor of sm_80");
};

template <class T>
__global__ void __launch_bounds__(kBsrWideThreads, 2) bsr_spmm_wide(const BsrMmaArgs<T> args) {
  using Shared = BsrWideShared;
  constexpr auto kOrder = WideOrder::natural;
  T* const ring = dynamic_shared<T>();
  T* const ring_end = ring + Shared::kStages * Shared::kStage;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int warp_column = thread / 32 * kWideSide;
  // Neighbouring thread blocks have different rows and the same columns, so they share rows of B.
  const int row_tile = static_cast<int>(blockIdx.x % args.row_tiles);
  const std::int64_t column0 =
      static_cast<std::int64_t>(blockIdx.x / args.row_tiles) * kWideColumns;
  const int tall = args.block_rows / kBsrWideRows, inner_row = row_tile % tall * kBsrWideRows;
  const std::int64_t columns = args.to.n - column0;
  const int place = place_of_left(args.along_a, lane);

  BsrSlices<1, true> slices(args, row_tile / tall, kWideDepth, 0);  // the next that load() brings
  const int count = slices.left;
  T* next_stage = ring;
  const auto load = [&] {
    if (slices.left > 0) {
      const std::int64_t block = slices.block;
      const int inner_column = slices.place * kWideDepth;
      const T* const a =
          args.blocks +
          (args.along_a ? (block * args.block_rows + inner_row) * args.block_cols + inner_column
                        : (block * args.block_cols + inner_column) * args.block_rows + inner_row);
      copy_slice<kOrder, kBsrWideRows, kBsrWideThreads>(
          args.along_a, next_stage, a, args.along_a ? args.block_cols : args.block_rows,
          kBsrWideRows, kWideDepth, thread);
      const std::int64_t k =
          static_cast<std::int64_t>(slices.column) * args.block_cols + inner_column;
      const T* const b = args.b + (args.along_b ? column0 * args.ldb + k : k * args.ldb + column0);
      copy_slice<kOrder, kWideColumns, kBsrWideThreads>(args.along_b, next_stage + Shared::kA, b,
                                                        args.ldb, columns, kWideDepth, thread);
      next_stage += Shared::kStage;
      if (next_stage == ring_end) next_stage = ring;
      slices.next(args);
    }
    // Each slice has a group, at the end an empty one, so that waiting counts slices.
    cp_async_commit();
  };

  WideSums sums = {};
#pragma unroll 1
  for (int stage = 0; stage < Shared::kStages - 1; ++stage) load();
  const T* stage = ring;
#pragma unroll 1
  for (int slice = 0; slice < count; ++slice) {
    cp_async_wait<Shared::kStages - 2>();
    __syncthreads();  // orders all threads' copies of this slice before its reads, and the last
                      // reads of the stage that is loaded next
    load();
    if (warp_column < columns) {
      std::uint32_t right[kWideSide / 8][4];
      load_right<kOrder, kWideColumns>(args.along_b, stage + Shared::kA, warp_column / 8, lane,
                                       right);
      const auto load_rows = [&](int r, int product, std::uint32_t (&left)[4]) {
        load_left(args.along_a, stage, place, r, product, left);
      };
      multiply_slice<T>(load_rows, right, sums);
    }
    stage += Shared::kStage;
    if (stage == ring_end) stage = ring;
  }
  cp_async_wait<0>();
  __syncthreads();  // orders the reads of the ring before it is used for the tile of sums

  float* const tile = reinterpret_cast<float*>(ring);
  spread_sums(sums, tile + warp_column, lane);
  __syncthreads();  // orders the writes of all sums before they are read in another order

  constexpr SumsTile kShape(kBsrWideRows, kWideColumns, kWidePitch);
  store_tile(args.to, args.down, kShape, tile, static_cast<std::int64_t>(row_tile) * kBsrWideRows,
             column0, thread, kBsrWideThreads);
}

}  // namespace gossamer::cuda
