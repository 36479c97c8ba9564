#pragma once

// Attention over sets of keys that have none in common, from that over each: a row of o by a warp,
// its parts in order. More parts than a launch has room for are merged by several, which leave what
// they have so far in memory.

#include "attention/block/kernels/attention_args.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

inline constexpr int kMergeParts = 16, kMergeWarps = 4;

struct BlockMergeArgs {
  struct Part {
    AttentionRows<const void> o;
    const float* lse;
  } parts[kMergeParts];
  int count;
  DType type;
  std::int64_t batches, heads, rows;
  int depth;
  /// Of each row: a maximum, a total and `depth` sums; null where one launch does it all.
  float* state;
  bool first, last;  // of the launches
  AttentionRows<void> o;
  float* lse;
};

static __global__ void __launch_bounds__(32 * kMergeWarps, 4) block_merge(BlockMergeArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * kMergeWarps + warp;
  if (place >= a.batches * a.heads * a.rows) return;
  const std::int64_t i = place % a.rows, h = place / a.rows % a.heads, b = place / a.rows / a.heads;
  float* const state = a.state == nullptr ? nullptr : a.state + place * (a.depth + 2);
  const float before = a.first ? -INFINITY : state[0];
  const float own = lane < a.count ? a.parts[lane].lse[place] : -INFINITY;
  float maximum = fmaxf(before, own);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, step));
  }
  const float shift = isinf(maximum) ? 0.0f : maximum;
  const float factor = before == -INFINITY ? 0.0f : expf(before - shift);
  const float mine = own == -INFINITY ? 0.0f : expf(own - shift);
  float total = a.first ? 0.0f : state[1] * factor;
  for (int s = 0; s < a.count; ++s) total += __shfl_sync(kAllLanes, mine, s);
  const std::int64_t row = b * a.o.batch + i * a.o.row + h * a.o.head;
  for (int d0 = 0; d0 < a.depth; d0 += 32) {
    const int d = d0 + lane;
    float sum = a.first || d >= a.depth ? 0.0f : state[2 + d] * factor;
    for (int s = 0; s < a.count; ++s) {
      const float share = __shfl_sync(kAllLanes, mine, s);
      // A part without keys is skipped: its results may be anything.
      if (share == 0.0f || d >= a.depth) continue;
      const auto& from = a.parts[s].o;
      sum +=
          share * load_number(from.data, a.type, b * from.batch + i * from.row + h * from.head + d);
    }
    if (d >= a.depth) continue;
    if (a.last) {
      store_number(a.o.data, a.type, row + d, total == 0.0f ? 0.0f : sum / total);
    } else {
      state[2 + d] = sum;
    }
  }
  __syncwarp();  // orders the reads of the state before it is written
  if (lane != 0) return;
  if (a.last) {
    a.lse[place] = total == 0.0f ? -INFINITY : shift + logf(total);
  } else {
    state[0] = maximum;
    state[1] = total;
  }
}

}  // namespace gossamer::cuda
