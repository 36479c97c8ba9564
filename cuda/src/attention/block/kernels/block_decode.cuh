#pragma once

// Few queries against keys and values in pages. Lists are cut into parts of fixed length, of which
// a thread block computes one for a head of keys and up to 16 rows (queries of all heads of its
// group), its four warps some tokens each in turn, every warp with copies of its next tokens under
// way and the pages of those behind them read. The warps' results are joined in their order, then,
// by a second kernel, those of the parts. How lists are cut follows from shapes alone; what a list
// holds is read on the device.
//
// For D = Dv = 128 in half precision a warp issues about 1 000 instructions for 16 tokens, which
// are 8 KB: 33 B a clock and SM, of which the memory of an H200 brings 18. In float32 some 2 700
// for the 8 KB of 8 tokens, most of them for the three products of tf32 that stand for one: 12 B.

#include "attention/block/kernels/attention_args.cuh"
#include "attention/block/kernels/attention_tile.cuh"
#include "base/kernels/scan.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

template <class T>
struct DecodeTile {
  static constexpr int kWarps = 4, kThreads = 32 * kWarps, kRows = 16;
  /// Tokens of a warp at a time.
  static constexpr int kKeys = sizeof(T) == 4 ? 8 : 16;
  static constexpr int kDepth = 256;
};

/// The most tokens of a list that are read; numbers of tokens, also of some past the end, are ints.
inline constexpr std::int64_t kMostTokens = 0x7fff0000;

/// The lists, by the rows of indptr. They are not checked on the host: whatever they hold, nothing
/// outside the arrays is read.
struct DecodeLists {
  const int* indptr;
  const int* indices;
  const int* lengths;     // or null
  std::int64_t entries;   // of indices
  int count;              // lists
  int of_sequence;        // lists of one
  bool lengths_of_lists;  // else of sequences
  std::int64_t pages;
  int page_size;
  int part;  // tokens

  struct List {
    int first, tokens;  // its first entry
  };
  __device__ List operator[](int r) const {
    const std::int64_t first = largest<std::int64_t>(least<std::int64_t>(indptr[r], entries), 0);
    const std::int64_t end =
        largest<std::int64_t>(least<std::int64_t>(indptr[r + 1], entries), first);
    std::int64_t tokens = least<std::int64_t>((end - first) * page_size, kMostTokens);
    if (lengths != nullptr) {
      const int length = lengths[lengths_of_lists ? r : r / of_sequence];
      tokens = largest<std::int64_t>(least<std::int64_t>(length, tokens), 0);
    }
    return {static_cast<int>(first), static_cast<int>(tokens)};
  }
};

/// parts[r] = the number of parts of the lists up to r.
static __global__ void __launch_bounds__(kScanThreads, 1)
    block_decode_parts(DecodeLists a, int* parts) {
  for (int r = static_cast<int>(threadIdx.x); r < a.count; r += kScanThreads) {
    parts[r] = (a[r].tokens + a.part - 1) / a.part;
  }
  __syncthreads();  // orders these writes before they are added up
  scan_totals(parts, a.count);
}

template <class T>
struct BlockDecodeArgs {
  DecodeLists lists;
  const int* parts;
  AttentionRows<const T> q;     // batch, query, head
  AttentionRows<const T> k, v;  // page, token of it, head
  int queries, group, rows;     // rows = queries·group
  int depth, value_depth;
  int log_across;
  bool vectors, causal;
  float scale, softcap;
  /// Of each part and head of keys: [rows, value_depth] sums, then rows maxima and rows totals.
  float* results;
};

