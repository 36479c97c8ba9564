#pragma once

// pack_wide on Hopper's wgmma. Two warpgroups compute 128 by 256 elements of C, one below the
// other. A warp expands the tile of 16 by 64 of its strip into registers, which are A's operands of
// a warpgroup's product, and does so while the products of the slice before run: it has two sets of
// these registers. B comes to a ring of stages in shared memory in boxes of 64 by 64, whose copies
// one thread starts; two mbarriers a stage say that it is full, and that all warps have multiplied
// by it. A warp for the copies alone would cost the others registers: ptxas shares them out among
// whole warpgroups.
//
// For up to 128 columns in all there are half of the products. That is a template's argument since
// a branch between products of a group makes ptxas wait for them.

#include "base/hopper.cuh"
#include "products/kernels/pack_wide.cuh"
#include "products/wgmma.h"

namespace gossamer::cuda {

inline constexpr int kPackWgmmaThreads = 32 * kPackWideStrips;

/// The parts of dynamic shared memory, in bytes: a ring of slices of B, which begins at a multiple
/// of 1024, and what each warp expands a tile with.
struct PackWgmmaShared {
  static constexpr int kStages = 4;
  static constexpr int kAhead = 2;  // slices, of the copies before the products
  static constexpr int kBoxes = kWideColumns / kWgmmaSide;
  static constexpr int kStage = kBoxes * kWgmmaBoxBytes;
  static constexpr int kRing = kStages * kStage;
  static constexpr int kWarp = 4 * kPackedWords;
  static constexpr int kParts = kRing + kPackWideStrips * kWarp;
  static constexpr int kSums = kPackWideRows * kWidePitch * 4;
  static constexpr int kBytes = 1024 + (kParts > kSums ? kParts : kSums);
  static_assert(kTileCols == kWgmmaSide && kBytes <= 227 * 1024, "what a block may have on sm_90");
};

/// `map` is that of B, for boxes of 64 by 64. `Along` is args.along; one of two Halves of the
/// columns is enough for C's.
template <class T, TileLayout Layout, bool Along, int Halves>
__global__ void __launch_bounds__(kPackWgmmaThreads, 1)
    pack_wgmma(const __grid_constant__ CUtensorMap map, const PackWideArgs<T> args) {
  using Shared = PackWgmmaShared;
  constexpr int kHalf = kWideColumns / 2;  // columns of a product
  __shared__ std::uint64_t full[Shared::kStages], empty[Shared::kStages];
  unsigned char* ring = dynamic_shared<unsigned char>();
  ring += (0 - reinterpret_cast<std::uintptr_t>(ring)) % 1024;  // where a swizzle's pattern begins
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  if (thread == 0) {
    for (int i = 0; i < Shared::kStages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, kPackWideStrips);
    }
    fence_mbarrier_init();
  }
  __syncthreads();  // orders the making of the mbarriers before their use

