#pragma once

// Collective operations of one warp.

#include "base/device.cuh"

namespace gossamer::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

/// The last i in [low, high) with key(i) ≤ p, for keys that do not decrease and key(low) ≤ p <
/// key(high). All lanes call it with the same arguments; each round probes 32 places.
template <class P, class Key>
__device__ inline int last_up_to(const Key& key, int low, int high, P p, int lane) {
  while (high - low > 1) {
    const int step = (high - low + 31) / 32;
    // The sum could wrap beyond `high` for 2^31 rows, so distances are compared.
    const bool inside = (lane + 1) <= (high - low - 1) / step;
    const bool below = inside && key(low + (lane + 1) * step) <= p;
    const int passed = __popc(__ballot_sync(kAllLanes, below));
    low += passed * step;
    high = high - low > step ? low + step : high;
  }
  return low;
}

/// The row in [low, high) that holds entry p, where indptr[low] ≤ p < indptr[high].
__device__ inline int row_of(const int* __restrict__ indptr, int low, int high, int p, int lane) {
  return last_up_to([&](int row) { return indptr[row]; }, low, high, p, lane);
}

/// Adds up N sums over `lanes` ≥ N neighbouring lanes, in a fixed order; N and lanes are powers of
/// two. Lane l receives the total of sum number summand_of<N>(l). Takes N - 1 + log2(lanes/N)
/// shuffles instead of N·log2(lanes).
template <int N, class S>
__device__ inline S reduce_many(S (&v)[N], int lanes, int lane) {
  int mask = 1;
#pragma unroll
  for (int width = N / 2; width >= 1; width /= 2) {
    const bool upper = (lane & mask) != 0;
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const S keep = upper ? v[i + width] : v[i];
      const S send = upper ? v[i] : v[i + width];
      v[i] = keep + __shfl_xor_sync(kAllLanes, send, mask);
    }
    mask *= 2;
  }
  for (; mask < lanes; mask *= 2) v[0] += __shfl_xor_sync(kAllLanes, v[0], mask);
  return v[0];
}

template <int N>
__device__ inline int summand_of(int lane) {
  int summand = 0;
#pragma unroll
  for (int width = N / 2; width >= 1; width /= 2) {
    summand += (lane & 1) * width;
    lane >>= 1;
  }
  return summand;
}

}  // namespace gossamer::cuda
