#pragma once

// What the kernels of block attention take.

#include "base/kernels/numbers.cuh"
#include "base/kernels/pack.cuh"

namespace gossamer::cuda {

/// Element d of row i of head h in batch b is data[b*batch + i*row + h*head + d].
template <class T>
struct AttentionRows {
  T* data;
  std::int64_t batch, row, head;

  __device__ T* at(std::int64_t b, std::int64_t i, std::int64_t h) const {
    return data + b * batch + i * row + h * head;
  }
};

/// The blocks of gossamer/layout.h.
struct AttentionLayout {
  const int* indptr;
  const int* indices;
  const int* places;          // of each block's bits: their number, plus 1; null without bits
  const std::uint8_t* kinds;  // null without bits
  const std::uint8_t* bits;
  std::int64_t bit_bytes;  // of a block
  int bit_pitch;           // of a row of bits
  int batch, heads, rows;  // batch and heads are 1 where they are shared
  int bm, bn;
};

/// Scores are s = scale·q·k, softened to softcap·tanh(s/softcap) where that is not 0, plus a bias.
struct AttentionScores {
  float scale, softcap;
  const void* bias;  // or null
  bool bias_f32;     // else of the operands' type
  std::int64_t bias_batch, bias_head, bias_row;
};

/// Which keys a query sees beside what the layout says: those from `before` before to `after` after
/// its own position, which is q_offset beyond its number, or aligns the last query with the last
/// key. Negative: no bound.
struct AttentionSpan {
  std::int64_t before, after, q_offset;
  bool causal, aligned, limited;

  __device__ std::int64_t position(std::int64_t query, std::int64_t queries,
                                   std::int64_t keys) const {
    return query + (aligned ? keys - queries : q_offset);
  }
  __device__ int first(std::int64_t at, std::int64_t keys) const {
    if (before < 0) return 0;
    return static_cast<int>(largest<std::int64_t>(least(at - before, keys), 0));
  }
  __device__ int last(std::int64_t at, std::int64_t keys) const {
    std::int64_t end = keys;
    if (after >= 0) end = least(end, at + after + 1);
    if (causal) end = least(end, at + 1);
    return static_cast<int>(largest<std::int64_t>(end, 0));
  }
};

/// The sequences: one a batch, or packed, where number b has the rows [cu[b], cu[b+1]). What these
/// hold is trusted no further than that nothing outside of the operands is read.
struct AttentionSequences {
  const int* cu_q;  // null: not packed
  const int* cu_k;
  std::int64_t tokens, key_tokens;  // rows of q and k
  std::int64_t most, most_keys;     // of one sequence

  __device__ static void piece(const int* cu, std::int64_t b, std::int64_t tokens,
                               std::int64_t most, std::int64_t& first, std::int64_t& length) {
    first = 0;
    length = most;
    if (cu == nullptr) return;
    first = largest<std::int64_t>(least<std::int64_t>(cu[b], tokens), 0);
    const std::int64_t end = largest(least<std::int64_t>(cu[b + 1], tokens), first);
    length = least(end - first, most);
  }
};

/// The first entry of [begin, end) whose index is at least `index`.
__device__ inline int first_block(const int* indices, int begin, int end, std::int64_t index) {
  while (begin < end) {
    const int middle = begin + (end - begin) / 2;
    if (indices[middle] < index) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

}  // namespace gossamer::cuda