template <class T>
__global__ void __launch_bounds__(DecodeTile<T>::kThreads, 2)
    block_decode(const BlockDecodeArgs<T> a) {
  using Tile = DecodeTile<T>;
  constexpr int kKeys = Tile::kKeys, kWarps = Tile::kWarps, kRows = Tile::kRows;
  __shared__ float maxima[kWarps][kRows], totals[kWarps][kRows];
  __shared__ const T* rows_at[kWarps][2][kKeys];  // of the keys and values to be copied, or null
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int width = AttentionTile<T>::padded(a.depth);
  const int value_width = AttentionTile<T>::padded(a.value_depth);
  const int pitch = width + AttentionTile<T>::kPad;
  const int value_pitch = value_width + AttentionTile<T>::kPad;
  const int stage = kKeys * (pitch + value_pitch);
  T* const q_tile = dynamic_shared<T>();
  T* const own = q_tile + kRows * pitch + warp * 2 * stage;

  const auto part = static_cast<int>(blockIdx.x);
  if (part >= a.parts[a.lists.count - 1]) return;
  const auto first_part = [&](int list) { return list == 0 ? 0 : a.parts[list - 1]; };
  const int r = last_up_to(first_part, 0, a.lists.count, part, lane);
  const int number = part - first_part(r);
  const DecodeLists::List list = a.lists[r];
  if (number < 0 || number > list.tokens / a.lists.part) return;  // lists that overlap
  const int begin = number * a.lists.part, end = least(begin + a.lists.part, list.tokens);
  const int b = r / a.lists.of_sequence;
  const int key_head =
      a.lists.of_sequence == 1 ? static_cast<int>(blockIdx.y) : r % a.lists.of_sequence;
  const int m0 = static_cast<int>(blockIdx.z) * kRows;

  copy_tile<Tile::kThreads>(
      q_tile, kRows, a.depth, width, pitch, a.log_across, a.vectors, a.q.data,
      [&](int i) -> const T* {
        const int m = m0 + i;
        if (m >= a.rows) return nullptr;
        return a.q.at(b, m % a.queries, key_head * a.group + m / a.queries);
      },
      thread);
  cp_async_commit();

  // Chunk c of the part is tokens [begin + c·kKeys, …), those behind its end left out. Each lane
  // knows of one token where it is.
  const int chunks = (end - begin + kKeys - 1) / kKeys;
  const auto page_of = [&](int c) {
    const int token = begin + c * kKeys + lane;
    if (lane >= kKeys || token >= end) return -1;
    return a.lists.indices[list.first + token / a.lists.page_size];
  };
  const auto copy_chunk = [&](int c, int page, T* to) {
    if (lane < kKeys) {
      const bool valid = page >= 0 && page < a.lists.pages;
      const int slot = (begin + c * kKeys + lane) % a.lists.page_size;
      rows_at[warp][0][lane] = valid ? a.k.at(page, slot, key_head) : nullptr;
      rows_at[warp][1][lane] = valid ? a.v.at(page, slot, key_head) : nullptr;
    }
    __syncwarp();  // orders the places of these tokens before their reads
    const auto copy = [&](int which, const T* anywhere, T* at, int depth, int padded) {
      copy_tile<32>(
          at, kKeys, depth, padded, padded + AttentionTile<T>::kPad, a.log_across, a.vectors,
          anywhere, [&](int s) { return rows_at[warp][which][s]; }, lane);
    };
    copy(0, a.k.data, to, a.depth, width);
    copy(1, a.v.data, to + kKeys * pitch, a.value_depth, value_width);
  };
  if (warp < chunks) copy_chunk(warp, page_of(warp), own);
  cp_async_commit();
  int next_page = page_of(warp + kWarps);
  cp_async_wait<1>();
  __syncthreads();  // orders the copies of the queries before their reads

  int last[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int m = m0 + lane / 4 + 8 * i;
    last[i] = m < a.rows ? end : 0;
    if (a.causal) last[i] = least(last[i], list.tokens - (a.queries - 1 - m % a.queries));
  }
  float sums[Tile::kDepth / 8][4] = {};
  float most[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  int step = 0;
  for (int c = warp; c < chunks; c += kWarps, ++step) {
    const T* keys = own + step % 2 * stage;
    if (c + kWarps < chunks) {
      copy_chunk(c + kWarps, next_page, own + (step + 1) % 2 * stage);
      next_page = page_of(c + 2 * kWarps);
    }
    cp_async_commit();
    cp_async_wait<1>();
    __syncwarp();  // orders the copies of these tokens before their reads
    float scores[kKeys / 8][4] = {};
    multiply_keys<T, kKeys>(scores, q_tile, keys, width, pitch);
    float top[2] = {-INFINITY, -INFINITY}, factor[2];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = e / 2, token = begin + c * kKeys + 8 * n + lane % 4 * 2 + e % 2;
        float s = scores[n][e] * a.scale;
        if (a.softcap != 0.0f) s = a.softcap * tanhf(s / a.softcap);
        scores[n][e] = token < last[i] ? s : -INFINITY;
        top[i] = fmaxf(top[i], scores[n][e]);
      }
    }
    softmax_step(scores, top, most, total, factor);
#pragma unroll
    for (int d = 0; d < Tile::kDepth / 8; ++d) {
      if (8 * d >= value_width) break;
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[d][e] *= factor[e / 2];
    }
    multiply_values<T, kKeys, Tile::kDepth>(sums, scores, keys + kKeys * pitch, value_width,
                                            value_pitch);
    __syncwarp();  // orders all reads of these tokens before others are copied there
  }

  // Each warp's sums take the place of its tokens: 16 rows of float32 are no longer than the values
  // of 2·kKeys tokens.
  auto* const mine = reinterpret_cast<float*>(own);
  cp_async_wait<0>();
  __syncwarp();  // orders the last reads of tokens before the sums
