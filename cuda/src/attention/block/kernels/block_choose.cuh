#pragma once

// Which blocks of keys a row of queries attends to: pooled keys, and those with the highest scores.

#include "attention/block/kernels/attention_args.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

template <class T>
struct PoolRowsArgs {
  AttentionRows<const T> x;
  AttentionRows<float> out;
  std::int64_t count;  // of all results
  std::int64_t length, block, blocks;
  std::int64_t heads, depth;
  bool mean, largest;  // else the smallest
};

inline constexpr int kPoolThreads = 256;

/// One channel of a block by a thread, its rows added up in their order.
template <class T>
__global__ void __launch_bounds__(kPoolThreads, 4) block_pool_rows(const PoolRowsArgs<T> a) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (i >= a.count) return;
  const std::int64_t d = i % a.depth, h = i / a.depth % a.heads;
  const std::int64_t j = i / a.depth / a.heads % a.blocks, b = i / a.depth / a.heads / a.blocks;
  const std::int64_t begin = j * a.block, end = least(begin + a.block, a.length);
  const T* from = a.x.at(b, begin, h) + d;
  float result = widen(*from);
#pragma unroll 8
  for (std::int64_t r = begin + 1; r < end; ++r) {
    from += a.x.row;
    const float x = widen(*from);
    if (a.mean) {
      result += x;
    } else {
      const bool keep = (a.largest ? x <= result : x >= result) || result != result;
      result = keep ? result : x;  // NaN stays
    }
  }
  if (a.mean) {
    result /= static_cast<float>(end - begin);
    // Perhaps float32 can hold the mean, but not the sum.
    if (!isfinite(result)) {
      double sum = 0.0;
      from = a.x.at(b, begin, h) + d;
      for (std::int64_t r = begin; r < end; ++r, from += a.x.row) {
        sum += static_cast<double>(widen(*from));
      }
      result = static_cast<float>(sum / static_cast<double>(end - begin));
    }
  }
  a.out.at(b, j, h)[d] = result;
}

/// Rows of queries and pooled keys of a tile, and how many of their numbers at a time.
inline constexpr int kTopkThreads = 256, kTopkRows = 16, kTopkKeys = 128, kTopkDepth = 32;

struct BlockTopkArgs {
  AttentionRows<const void> q, pooled, pooled_min;  // the last without data where there is none
  DType q_type, pooled_type, min_type;
  std::int64_t rows, tiles;  // tiles of all heads of all batches
  int key_heads, group, depth;
  int width;  // of the sums: depth padded to a multiple of kTopkDepth; twice that with a minimum
  int blocks;
  std::int64_t k;
  std::int64_t row_queries, block, q_offset, keep_first, keep_local;
  bool causal;
  /// What does not fit in shared memory, of `room` floats for each thread block; or null.
  float* space;
  std::int64_t room;
  AttentionRows<int> indices;

  /// Of a row of queries: it may choose the blocks [0, end), and must choose [0, first) and [local,
  /// local_end).
  struct Choice {
    int end, first, local, local_end;
  };
  __device__ Choice choice(std::int64_t row) const {
    const std::int64_t last = (row + 1) * row_queries - 1 + q_offset;
    const std::int64_t own = last < 0 ? 0 : last / block + 1;  // blocks up to its own
    const std::int64_t all = blocks, end = causal ? least(own, all) : all;
    const std::int64_t local_end = least(own, end);
    return {static_cast<int>(end), static_cast<int>(least(keep_first, end)),
            static_cast<int>(largest<std::int64_t>(local_end - keep_local, 0)),
            static_cast<int>(local_end)};
  }
};

/// sums[m, d] = the sum of the queries of a group, of 16 rows from row0 on; with a minimum, their
/// positive parts, and behind these the others.
__device__ inline void topk_sums(const BlockTopkArgs& a, std::int64_t b, std::int64_t row0,
                                 std::int64_t h, float* sums) {
  const bool bounds = a.pooled_min.data != nullptr;
  const int padded = bounds ? a.width / 2 : a.width;
  for (int i = static_cast<int>(threadIdx.x); i < kTopkRows * padded; i += kTopkThreads) {
    const int m = i / padded, d = i - m * padded;
    float sum = 0.0f, rest = 0.0f;
    for (int g = 0; g < a.group && row0 + m < a.rows && d < a.depth; ++g) {
      const float x =
          load_number(a.q.data, a.q_type,
                      b * a.q.batch + (row0 + m) * a.q.row + (h * a.group + g) * a.q.head + d);
      if (bounds && !(x > 0.0f)) {
        rest += x;
      } else {
        sum += x;
      }
    }
    sums[m * a.width + d] = sum;
    if (bounds) sums[m * a.width + padded + d] = rest;
  }
}

