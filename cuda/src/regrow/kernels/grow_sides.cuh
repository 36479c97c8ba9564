#pragma once

// The values on each side of zero, and what is left of them.

#include "prune/kernels/select_scan.cuh"

namespace gossamer::cuda {

/// Marks positive and negative values, and counts both: NaN and zeros are neither.
template <class T>
__global__ void __launch_bounds__(kMaskThreads)
    grow_sides(const T* values, std::int64_t count, std::uint8_t* positive, std::uint8_t* negative,
               Count* totals) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kMaskThreads + static_cast<int>(threadIdx.x);
  const auto value = i < count ? widen(values[i]) : Sum<T>{0};
  const bool above = value > 0, below = value < 0;
  if (i < count) {
    positive[i] = above ? 1 : 0;
    negative[i] = below ? 1 : 0;
  }
  const unsigned up = __reduce_add_sync(kAllLanes, above ? 1u : 0u);
  const unsigned down = __reduce_add_sync(kAllLanes, below ? 1u : 0u);
  if (threadIdx.x % 32 != 0) return;
  if (up != 0) atomicAdd(totals, Count{up});
  if (down != 0) atomicAdd(totals + 1, Count{down});
}

/// keep[i] = whether neither of two masks has it.
template <class T>
__global__ void __launch_bounds__(kMaskThreads)
    grow_keep(const T* first, const T* second, std::int64_t count, T* keep) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kMaskThreads + static_cast<int>(threadIdx.x);
  if (i < count) keep[i] = (first[i] | second[i]) == 0 ? 1 : 0;
}

}  // namespace gossamer::cuda