  // Neighbouring thread blocks have different rows and the same columns, so they share rows of B.
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x % args.row_tiles) * kPackWideRows;
  const std::int64_t column0 =
      static_cast<std::int64_t>(blockIdx.x / args.row_tiles) * kWideColumns;
  const int first = static_cast<int>(blockIdx.y) * args.split;
  const int last = least(first + args.split, args.a.slices), slices = last - first;

  // Slice i is that of depth first + i.
  const auto stage_of = [](int i) { return i % Shared::kStages; };
  const auto round_of = [](int i) { return static_cast<unsigned>(i / Shared::kStages) % 2; };
  const auto load = [&](int i) {
    constexpr int kBoxes = Shared::kBoxes / 2 * Halves;
    const int stage = stage_of(i);
    mbarrier_wait(empty + stage, round_of(i) ^ 1u);  // in the first round nobody reads
    mbarrier_arrive_expect(full + stage, kBoxes * kWgmmaBoxBytes);
    for (int box = 0; box < kBoxes; ++box) {
      unsigned char* const to = ring + stage * Shared::kStage + box * kWgmmaBoxBytes;
      const int column = static_cast<int>(column0) + box * kWgmmaSide, k = (first + i) * kTileCols;
      if constexpr (Along) {
        tile_load<2>(to, map, {k, column}, full + stage);
      } else {
        tile_load<2>(to, map, {column, k}, full + stage);
      }
    }
  };
  if (thread == 0) {
    for (int i = 0; i < least(Shared::kAhead, slices); ++i) load(i);
  }
  __syncwarp();  // orders nothing: a warpgroup's instructions take whole warps

  const std::int64_t strip = row0 / kTileRows + warp;
  StripTiles<Layout> tiles(args.a, strip * args.a.slices + first,
                           strip < args.a.strips ? slices : 0, lane);
  auto* const shared = reinterpret_cast<std::uint32_t*>(ring + Shared::kRing) + warp * kPackedWords;
  // Rows of 128 bytes, eight to a pattern of 1024. Sixteen of depth are 32 bytes of each row, or
  // sixteen rows of a matrix whose rows are depth; its next 64 columns are the next box.
  constexpr std::uint64_t kStep = (Along ? 32 : 16 * 128) / 16;
  constexpr std::uint64_t kNext = Shared::kStage / 2 / 16;  // the second half of the columns
  float sums[Halves][kHalf / 2] = {};
  const auto multiply = [&](int i, const std::uint32_t (&left)[4][4]) {
    const int stage = stage_of(i);
    const std::uint64_t right = matrix_descriptor(
        ring + stage * Shared::kStage, Along ? 0 : kWgmmaBoxBytes, 1024, MatrixSwizzle::b128);
    mbarrier_wait(full + stage, round_of(i));
    wgmma_fence();
#pragma unroll
    for (int half = 0; half < Halves; ++half) {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const auto k = static_cast<std::uint64_t>(step) * kStep;
        wgmma_m64k16<T, kHalf, !Along>(sums[half], left[step],
                                       right + k + static_cast<std::uint64_t>(half) * kNext, 1);
      }
    }
    wgmma_commit();
    if (thread == 0 && i + Shared::kAhead < slices) load(i + Shared::kAhead);
    __syncwarp();     // as above
    wgmma_wait<1>();  // for the products of the slice before: their operands are free
    if (i > 0 && lane == 0) mbarrier_arrive(empty + stage_of(i - 1));
  };
  std::uint32_t even[4][4], odd[4][4];
  if (slices > 0) tiles.template expand<WideOrder::natural>(shared, lane, even);
#pragma unroll 1
  for (int i = 0; i < slices; i += 2) {
    multiply(i, even);
    if (i + 1 == slices) break;
    tiles.template expand<WideOrder::natural>(shared, lane, odd);
    multiply(i + 1, odd);
    if (i + 2 < slices) tiles.template expand<WideOrder::natural>(shared, lane, even);
  }
  wgmma_wait<0>();
  __syncthreads();  // orders the last reads of the ring before it is used for the sums

  float* const sums_of = reinterpret_cast<float*>(ring);
  float zero = 0.0f;
#pragma unroll
  for (int half = 0; half < Halves; ++half) {
#pragma unroll
    for (int i = 0; i < kHalf / 2; i += 2) {
      const int row = warp * 16 + lane / 4 + i % 4 / 2 * 8;
      const int column = half * kHalf + i / 4 * 8 + lane % 4 * 2;
      const Pack<float, 2> pair{{sums[half][i], sums[half][i + 1]}};
      store_pack<2>(sums_of + row * kWidePitch + column, pair);
      zero = fmaf(pair.at[0], 0.0f, fmaf(pair.at[1], 0.0f, zero));  // NaN of what is not finite
    }
  }
  finish_tile<kPackWgmmaThreads, Layout>(args, sums_of, zero, row0, column0, first, last, thread);
}

}  // namespace gossamer::cuda
