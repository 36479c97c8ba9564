#pragma once

// The gradients of block attention, by one kernel in two passes, so that nothing is added to by two
// thread blocks: for a tile of queries dq (and dbias) from their keys; for a tile of keys dk and dv
// from their queries, by the transposed layout. In both, a thread block holds 16 rows a warp of
// one side and goes through the rows of the other, 32 (float32: 16) at a time, in the order of the
// layout: with S = X·Xoᵀ and dP = Y·Yoᵀ, where X and Y are q and dO, or k and v, and those with o
// the other side's, P = e^(S - lse) and dS = P·(dP - delta) stay in registers, and then dX += dS·Xo
// and, for keys, dY += P·Yo. Copies of the next rows are under way meanwhile, where shared memory
// has room for both.

#include "attention/block/kernels/attention_args.cuh"
#include "attention/block/kernels/attention_tile.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

/// Rows that stay, rows of the other side at a time, and the columns of a result that a thread
/// block computes: two accumulators of 64 registers beside 32 for scores (float32: 16).
template <class T>
struct GradientTile {
  static constexpr int kWarps = sizeof(T) == 4 ? 2 : 4, kThreads = 32 * kWarps;
  static constexpr int kRows = 16 * kWarps, kOthers = sizeof(T) == 4 ? 16 : 32;
  static constexpr int kColumns = 128;
};

template <class T>
struct BlockGradientsArgs {
  AttentionLayout layout;
  AttentionSequences sequences;
  bool keys_stay;
  /// Where keys stay, for each column of blocks the rows of the layout that keep it, counted
  /// through all batches and heads, and their blocks' numbers. indptr is null for no blocks.
  const int* indptr;
  const int* indices;
  const int* entries;
  AttentionRows<const T> x, y, other_x, other_y;
  AttentionRows<T> dx, dy;
  const float* logs;  // of query i: [b*lse_batch + h*lse_head + i]; +∞ where it saw nothing
  const float* delta;
  std::int64_t lse_batch, lse_head;
  float* dbias;  // or null
  std::int64_t dbias_batch, dbias_head, dbias_row;
  int heads, key_heads, group, shared;  // as in BlockAttentionArgs
  int blocks, tiles;                    // rows or columns of blocks; tiles of one
  int depth, value_depth;
  int log_across;
  bool vectors, two_stages;
  AttentionSpan span;
  AttentionScores scores;
};

/// Rows of the other side. A query sees the keys [first, last); a key has no bounds, and what is
/// no row sees or is seen by nothing.
template <int Rows>
struct GradientSlots {
  int index[Rows], head[Rows], first[Rows], last[Rows];
  std::int64_t bit[Rows];  // -1 where all of the block counts
  float log[Rows], delta[Rows];
  int all;  // do all rows of both sides see one another?
};

/// A place among the lists of the other side: chunk `chunk` of the blocks [begin, end), of `width`
/// rows each, that the heads from `head` on have in common.
struct GradientCursor {
  int set, begin, end, head;
  int chunk, count;
  int side, width, first_row;
};

