#pragma once

// Attention whose pattern is a block layout, as FlashAttention-2 does it: a thread block holds 64
// queries, of one row of the layout and of all heads that share it, and goes through the keys of
// that row, 64 (float32: 32) at a time. Where blocks are narrower than that, several are gathered
// side by side. Keys and values are copied asynchronously: keys while the values before them are
// used, values while their scores are computed. A row's keys are added up by one warp in the order
// of the layout.
//
// For D = Dv = 128 in half precision and 64 keys a warp issues 64 + 64 MMA, 96 LDMATRIX and about
// 500 others: two thread blocks (8 warps) on an SM are bound by the issue of some 730 instructions
// for 2·16·64·256 flops, 2 900 clocks a chunk and SM for its 8 warps / 4 schedulers = 1 460, which
// is 2 870 flops a clock and SM: some 60 % of the rate of mma.sync.

#include "attention/block/kernels/attention_args.cuh"
#include "attention/block/kernels/attention_tile.cuh"

namespace gossamer::cuda {

template <class T>
struct BlockAttentionArgs {
  AttentionLayout layout;
  AttentionSequences sequences;
  AttentionRows<const T> q, k, v;
  AttentionRows<T> o;
  float* lse;  // of query i: lse[b*lse_batch + h*lse_head + i]
  std::int64_t lse_batch, lse_head;
  int heads, group, shared;  // heads to one of keys; those of them that share a row of the layout
  int tiles;                 // of a row of the layout
  int depth, value_depth;
  int log_across;  // threads that copy a row of keys
  bool vectors;
  AttentionSpan span;
  AttentionScores scores;
  const float* sinks;  // or null
};

/// The keys of a chunk.
template <int Keys>
struct AttentionSlots {
  int key[Keys];           // its number, or -1
  std::int64_t bit[Keys];  // of row 0 of its block; -1 where all of the block counts
};

/// Entries [begin, end) of a row of the layout, cut into chunks of Keys keys.
template <int Keys>
struct AttentionChunks {
  int begin, end;  // entries
  int bn;
  int parts;  // chunks of a block, or
  int per;    // blocks of a chunk

