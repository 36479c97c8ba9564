#pragma once

// The steps of a drop and growth of a mask around its two selections. A block has a tile of
// elements, a thread 16 neighbours. Masks are bytes.

#include "prune/kernels/select_scan.cuh"

namespace gossamer::cuda {

struct GrowArgs {
  std::int64_t count;
  std::uint8_t* mask;          // what was active, nonzero; its new value in the end
  const std::uint8_t* forbid;  // may be null
  std::uint8_t* kept;          // 0 or 1
  std::uint8_t* grown;         // 0 or 1
  std::uint8_t* free;          // 0 or 1
  bool allow;                  // may what is dropped grow?
  Count* total;                // += the count of a step
  int* fresh;                  // new places of each tile, then up to each
  std::int64_t* places;
};

/// The first element of a thread and how many it has.
struct GrowRun {
  std::int64_t first;
  int count;
};
__device__ inline GrowRun grow_run(std::int64_t count) {
  const std::int64_t first =
      static_cast<std::int64_t>(blockIdx.x) * kTile + static_cast<int>(threadIdx.x) * kRun;
  const std::int64_t left = count - first;
  return {first, left <= 0 ? 0 : left < kRun ? static_cast<int>(left) : kRun};
}

__device__ inline void add_total(const GrowArgs& a, unsigned own) {
  unsigned all = 0;
  block_prefix<kMaskThreads>(own, &all);
  if (threadIdx.x == 0 && all != 0) atomicAdd(a.total, Count{all});
}

/// Counts the active elements.
static __global__ void __launch_bounds__(kMaskThreads) grow_count(GrowArgs a) {
  const GrowRun run = grow_run(a.count);
  unsigned own = 0;
  for (int e = 0; e < run.count; ++e) own += a.mask[run.first + e] != 0 ? 1 : 0;
  add_total(a, own);
}

/// Marks and counts the places that may grow.
static __global__ void __launch_bounds__(kMaskThreads) grow_free(GrowArgs a) {
  const GrowRun run = grow_run(a.count);
  unsigned own = 0;
  for (int e = 0; e < run.count; ++e) {
    const std::int64_t i = run.first + e;
    const bool taken = (a.allow ? a.kept[i] : a.mask[i]) != 0;
    const bool free = !taken && (a.forbid == nullptr || a.forbid[i] == 0);
    a.free[i] = free ? 1 : 0;
    own += free ? 1 : 0;
  }
  add_total(a, own);
}

/// fresh[tile] = the places that become active and were not.
static __global__ void __launch_bounds__(kMaskThreads) grow_fresh(GrowArgs a) {
  const GrowRun run = grow_run(a.count);
  unsigned own = 0, all = 0;
  for (int e = 0; e < run.count; ++e) {
    own += a.grown[run.first + e] != 0 && a.mask[run.first + e] == 0 ? 1 : 0;
  }
  block_prefix<kMaskThreads>(own, &all);
  if (threadIdx.x == 0) a.fresh[blockIdx.x] = static_cast<int>(all);
}

/// Lists the new places and writes the new mask.
static __global__ void __launch_bounds__(kMaskThreads) grow_finish(GrowArgs a) {
  const GrowRun run = grow_run(a.count);
  unsigned own = 0, all = 0;
  for (int e = 0; e < run.count; ++e) {
    if (a.grown[run.first + e] != 0 && a.mask[run.first + e] == 0) own |= 1u << e;
  }
  std::int64_t to = (blockIdx.x == 0 ? 0 : a.fresh[blockIdx.x - 1]) +
                    block_prefix<kMaskThreads>(static_cast<unsigned>(__popc(own)), &all);
  for (int e = 0; e < run.count; ++e) {
    const std::int64_t i = run.first + e;
    if ((own >> e & 1u) != 0) a.places[to++] = i;
    a.mask[i] = a.kept[i] | a.grown[i];
  }
}

/// An array that follows the mask: its elements' bits.
template <class U>
struct GrowFollowed {
  U* data;
  const U* source;  // may be null
  U value;
  bool clears;
};

/// Before the mask is written.
template <class U>
__global__ void __launch_bounds__(kMaskThreads) grow_follow(GrowArgs a, GrowFollowed<U> array) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kMaskThreads + static_cast<int>(threadIdx.x);
  if (i >= a.count) return;
  const bool active = a.mask[i] != 0;
  if (!active && a.grown[i] != 0) {
    array.data[i] = array.source == nullptr ? array.value : array.source[i];
  } else if (array.clears && active && (a.kept[i] | a.grown[i]) == 0) {
    array.data[i] = U{0};
  }
}

}  // namespace gossamer::cuda