/// scores[m, j] = Σ_d sums[m, d]·pooled[j, d] for j < end, in the order of d.
__device__ inline void topk_scores(const BlockTopkArgs& a, std::int64_t b, std::int64_t h, int end,
                                   const float* sums, float* scores) {
  __shared__ Pack<float, 4> tile[kTopkKeys][kTopkDepth / 4 + 1];
  constexpr int kRows = kTopkRows * kTopkKeys / kTopkThreads;  // of a thread
  const int thread = static_cast<int>(threadIdx.x);
  const int own = thread % kTopkKeys, m0 = thread / kTopkKeys * kRows;
  const int padded = a.pooled_min.data == nullptr ? a.width : a.width / 2;
  for (int j0 = 0; j0 < end; j0 += kTopkKeys) {
    float sum[kRows] = {};
    for (int d0 = 0; d0 < a.width; d0 += kTopkDepth) {
      const bool upper = d0 < padded;
      const AttentionRows<const void>& from = upper ? a.pooled : a.pooled_min;
      const int d = d0 - (upper ? 0 : padded) + thread % kTopkDepth;
      for (int s = thread / kTopkDepth; s < kTopkKeys; s += kTopkThreads / kTopkDepth) {
        const bool valid = j0 + s < end && d < a.depth;
        tile[s][thread % kTopkDepth / 4].at[thread % 4] =
            valid ? load_number(from.data, upper ? a.pooled_type : a.min_type,
                                b * from.batch + (j0 + s) * from.row + h * from.head + d)
                  : 0.0f;
      }
      __syncthreads();  // orders the writes of the tile before its reads
#pragma unroll 2
      for (int c = 0; c < kTopkDepth / 4; ++c) {
        const Pack<float, 4> key = tile[own][c];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const Pack<float, 4> x = load_pack<4>(sums + (m0 + i) * a.width + d0 + 4 * c);
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[i] = fmaf(x.at[e], key.at[e], sum[i]);
        }
      }
      __syncthreads();  // orders these reads before the next tile is written
    }
    if (j0 + own >= end) continue;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      scores[static_cast<std::int64_t>(m0 + i) * a.blocks + j0 + own] = sum[i];
    }
  }
}

/// Larger for what is chosen first: NaN is 0, what must be chosen all ones.
__device__ inline unsigned topk_key(float score, bool kept) {
  if (kept) return 0xffffffffu;
  if (score != score) return 0u;
  const unsigned bits = __float_as_uint(score == 0.0f ? 0.0f : score);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// Writes the k blocks of a row whose scores are the highest, by a warp. The least of their keys is
/// found bit by bit; of equal ones the first are taken.
__device__ inline void topk_choose(const BlockTopkArgs& a, const BlockTopkArgs::Choice& choice,
                                   float* row, int* to) {
  const int lane = static_cast<int>(threadIdx.x) % 32, end = choice.end;
  const auto n = static_cast<int>(least<std::int64_t>(a.k, end));
  for (int j = lane; j < end; j += 32) {
    const bool kept = j < choice.first || (j >= choice.local && j < choice.local_end);
    row[j] = __uint_as_float(topk_key(row[j], kept));
  }
  const auto count_from = [&](unsigned key) {
    int count = 0;
    for (int j = lane; j < end; j += 32) count += __float_as_uint(row[j]) >= key ? 1 : 0;
    return __reduce_add_sync(kAllLanes, count);
  };
  unsigned bound = 0;
  if (n < end) {
    for (int bit = 31; bit >= 0; --bit) {
      const unsigned next = bound | 1u << bit;
      if (count_from(next) >= n) bound = next;
    }
  }
  int taken = 0, equal = bound == 0xffffffffu ? n : n - count_from(bound + 1);
  for (int j0 = 0; taken < n; j0 += 32) {
    const int j = j0 + lane;
    const unsigned key = j < end ? __float_as_uint(row[j]) : 0u, before = (1u << lane) - 1;
    const unsigned same = __ballot_sync(kAllLanes, j < end && key == bound);
    const bool take = j < end && (key > bound || (key == bound && __popc(same & before) < equal));
    const unsigned all = __ballot_sync(kAllLanes, take);
    if (take) to[taken + __popc(all & before)] = j;
    taken += __popc(all);
    equal -= least(equal, __popc(same));
  }
  for (std::int64_t i = n + lane; i < a.k; i += 32) to[i] = -1;
}

static __global__ void __launch_bounds__(kTopkThreads, 2) block_topk(BlockTopkArgs a) {
  float* const sums = a.space == nullptr ? dynamic_shared<float>() : a.space + blockIdx.x * a.room;
  float* const scores = sums + static_cast<std::int64_t>(kTopkRows) * a.width;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t cuts = (a.rows + kTopkRows - 1) / kTopkRows;
  for (std::int64_t t = blockIdx.x; t < a.tiles; t += gridDim.x) {
    const std::int64_t row0 = t % cuts * kTopkRows;
    const std::int64_t h = t / cuts % a.key_heads, b = t / cuts / a.key_heads;
    topk_sums(a, b, row0, h, sums);  // the first barrier of what follows is before their reads
    topk_scores(a, b, h, a.choice(row0 + kTopkRows - 1).end, sums, scores);
    __syncthreads();  // orders the scores before their reads
    for (int m = warp; m < kTopkRows && row0 + m < a.rows; m += kTopkThreads / 32) {
      topk_choose(a, a.choice(row0 + m), scores + static_cast<std::int64_t>(m) * a.blocks,
                  a.indices.at(b, row0 + m, h));
    }
    __syncthreads();  // orders the reads of sums and scores before the next tile's are written
  }
}

}  // namespace gossamer::cuda
