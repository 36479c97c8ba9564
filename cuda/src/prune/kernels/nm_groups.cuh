#pragma once

// The n largest of every m elements along an axis, a thread a group. A group of up to 16 is kept in
// registers, where each element counts how many come before it.

#include "base/kernels/pack.cuh"
#include "prune/nm.h"

namespace gossamer::cuda {

inline constexpr int kPatternThreads = 256;

/// Blocks that a multiprocessor holds at once. Three leave registers for what is kept while a score
/// is computed, so that nothing goes to the stack; up to 4 keys of 32 bits need few.
template <class K, int M>
inline constexpr int kPatternBlocks = M == 4 && sizeof(K) == 4 ? 5 : 3;

/// M: the most elements of a group; 0: any number, read once for each bit of a key.
template <class K, int M>
__global__ void __launch_bounds__(kPatternThreads, kPatternBlocks<K, M>)
    nm_groups(const __grid_constant__ NmArgs a, const __grid_constant__ KeyMap<K> map) {
  const std::int64_t at =
      static_cast<std::int64_t>(blockIdx.x) * kPatternThreads + static_cast<int>(threadIdx.x);
  if (at >= a.parts * a.groups * a.cols) return;
  std::int64_t group = at, col = 0, first = a.offset;
  if (a.cols > 1) {
    group = at / a.cols;
    col = at - group * a.cols;
  }
  if (a.parts > 1) {
    const std::int64_t part = group / a.groups;
    group -= part * a.groups;
    first += part * a.part_size;
  }
  first += group * a.m * a.cols + col;
  const auto m = static_cast<int>(a.m), n = static_cast<int>(a.n);
  if constexpr (M > 0) {
    K keys[M];
    const bool whole = a.cols == 1 && m == M && a.part.wide && a.part.direct && first % M == 0;
    const bool small = sizeof(K) == 4 && a.part.score.w_type != DType::f32;
    if (whole && !small) {
      const auto pack = load_pack<M>(static_cast<const K*>(a.part.score.w) + first);
#pragma unroll
      for (int i = 0; i < M; ++i) keys[i] = key_of<K>(pack.at[i], a.part.magnitude, map);
    } else if (whole) {
      const auto pack = load_pack<M>(static_cast<const std::uint16_t*>(a.part.score.w) + first);
#pragma unroll
      for (int i = 0; i < M; ++i) keys[i] = key_of<K>(pack.at[i], a.part.magnitude, map);
    } else {
#pragma unroll
      for (int i = 0; i < M; ++i) {
        keys[i] = i < m ? key_at(a.part, map, first + i * a.cols) : 0;
      }
    }
    Pack<std::uint8_t, M> marks;
#pragma unroll
    for (int i = 0; i < M; ++i) {
      int before = 0;
#pragma unroll
      for (int j = 0; j < M; ++j) {
        if (j == i) continue;
        const bool earlier = (j < i) != a.tie_high;
        before += j < m && (keys[j] > keys[i] || (earlier && keys[j] == keys[i])) ? 1 : 0;
      }
      marks.at[i] = before < n ? 1 : 0;
    }
    if (whole) {
      store_pack(a.part.mask + first, marks);
      return;
    }
#pragma unroll
    for (int i = 0; i < M; ++i) {
      if (i < m) a.part.mask[first + i * a.cols] = marks.at[i];
    }
  } else {
    // How many keys are at least `low`.
    const auto from = [&](K low) {
      int count = 0;
#pragma unroll 1
      for (int i = 0; i < m; ++i) count += key_at(a.part, map, first + i * a.cols) >= low ? 1 : 0;
      return count;
    };
    K threshold = 0;
    for (K bit = map.sign; bit != 0; bit >>= 1) {
      if (from(threshold | bit) >= n) threshold |= bit;
    }
    const int above = threshold == map.top ? 0 : from(static_cast<K>(threshold + 1));
    const int ties = from(threshold) - above, take = n - above;
    // Of equals, the first `take`, or all after the first `ties - take`.
    int tied = 0;
#pragma unroll 1
    for (int i = 0; i < m; ++i) {
      const K key = key_at(a.part, map, first + i * a.cols);
      bool selected = key > threshold;
      if (key == threshold) {
        selected = a.tie_high ? tied >= ties - take : tied < take;
        ++tied;
      }
      a.part.mask[first + i * a.cols] = n > 0 && selected ? 1 : 0;
    }
  }
}

}  // namespace gossamer::cuda