template <class T>
__global__ void __launch_bounds__(GradientTile<T>::kThreads, 2)
    block_gradients(const BlockGradientsArgs<T> a) {
  using Tile = GradientTile<T>;
  constexpr int kRows = Tile::kRows, kOthers = Tile::kOthers, kThreads = Tile::kThreads;
  constexpr int kAnything = 0x7fffffff;
  __shared__ GradientSlots<kOthers> slots[3];
  __shared__ GradientSlots<kRows> own;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int width = AttentionTile<T>::padded(a.depth);
  const int value_width = AttentionTile<T>::padded(a.value_depth);
  const int pitch = width + AttentionTile<T>::kPad;
  const int value_pitch = value_width + AttentionTile<T>::kPad;
  T* const x_tile = dynamic_shared<T>();
  T* const y_tile = x_tile + kRows * pitch;
  T* const others = y_tile + kRows * value_pitch;
  const int stage = kOthers * (pitch + value_pitch);

  // The tile: rows [m0, m0 + rows) of the count·heads of block `block`, those of a head in order.
  const bool keys_stay = a.keys_stay;
  const int tile = static_cast<int>(blockIdx.x % a.tiles);
  const std::int64_t place = blockIdx.x / a.tiles;
  const int block = a.blocks - 1 - static_cast<int>(place % a.blocks);
  const int sets = a.group / a.shared;
  const int outer = keys_stay ? a.key_heads : a.heads / a.shared;
  const std::int64_t b = place / a.blocks / outer;
  const int unit = static_cast<int>(place / a.blocks % outer);
  std::int64_t first_query, queries, first_key, keys;
  AttentionSequences::piece(a.sequences.cu_q, b, a.sequences.tokens, a.sequences.most, first_query,
                            queries);
  AttentionSequences::piece(a.sequences.cu_k, b, a.sequences.key_tokens, a.sequences.most_keys,
                            first_key, keys);
  const std::int64_t batch = a.sequences.cu_q == nullptr ? b : 0;
  const int head0 = unit * (keys_stay ? a.group : a.shared), key_head = head0 / a.group;
  const int own_heads = keys_stay ? 1 : a.shared;
  const std::int64_t row0 =
      static_cast<std::int64_t>(block) * (keys_stay ? a.layout.bn : a.layout.bm);
  const auto count = static_cast<int>(least<std::int64_t>(keys_stay ? a.layout.bn : a.layout.bm,
                                                          (keys_stay ? keys : queries) - row0));
  const std::int64_t m0 = static_cast<std::int64_t>(tile) * kRows;
  if (count <= 0 || m0 >= static_cast<std::int64_t>(count) * own_heads) return;
  const auto rows = static_cast<int>(
      least<std::int64_t>(kRows, static_cast<std::int64_t>(count) * own_heads - m0));
  const auto row_of = [&](int r) { return row0 + (m0 + r) % count; };
  const auto head_of = [&](int r) {
    return keys_stay ? key_head : head0 + static_cast<int>((m0 + r) / count);
  };
  const std::int64_t first_own = keys_stay ? first_key : first_query;
  const std::int64_t first_other = keys_stay ? first_query : first_key;

  // What of the other side all rows and what some rows of the tile meet, [all_first, all_last) and
  // [some_first, some_last).
  const bool one_head = m0 / count == (m0 + rows - 1) / count;
  const std::int64_t lowest = one_head ? row_of(0) : row0;
  const std::int64_t highest = one_head ? row_of(rows - 1) : row0 + count - 1;
  std::int64_t some_first = 0, some_last = keys_stay ? queries : keys;
  int all_first = 0, all_last = kAnything;
  if (!keys_stay) {
    const std::int64_t low_at = a.span.position(lowest, queries, keys);
    const std::int64_t high_at = a.span.position(highest, queries, keys);
    all_first = a.span.first(high_at, keys);
    all_last = a.span.last(low_at, keys);
    some_first = a.span.first(low_at, keys);
    some_last = a.span.last(high_at, keys);
  } else if (a.span.limited) {
    // Query i is at i + shift; it sees no key beyond that (causal), or beyond `after` more.
    const std::int64_t shift = a.span.position(0, queries, keys);
    if (a.span.causal) some_first = largest(some_first, lowest - shift);
    if (a.span.after >= 0) some_first = largest(some_first, lowest - shift - a.span.after);
    if (a.span.before >= 0) some_last = least(some_last, highest + 1 - shift + a.span.before);
  }

  // The lists.
  const int other_side = keys_stay ? a.layout.bm : a.layout.bn;
  const auto find = [&](GradientCursor& at) {
    at.head = head0 + at.set * a.shared;
    const int layout_head = a.layout.heads == 1 ? 0 : at.head / (a.heads / a.layout.heads);
    const std::int64_t pattern = (a.layout.batch == 1 ? 0 : b) * a.layout.heads + layout_head;
    const auto first = static_cast<int>(pattern * a.layout.rows);
    at.first_row = keys_stay ? first : 0;
    const int* list = keys_stay ? a.indptr + block : a.layout.indptr + first + block;
    const int* indices = keys_stay ? a.indices : a.layout.indices;
    at.begin = list[0];
    at.end = list[1];
    if (keys_stay || a.span.limited) {
      const std::int64_t low = some_first / other_side;
      const std::int64_t high = (some_last + other_side - 1) / other_side;
      const std::int64_t most = keys_stay ? a.layout.rows : high;
      at.begin = first_block(indices, at.begin, at.end, at.first_row + low);
      at.end = first_block(indices, at.begin, at.end, at.first_row + least(high, most));
    }
    at.side = other_side;
    if (keys_stay && queries > 0)
      at.side = static_cast<int>(least<std::int64_t>(other_side, queries));
    at.width = at.side * (keys_stay ? a.shared : 1);
    const int per = at.width < kOthers ? kOthers / at.width : 1;
    const int parts = (at.width - 1) / kOthers + 1;
    at.chunk = 0;
    at.count = (at.end - at.begin + per - 1) / per * parts;
  };
  const int own_sets = keys_stay ? sets : 1;
  // To the first chunk from here on; false where there is none.
  const auto settle = [&](GradientCursor& at) {
    while (at.chunk >= at.count) {
      if (++at.set >= own_sets) return false;
      find(at);
    }
    return true;
  };

  // The rows of the tile.
  if (thread < kRows) {
    const bool valid = thread < rows;
    const std::int64_t row = row_of(valid ? thread : 0);
    const int head = head_of(valid ? thread : 0);
    own.index[thread] = valid ? static_cast<int>(row) : -1;
    own.head[thread] = head;
    own.first[thread] = 0;
    own.last[thread] = valid ? kAnything : 0;
    own.log[thread] = INFINITY;
    own.delta[thread] = 0.0f;
    own.bit[thread] = keys_stay ? row - row0 : (row - row0) * a.layout.bit_pitch * 8;
    if (!keys_stay && valid) {
      const std::int64_t at = a.span.position(row, queries, keys);
      own.first[thread] = a.span.first(at, keys);
      own.last[thread] = a.span.last(at, keys);
      const std::int64_t from = batch * a.lse_batch + head * a.lse_head + first_query + row;
      own.log[thread] = a.logs[from];
      own.delta[thread] = a.delta[from];
    }
  }
  __syncthreads();  // orders what is known of the rows before its reads

  // By the first warp: the rows of a chunk of the other side.
  const auto fill = [&](const GradientCursor& at, GradientSlots<kOthers>& to) {
    int entry = at.begin + at.chunk;
    int column = lane;
    bool valid = lane < kOthers;
    if (at.width < kOthers) {
      const int w = at.width, piece = lane / w, per = kOthers / w;
      entry = at.begin + at.chunk * per + piece;
      column = lane - piece * w;
      valid = valid && piece < per && entry < at.end;
    } else {
      const int parts = (at.width - 1) / kOthers + 1;
      entry = at.begin + at.chunk / parts;
      column += at.chunk % parts * kOthers;
      valid = valid && column < at.width;
    }
    int other = -1, other_head = key_head, other_first = 0, other_last = 0;
    std::int64_t bit = -1;
    float other_log = INFINITY, other_delta = 0.0f;
    if (valid) {
      const int within = keys_stay ? column % at.side : column;
      const int* indices = keys_stay ? a.indices : a.layout.indices;
      const std::int64_t row =
          static_cast<std::int64_t>(indices[entry] - at.first_row) * other_side + within;
      if (row < (keys_stay ? queries : keys)) {
        other = static_cast<int>(row);
        other_last = kAnything;
        if (keys_stay) {
          other_head = at.head + column / at.side;
          const std::int64_t position = a.span.position(row, queries, keys);
          other_first = a.span.first(position, keys);
          other_last = a.span.last(position, keys);
          const std::int64_t from =
              batch * a.lse_batch + other_head * a.lse_head + first_query + row;
          other_log = a.logs[from];
          other_delta = a.delta[from];
        }
        const int source = keys_stay ? a.entries[entry] : entry;
        if (a.layout.places != nullptr && a.layout.kinds[source] == 2) {
          bit = (a.layout.places[source] - 1) * a.layout.bit_bytes * 8 +
                (keys_stay ? static_cast<std::int64_t>(within) * a.layout.bit_pitch * 8 : within);
        }
      }
    }
    if (lane < kOthers) {
      to.index[lane] = other;
      to.head[lane] = other_head;
      to.first[lane] = other_first;
      to.last[lane] = other_last;
      to.bit[lane] = bit;
      to.log[lane] = other_log;
      to.delta[lane] = other_delta;
    }
    const bool sees = other >= all_first && other < all_last && other_first <= lowest &&
                      other_last > highest && bit < 0;
    const int all = __all_sync(kAllLanes, sees || lane >= kOthers);
    if (lane == 0) to.all = all;
  };
  const auto copy_others = [&](const GradientSlots<kOthers>& from, int number) {
    T* to = others + number * stage;
    const auto copy = [&](const AttentionRows<const T>& rows_from, T* at, int depth, int padded) {
      copy_tile<kThreads>(
          at, kOthers, depth, padded, padded + AttentionTile<T>::kPad, a.log_across, a.vectors,
          rows_from.data,
          [&](int r) -> const T* {
            return from.index[r] < 0
                       ? nullptr
                       : rows_from.at(batch, first_other + from.index[r], from.head[r]);
          },
          thread);
    };
    copy(a.other_x, to, a.depth, width);
    copy(a.other_y, to + kOthers * pitch, a.value_depth, value_width);
  };
  const auto copy_own = [&](const AttentionRows<const T>& from, T* to, int depth, int padded) {
    copy_tile<kThreads>(
        to, kRows, depth, padded, padded + AttentionTile<T>::kPad, a.log_across, a.vectors,
        from.data,
        [&](int r) -> const T* {
          return r < rows ? from.at(batch, first_own + row_of(r), head_of(r)) : nullptr;
        },
        thread);
  };

  GradientCursor now{};
  bool any = false;
  if (!keys_stay || a.indptr != nullptr) {
    find(now);
    any = settle(now);
  }
  if (any) {
    copy_own(a.x, x_tile, a.depth, width);
    copy_own(a.y, y_tile, a.value_depth, value_width);
    if (warp == 0) fill(now, slots[0]);
    __syncthreads();  // orders the first slots before the copies that they name
    copy_others(slots[0], 0);
    cp_async_commit();
  }

  float dx[Tile::kColumns / 8][4] = {}, dy[Tile::kColumns / 8][4] = {};
  const int column0 = static_cast<int>(blockIdx.y) * Tile::kColumns;
  for (int c = 0; any; ++c) {
    const GradientSlots<kOthers>& at = slots[c % 3];
    GradientSlots<kOthers>& next = slots[(c + 1) % 3];
    ++now.chunk;
    any = settle(now);
    if (any && warp == 0) fill(now, next);
    __syncthreads();  // orders the next slots, and all reads of the rows before these
    if (a.two_stages) {
      if (any) copy_others(next, (c + 1) % 2);
      cp_async_commit();
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();  // orders the copies of these rows before their reads
    const T* other_x = others + (a.two_stages ? c % 2 : 0) * stage;
    const T* other_y = other_x + kOthers * pitch;
    float p[kOthers / 8][4] = {}, ds[kOthers / 8][4] = {};
    multiply_keys<T, kOthers>(p, x_tile + 16 * warp * pitch, other_x, width, pitch);
    multiply_keys<T, kOthers>(ds, y_tile + 16 * warp * value_pitch, other_y, value_width,
                              value_pitch);
    const bool all = at.all != 0 && a.scores.bias == nullptr;
#pragma unroll
    for (int n = 0; n < kOthers / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int slot = 8 * n + lane % 4 * 2 + e % 2;
        const int i = 16 * warp + lane / 4 + e / 2 * 8;
        float s = p[n][e] * a.scores.scale, bend = 1.0f;
        if (a.scores.softcap != 0.0f) {
          const float t = tanhf(s / a.scores.softcap);
          s = a.scores.softcap * t;
          bend = 1.0f - t * t;
        }
        bool sees = true;
        float* slope = nullptr;
        if (!all) {
          const int other = at.index[slot];
          sees = other >= own.first[i] && other < own.last[i] && own.index[i] >= at.first[slot] &&
                 own.index[i] < at.last[slot];
          if (sees && at.bit[slot] >= 0) {
            const std::int64_t bit = at.bit[slot] + own.bit[i];
            sees = (a.layout.bits[bit >> 3] >> (bit & 7) & 1) != 0;
          }
          if (sees && a.scores.bias != nullptr) {
            const int query = keys_stay ? other : own.index[i],
                      key = keys_stay ? own.index[i] : other;
            const int h = keys_stay ? at.head[slot] : own.head[i];
            const std::int64_t from =
                b * a.scores.bias_batch + h * a.scores.bias_head + query * a.scores.bias_row + key;
            s += a.scores.bias_f32
                     ? static_cast<const float*>(a.scores.bias)[from]
                     : static_cast<float>(widen(static_cast<const T*>(a.scores.bias)[from]));
            if (a.dbias != nullptr) {
              slope = a.dbias + b * a.dbias_batch + h * a.dbias_head + query * a.dbias_row + key;
            }
          }
        }
        const float lse = keys_stay ? at.log[slot] : own.log[i];
        const float own_delta = keys_stay ? at.delta[slot] : own.delta[i];
        const float weight = sees ? exp2f((s - lse) * kLog2e) : 0.0f;
        const float gradient = sees ? weight * (ds[n][e] - own_delta) : 0.0f;
        if (slope != nullptr) *slope = gradient;
        p[n][e] = weight;
        ds[n][e] = gradient * bend;
      }
    }
    multiply_values<T, kOthers, Tile::kColumns>(dx, ds, other_x + column0, width - column0, pitch);
    if (keys_stay) {
      multiply_values<T, kOthers, Tile::kColumns>(dy, p, other_y + column0, value_width - column0,
                                                  value_pitch);
    }
    if (!a.two_stages) {
      __syncthreads();  // orders all reads of these rows before the next ones are copied there
      if (any) copy_others(next, 0);
      cp_async_commit();
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = 16 * warp + lane / 4 + 8 * half;
    if (own.index[i] < 0) continue;
    const auto store = [&](const AttentionRows<T>& to, const float (&sums)[Tile::kColumns / 8][4],
                           int depth, float scale) {
      T* row = to.at(batch, first_own + own.index[i], own.head[i]);
#pragma unroll
      for (int d = 0; d < Tile::kColumns / 8; ++d) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = column0 + 8 * d + lane % 4 * 2 + e;
          if (column < depth) row[column] = narrow<T>(sums[d][2 * half + e] * scale);
        }
      }
    };
    store(a.dx, dx, a.depth, a.scores.scale);
    if (keys_stay) store(a.dy, dy, a.value_depth, 1.0f);
  }
}