#pragma unroll
  for (int d = 0; d < Tile::kDepth / 8; ++d) {
    if (8 * d >= value_width) break;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      mine[(lane / 4 + e / 2 * 8) * value_width + 8 * d + lane % 4 * 2 + e % 2] = sums[d][e];
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 1);
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 2);
    if (lane % 4 == 0) {
      maxima[warp][lane / 4 + 8 * i] = most[i];
      totals[warp][lane / 4 + 8 * i] = total[i];
    }
  }
  __syncthreads();  // orders the warps' results before they are joined
  const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * gridDim.y + blockIdx.y;
  float* const to = a.results + place * a.rows * (a.value_depth + 2);
  const auto* const first =
      reinterpret_cast<const float*>(q_tile + kRows * pitch);  // the first warp's sums
  const std::int64_t apart = static_cast<std::int64_t>(2) * stage * sizeof(T) / sizeof(float);
  const int rows = least(kRows, a.rows - m0);
  for (int i = thread; i < rows * value_width; i += Tile::kThreads) {
    const int m = i / value_width, column = i - m * value_width;
    if (column >= a.value_depth) continue;
    float maximum = -INFINITY, sum = 0.0f, all = 0.0f;
    for (int w = 0; w < kWarps; ++w) maximum = fmaxf(maximum, maxima[w][m]);
    for (int w = 0; w < kWarps; ++w) {
      if (maxima[w][m] == -INFINITY && totals[w][m] == 0.0f) continue;
      const float share = exp2f((maxima[w][m] - maximum) * kLog2e);
      sum += share * first[w * apart + i];
      all += share * totals[w][m];
    }
    to[(m0 + m) * static_cast<std::int64_t>(a.value_depth) + column] = sum;
    if (column != 0) continue;
    float* const numbers = to + a.rows * static_cast<std::int64_t>(a.value_depth);
    numbers[m0 + m] = maximum;
    numbers[a.rows + m0 + m] = all;
  }
}

struct BlockDecodeMergeArgs {
  DecodeLists lists;
  const int* parts;
  int most_parts;  // that were computed
  int key_heads, queries, group, rows, value_depth;
  const float* results;
  const float* sinks;  // or null
  AttentionRows<void> o;
  DType type;
  float* lse;  // [batch, heads, queries]
};

