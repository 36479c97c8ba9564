#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "gossamer/layout.h"
#include "gossamer/tensor.h"

namespace gossamer {

// Attention whose pattern is a block layout. With s_ij = scale·q_i·k_j, softened to
// softcap·tanh(s_ij/softcap) where there is a softcap, plus bias_ij, over the keys j that the
// layout, causal and window leave to query i:
//   lse_i = ln(e^sink + Σ_j e^(s_ij)),  o_i = Σ_j e^(s_ij - lse_i)·v_j.
// A query without keys has o = 0 and lse = -∞ (the sink, where there is one), and adds no gradient.
//
// q is [B, S, Hq, D], k [B, Sk, Hkv, D] and v [B, Sk, Hkv, Dv], with any strides but 1 for the last
// axis, float32, float16 or bfloat16 and all of one type; Hq is a multiple of Hkv, and head h of q
// meets head h·Hkv/Hq of k. 1 ≤ D, Dv ≤ 256. Or packed: q [T, Hq, D], k [Tk, Hkv, D], v [Tk, Hkv,
// Dv], where sequence b has the rows [cu_q[b], cu_q[b+1]) and [cu_k[b], cu_k[b+1]). The layout's
// extents are those of the longest sequence, in blocks; what lies behind the end of a sequence is
// left out. Sums are float32.

struct AttentionOptions {
  /// Query i stands at position i + q_offset among the keys; nothing is Sk - S, which aligns the
  /// last query with the last key. `causal` leaves keys behind it out, the window those more than
  /// `before` before or `after` behind it.
  bool causal = false;
  std::optional<std::int64_t> before = {}, after = {};
  std::optional<std::int64_t> q_offset = {};
  std::optional<double> scale = {};  // 1/√D
  std::optional<double> softcap = {};
  /// [B or 1, Hq or 1, S, Sk] (S and Sk the longest of packed sequences), float32 or q's type.
  std::optional<TensorView> bias = {};
  /// [Hq] float32.
  std::optional<TensorView> sinks = {};
  /// [B + 1] int32, from 0 to T without falling; both or none.
  std::optional<TensorView> cu_q = {}, cu_k = {};
};

/// o [B, S, Hq, Dv] or [T, Hq, Dv] of q's type, lse [B, Hq, S] or [Hq, T] float32.
void attention(const TensorView& q, const TensorView& k, const TensorView& v,
               const BlockLayout& layout, const AttentionOptions& options, const TensorView& o,
               const TensorView& lse);

/// How many bytes attention allocates at most for the same operands, with as many threads as now:
/// what is packed of keys and values at a time, and a tile for each thread. Only shapes, types and
/// the layout are read.
[[nodiscard]] std::int64_t attention_workspace(const TensorView& q, const TensorView& k,
                                               const TensorView& v, const BlockLayout& layout,
                                               const AttentionOptions& options = {});

/// What the gradients of attention are computed from, beside its operands.
struct AttentionGradient {
  TensorView d_o;                        // of o
  TensorView o, lse;                     // what attention returned
  std::optional<TensorView> d_lse = {};  // of lse, float32
};

/// The gradients' arrays: of the shapes of their operands; dq, dk and dv of their types, dbias of
/// bias's shape, which must not be broadcast, and float32, as dsinks [Hq].
struct AttentionGradients {
  TensorView dq, dk, dv;
  std::optional<TensorView> dbias = {}, dsinks = {};
};

/// The same bits for every number of threads.
void attention_backward(const AttentionGradient& gradient, const TensorView& q, const TensorView& k,
                        const TensorView& v, const BlockLayout& layout,
                        const AttentionOptions& options, const AttentionGradients& gradients);

/// Where the keys of attention_decode are.
struct DecodeKeys {
  /// [B·Hl + 1] and [n], int32: the pages of sequence b and head h are indices[p] for p from
  /// indptr[b·Hl + h] on, in the order of their tokens; Hl is 1 or Hkv.
  TensorView indptr, indices;
  /// [B] or [B, Hl] int32: how many tokens they hold, the first page's first; without it, all
  /// pages are full.
  std::optional<TensorView> lengths = {};
};

/// Few queries of each sequence against the pages of a cache: q [B, t, Hq, D], k_cache [pages,
/// page_size, Hkv, D] and v_cache [pages, page_size, Hkv, Dv] of any strides but the last, o [B, t,
/// Hq, Dv] of q's type, lse [B, Hq, t] float32. With page_size 1, the lists are of single tokens.
/// Every query sees all tokens of its list or, where `causal`, the last one all and each before it
/// one less. Options: causal, scale, softcap, sinks.
void attention_decode(const TensorView& q, const TensorView& k_cache, const TensorView& v_cache,
                      const DecodeKeys& keys, const AttentionOptions& options, const TensorView& o,
                      const TensorView& lse);

/// The attention over several sets of keys that have none in common: lse = ln Σ_s e^(lse_s), o =
/// Σ_s e^(lse_s - lse)·o_s. Each o_s is [B, S, H, D], each lse_s [B, H, S], or [T, H, D] and [H,
/// T].
void merge_attention(std::span<const TensorView> o_parts, std::span<const TensorView> lse_parts,
                     const TensorView& o, const TensorView& lse);

enum class PoolMode : std::uint8_t { mean, max, min };

/// out [B, ⌈S/block⌉, H, D] float32 = the mean, or the largest or smallest number of each channel,
/// of the block's rows of x [B, S, H, D].
void attention_block_pool(const TensorView& x, std::int64_t block, PoolMode mode,
                          const TensorView& out);

struct BlockTopkOptions {
  std::int64_t k = 0;
  /// Queries of a row: row i of q stands for the queries [i·rows, (i+1)·rows), pooled keys j for
  /// the keys [j·block, (j+1)·block). `causal` leaves out blocks that begin behind the last query.
  std::int64_t rows = 1, block = 1;
  bool causal = false;
  std::int64_t q_offset = 0;
  /// Kept whatever their score: so many first blocks, and last ones up to the row's own.
  std::int64_t keep_first = 0, keep_local = 0;
};

/// indices [B, Mb, Hkv, k] int32: of each row the k pooled keys with the highest score, sorted, -1
/// where there are fewer. q [B, Mb, Hq, D] and pooled [B, Nb, Hkv, D]; the score of a block is the
/// sum over the heads of its group of q·pooled, or, with `pooled_min`, of Σ_d max(q_d·max_d,
/// q_d·min_d) (Quest), in float32. Ties keep the smaller index; NaN ranks lowest.
void attention_block_topk(const TensorView& q, const TensorView& pooled,
                          const std::optional<TensorView>& pooled_min,
                          const BlockTopkOptions& options, const TensorView& indices);

}  // namespace gossamer