/// For each query: delta = Σ_d dO·o - dlse, and lse with +∞ in place of -∞.
struct BlockDeltaArgs {
  AttentionRows<const void> o, d_o;  // strides in elements
  DType type;
  const float* lse;
  const float* d_lse;  // or null
  float* logs;
  float* delta;
  std::int64_t batches, heads, rows;
  int depth;
};

inline constexpr int kDeltaWarps = 8;

static __global__ void __launch_bounds__(32 * kDeltaWarps, 4) block_delta(BlockDeltaArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * kDeltaWarps + warp;
  if (place >= a.batches * a.heads * a.rows) return;
  const std::int64_t i = place % a.rows, h = place / a.rows % a.heads, b = place / a.rows / a.heads;
  const std::int64_t o = b * a.o.batch + i * a.o.row + h * a.o.head;
  const std::int64_t d_o = b * a.d_o.batch + i * a.d_o.row + h * a.d_o.head;
  float sum = 0.0f;
  for (int d = lane; d < a.depth; d += 32) {
    sum += load_number(a.o.data, a.type, o + d) * load_number(a.d_o.data, a.type, d_o + d);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (lane != 0) return;
  const float lse = a.lse[place];
  const bool seen = lse != -INFINITY;
  if (a.d_lse != nullptr) sum -= a.d_lse[place];
  a.logs[place] = seen ? lse : INFINITY;
  a.delta[place] = seen ? sum : 0.0f;
}

/// dsinks[h] = -Σ e^(sink - lse)·delta over the queries of head h, by one thread block.
struct BlockSinksArgs {
  const float* sinks;
  const float* logs;
  const float* delta;
  std::int64_t batches, heads, rows;
  float* dsinks;
};

inline constexpr int kSinkThreads = 256;

static __global__ void __launch_bounds__(kSinkThreads, 4) block_sinks(BlockSinksArgs a) {
  __shared__ double sums[kSinkThreads / 32];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t h = blockIdx.x;
  const float sink = a.sinks[h];
  double sum = 0.0;
  for (std::int64_t b = 0; b < a.batches; ++b) {
    const std::int64_t from = (b * a.heads + h) * a.rows;
    for (std::int64_t i = thread; i < a.rows; i += kSinkThreads) {
      const float lse = a.logs[from + i];
      if (lse != INFINITY) {
        sum -= static_cast<double>(expf(sink - lse)) * static_cast<double>(a.delta[from + i]);
      }
    }
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (thread % 32 == 0) sums[thread / 32] = sum;
  __syncthreads();  // orders the writes of the warps' sums before their reads
  if (thread != 0) return;
  for (int w = 1; w < kSinkThreads / 32; ++w) sum += sums[w];
  a.dsinks[h] = static_cast<float>(sum);
}

}  // namespace gossamer::cuda