inline constexpr int kDecodeMergeWarps = 8, kDecodeMergeThreads = 32 * kDecodeMergeWarps;

/// One row of o and its lse, by a thread block: its warps take the parts in turn, and what they
/// have is added up in their order.
static __global__ void __launch_bounds__(kDecodeMergeThreads, 4)
    block_decode_merge(BlockDecodeMergeArgs a) {
  constexpr int kDepth = DecodeTile<float>::kDepth;
  static_assert(kDecodeMergeThreads >= kDepth, "a thread a column");
  __shared__ float maxima[kDecodeMergeWarps], totals[kDecodeMergeWarps];
  __shared__ float sums[kDecodeMergeWarps][kDepth];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int i = static_cast<int>(blockIdx.x) % a.queries;
  const int head = static_cast<int>(blockIdx.x) / a.queries % (a.key_heads * a.group);
  const int b = static_cast<int>(blockIdx.x) / a.queries / (a.key_heads * a.group);
  const int key_head = head / a.group, m = head % a.group * a.queries + i;
  const bool one_list = a.lists.of_sequence == 1;
  const int r = one_list ? b : b * a.key_heads + key_head;
  const int first = largest(least(r == 0 ? 0 : a.parts[r - 1], a.most_parts), 0);
  const int last = least(a.parts[r], a.most_parts);
  const std::int64_t size = static_cast<std::int64_t>(a.rows) * (a.value_depth + 2);
  const auto part_of = [&](int p) {
    const std::int64_t place = one_list ? static_cast<std::int64_t>(p) * a.key_heads + key_head : p;
    return a.results + place * size;
  };
  const auto maximum_at = static_cast<std::int64_t>(a.rows) * a.value_depth + m;
  const float sink = a.sinks == nullptr ? -INFINITY : a.sinks[head];
  float maximum = -INFINITY;
  for (int p = first + thread; p < last; p += kDecodeMergeThreads) {
    maximum = fmaxf(maximum, part_of(p)[maximum_at]);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, step));
  }
  if (lane == 0) maxima[warp] = maximum;
  __syncthreads();  // orders the warps' maxima before their reads
  maximum = sink;
  for (int w = 0; w < kDecodeMergeWarps; ++w) maximum = fmaxf(maximum, maxima[w]);
  float own[kDepth / 32] = {}, own_total = 0.0f;
  for (int p = first + warp; p < last; p += kDecodeMergeWarps) {
    const float* const part = part_of(p);
    const float top = part[maximum_at], total = part[maximum_at + a.rows];
    if (top == -INFINITY && total == 0.0f) continue;
    const float share = expf(top - maximum);
    own_total += share * total;
#pragma unroll
    for (int j = 0; j < kDepth / 32; ++j) {
      const int d = lane + 32 * j;
      if (d < a.value_depth) {
        own[j] += share * part[static_cast<std::int64_t>(m) * a.value_depth + d];
      }
    }
  }
  if (lane == 0) totals[warp] = own_total;
#pragma unroll
  for (int j = 0; j < kDepth / 32; ++j) sums[warp][lane + 32 * j] = own[j];
  __syncthreads();  // orders the warps' sums before their reads
  float total = sink == -INFINITY ? 0.0f : expf(sink - maximum);
  for (int w = 0; w < kDecodeMergeWarps; ++w) total += totals[w];
  if (thread < a.value_depth) {
    float sum = 0.0f;
    for (int w = 0; w < kDecodeMergeWarps; ++w) sum += sums[w][thread];
    const std::int64_t row = b * a.o.batch + i * a.o.row + head * a.o.head;
    store_number(a.o.data, a.type, row + thread, total == 0.0f ? 0.0f : sum / total);
  }
  if (thread == 0) a.lse[blockIdx.x] = total == 0.0f ? -INFINITY : maximum + logf(total);
}

}  // namespace gossamer::cuda