  __device__ AttentionChunks(int first, int last, int cols) : begin(first), end(last), bn(cols) {
    parts = (bn + Keys - 1) / Keys;
    per = bn < Keys ? Keys / bn : 1;
  }
  __device__ int count() const {
    return bn < Keys ? (end - begin + per - 1) / per : (end - begin) * parts;
  }
  /// Sets slot s of chunk c.
  __device__ void fill(const AttentionLayout& a, int c, int s, std::int64_t keys,
                       AttentionSlots<Keys>& slots) const {
    int entry = begin, column = s;
    bool valid = true;
    if (bn < Keys) {
      const int block = s / bn;
      entry += c * per + block;
      column = s - block * bn;
      valid = block < per && entry < end;
    } else {
      entry += c / parts;
      column += c % parts * Keys;
      valid = column < bn;
    }
    std::int64_t key = -1, bit = -1;
    if (valid) {
      key = static_cast<std::int64_t>(a.indices[entry]) * bn + column;
      if (key >= keys) key = -1;
      if (a.places != nullptr && a.kinds[entry] == 2) {
        bit = ((a.places[entry] - 1) * a.bit_bytes + column / 8) * 8 + column % 8;
      }
    }
    slots.key[s] = static_cast<int>(key);
    slots.bit[s] = bit;
  }
};

template <class T, int MaxDepth>
__global__ void __launch_bounds__(AttentionTile<T>::kThreads, MaxDepth <= 128 ? 2 : 1)
    block_attention(const BlockAttentionArgs<T> a) {
  using Tile = AttentionTile<T>;
  constexpr int kKeys = Tile::kKeys, kThreads = Tile::kThreads;
  __shared__ AttentionSlots<kKeys> slots[2];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int width = Tile::padded(a.depth), value_width = Tile::padded(a.value_depth);
  const int pitch = width + Tile::kPad, value_pitch = value_width + Tile::kPad;
  T* const q_tile = dynamic_shared<T>();
  T* const k_tile = q_tile + Tile::kRows * pitch;
  T* const v_tile = k_tile + kKeys * pitch;

  // Rows of the layout are taken from the last one on: where `causal`, those are the longest.
  const int tile = static_cast<int>(blockIdx.x) % a.tiles;
  const int row = a.layout.rows - 1 - static_cast<int>(blockIdx.x) / a.tiles;
  const int sets = a.heads / a.shared;
  const std::int64_t b = blockIdx.y / sets;
  const int head0 = static_cast<int>(blockIdx.y) % sets * a.shared;
  const int key_head = head0 / a.group;
  std::int64_t first_query, queries, first_key, keys;
  AttentionSequences::piece(a.sequences.cu_q, b, a.sequences.tokens, a.sequences.most, first_query,
                            queries);
  AttentionSequences::piece(a.sequences.cu_k, b, a.sequences.key_tokens, a.sequences.most_keys,
                            first_key, keys);
  const std::int64_t batch = a.sequences.cu_q == nullptr ? b : 0;
  const std::int64_t query0 = static_cast<std::int64_t>(row) * a.layout.bm;
  const auto count = static_cast<int>(least<std::int64_t>(a.layout.bm, queries - query0));
  const int m0 = tile * Tile::kRows;
  if (count <= 0 || m0 >= count * a.shared) return;
  const int rows = least(Tile::kRows, count * a.shared - m0);

  // The queries of the tile, and what all and what some of them see: bounds grow with the query.
  const bool one_head = m0 / count == (m0 + rows - 1) / count;
  const std::int64_t lowest = a.span.position(query0 + (one_head ? m0 % count : 0), queries, keys);
  const std::int64_t highest =
      a.span.position(query0 + (one_head ? (m0 + rows - 1) % count : count - 1), queries, keys);
  const int all_first = a.span.first(highest, keys), all_last = a.span.last(lowest, keys);
  const int layout_head = a.layout.heads == 1 ? 0 : head0 / (a.heads / a.layout.heads);
  const std::int64_t layout_row =
      ((a.layout.batch == 1 ? 0 : b) * a.layout.heads + layout_head) * a.layout.rows + row;
  int begin = a.layout.indptr[layout_row], end = a.layout.indptr[layout_row + 1];
  if (a.span.limited) {
    begin = first_block(a.layout.indices, begin, end, a.span.first(lowest, keys) / a.layout.bn);
    const int last = a.span.last(highest, keys);
    end = first_block(a.layout.indices, begin, end, (last + a.layout.bn - 1) / a.layout.bn);
  }
  const AttentionChunks<kKeys> chunks(begin, end, a.layout.bn);
  const int chunk_count = chunks.count();

  // This lane's two rows of its warp's 16.
  int first[2], last[2];
  std::int64_t query[2];
  int head[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int m = m0 + 16 * warp + lane / 4 + 8 * i;
    const bool valid = m < count * a.shared;
    head[i] = head0 + (valid ? m / count : 0);
    query[i] = query0 + (valid ? m % count : 0);
    const std::int64_t at = a.span.position(query[i], queries, keys);
    first[i] = a.span.first(at, keys);
    last[i] = valid ? a.span.last(at, keys) : 0;
  }

  const auto copy_keys = [&](const AttentionRows<const T>& from, T* to, int depth, int padded,
                             const AttentionSlots<kKeys>& at) {
    copy_tile<kThreads>(
        to, kKeys, depth, padded, padded + Tile::kPad, a.log_across, a.vectors, from.data,
        [&](int r) -> const T* {
          return at.key[r] < 0 ? nullptr : from.at(batch, first_key + at.key[r], key_head);
        },
        thread);
  };
  if (chunk_count > 0) {
    if (thread < kKeys) chunks.fill(a.layout, 0, thread, keys, slots[0]);
    __syncthreads();  // orders the slots before the copies that they name
    copy_tile<kThreads>(
        q_tile, Tile::kRows, a.depth, width, pitch, a.log_across, a.vectors, a.q.data,
        [&](int r) -> const T* {
          if (r >= rows) return nullptr;
          const int m = m0 + r;
          return a.q.at(batch, first_query + query0 + m % count, head0 + m / count);
        },
        thread);
    copy_keys(a.k, k_tile, a.depth, width, slots[0]);
    cp_async_commit();
    copy_keys(a.v, v_tile, a.value_depth, value_width, slots[0]);
    cp_async_commit();
  }

  float sums[MaxDepth / 8][4] = {};
  float most[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  for (int c = 0; c < chunk_count; ++c) {
    const AttentionSlots<kKeys>& now = slots[c % 2];
    AttentionSlots<kKeys>& next = slots[(c + 1) % 2];
    const bool more = c + 1 < chunk_count;
    if (more && thread < kKeys) chunks.fill(a.layout, c + 1, thread, keys, next);
    cp_async_wait<1>();
    __syncthreads();  // orders the copies of keys, and the next slots, before their reads
    float scores[kKeys / 8][4] = {};
    multiply_keys<T, kKeys>(scores, q_tile + 16 * warp * pitch, k_tile, width, pitch);
    __syncthreads();  // orders all reads of these keys before the next ones are copied there
    if (more) copy_keys(a.k, k_tile, a.depth, width, next);
    cp_async_commit();

    const bool all = a.layout.places == nullptr && now.key[kKeys - 1] >= 0 &&
                     now.key[0] >= all_first && now.key[kKeys - 1] < all_last;
    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = e / 2, slot = 8 * n + lane % 4 * 2 + e % 2;
        float s = scores[n][e] * a.scores.scale;
        if (a.scores.softcap != 0.0f) s = a.scores.softcap * tanhf(s / a.scores.softcap);
        if (!all || a.scores.bias != nullptr) {
          const int key = now.key[slot];
          bool sees = key >= first[i] && key < last[i];
          if (sees && now.bit[slot] >= 0) {
            const std::int64_t bit = now.bit[slot];
            const std::int64_t byte = (bit >> 3) + query[i] % a.layout.bm * a.layout.bit_pitch;
            sees = (a.layout.bits[byte] >> (bit & 7) & 1) != 0;
          }
          if (sees && a.scores.bias != nullptr) {
            const std::int64_t at = b * a.scores.bias_batch + head[i] * a.scores.bias_head +
                                    query[i] * a.scores.bias_row + key;
            s += a.scores.bias_f32
                     ? static_cast<const float*>(a.scores.bias)[at]
                     : static_cast<float>(widen(static_cast<const T*>(a.scores.bias)[at]));
          }
          s = sees ? s : -INFINITY;
        }
        scores[n][e] = s;
        top[i] = fmaxf(top[i], s);
      }
    }
    float factor[2];
    softmax_step(scores, top, most, total, factor);
#pragma unroll
    for (int d = 0; d < MaxDepth / 8; ++d) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[d][e] *= factor[e / 2];
    }
    cp_async_wait<1>();
    __syncthreads();  // orders the copies of values before their reads
    multiply_values<T, kKeys, MaxDepth>(sums, scores, v_tile, value_width, value_pitch);
    __syncthreads();  // orders all reads of these values before the next ones are copied there
    if (more) copy_keys(a.v, v_tile, a.value_depth, value_width, next);
    cp_async_commit();
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int m = m0 + 16 * warp + lane / 4 + 8 * i;
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 1);
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 2);
    if (m >= count * a.shared) continue;
    float share = 1.0f;
    if (a.sinks != nullptr && a.sinks[head[i]] != -INFINITY) {
      const float sink = a.sinks[head[i]], top = fmaxf(most[i], sink);
      share = most[i] == -INFINITY ? 0.0f : exp2f((most[i] - top) * kLog2e);
      total[i] = total[i] * share + exp2f((sink - top) * kLog2e);
      most[i] = top;
    }
    const bool none = total[i] == 0.0f;
    share = none ? 0.0f : share / total[i];
    T* o = a.o.at(batch, first_query + query[i], head[i]);
#pragma unroll
    for (int d = 0; d < MaxDepth / 8; ++d) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = 8 * d + lane % 4 * 2 + e;
        if (column < a.value_depth) o[column] = narrow<T>(sums[d][2 * i + e] * share);
      }
    }
    if (lane % 4 == 0) {
      a.lse[batch * a.lse_batch + head[i] * a.lse_head + first_query + query[i]] =
          none ? -INFINITY : most[i] + logf(total[i]);
    }
  }
}

struct LayoutPlacesArgs {
  const std::uint8_t* kinds;
  std::int64_t blocks;
  int* marks;  // 1 for each block with bits, else 0
};

inline constexpr int kPlacesThreads = 256;

static __global__ void __launch_bounds__(kPlacesThreads, 4) layout_mark_bits(LayoutPlacesArgs a) {
  const std::int64_t p = static_cast<std::int64_t>(blockIdx.x) * kPlacesThreads + threadIdx.x;
  if (p < a.blocks) a.marks[p] = a.kinds[p] == 2 ? 1 : 0;
}

}  // namespace gossamer::cuda
