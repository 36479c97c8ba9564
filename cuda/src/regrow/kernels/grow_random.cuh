#pragma once

// Random places of those that are free, as the CPU draws them: their ranks among these are the
// first of a permutation. What is drawn is a set of bits, which the places look up by their ranks.

#include "base/kernels/scan.cuh"
#include "gossamer/detail/permutation.h"
#include "regrow/kernels/drop_grow.cuh"

namespace gossamer::cuda {

struct GrowRandomArgs {
  std::int64_t count;
  const std::uint8_t* free;  // nonzero where something may grow
  std::uint8_t* grown;       // gets 0 or 1
  std::int64_t draws;
  unsigned* bits;  // of the ranks, zeros at first
  Count* tiles;    // the free places of each tile, then up to each
};

/// A thread draws one rank.
static __global__ void __launch_bounds__(kMaskThreads)
    grow_draw(GrowRandomArgs a, const __grid_constant__ detail::Permutation permutation) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kMaskThreads + static_cast<int>(threadIdx.x);
  if (i >= a.draws) return;
  const Count rank = permutation(static_cast<Count>(i));
  atomicOr(a.bits + rank / 32, 1u << (rank % 32));
}

static __global__ void __launch_bounds__(kMaskThreads) grow_count_tiles(GrowRandomArgs a) {
  const GrowRun run = grow_run(a.count);
  unsigned own = 0, all = 0;
  for (int e = 0; e < run.count; ++e) own += a.free[run.first + e] != 0 ? 1 : 0;
  block_prefix<kMaskThreads>(own, &all);
  if (threadIdx.x == 0) a.tiles[blockIdx.x] = all;
}

static __global__ void __launch_bounds__(kScanThreads) grow_sum_tiles(Count* tiles, int n) {
  scan_totals(tiles, n);
}

static __global__ void __launch_bounds__(kMaskThreads) grow_look_up(GrowRandomArgs a) {
  const GrowRun run = grow_run(a.count);
  unsigned own = 0, all = 0;
  for (int e = 0; e < run.count; ++e) own |= a.free[run.first + e] != 0 ? 1u << e : 0u;
  Count rank = (blockIdx.x == 0 ? 0 : a.tiles[blockIdx.x - 1]) +
               block_prefix<kMaskThreads>(static_cast<unsigned>(__popc(own)), &all);
  for (int e = 0; e < run.count; ++e) {
    const bool free = (own >> e & 1u) != 0;
    a.grown[run.first + e] = free && (a.bits[rank / 32] >> (rank % 32) & 1u) != 0 ? 1 : 0;
    rank += free ? 1 : 0;
  }
}

}  // namespace gossamer::cuda
