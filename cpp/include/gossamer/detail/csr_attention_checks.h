#pragma once

// What the operations of csr_attention.h ask of their arguments, on whatever device, and what they
// mean once these are checked.

#include <cstddef>
#include <cstdint>
#include <optional>

#include "gossamer/csr_attention.h"
#include "gossamer/detail/check.h"
#include "gossamer/detail/edge_score.h"

namespace gossamer::detail {

/// An operand [batches, rows, heads, depth] with the strides of its first three axes, in elements.
struct HeadTensor {
  void* data;
  DType type;
  std::int64_t batches, rows, heads, depth;
  std::int64_t batch_stride, row_stride, head_stride;

  [[nodiscard]] std::byte* at(std::int64_t batch, std::int64_t head) const {
    return static_cast<std::byte*>(data) +
           (batch * batch_stride + head * head_stride) * size_of(type);
  }
  /// Do the heads of a row lie together, one row after another?
  [[nodiscard]] bool heads_together() const {
    return heads == 1 || (head_stride >= depth && heads * head_stride <= row_stride);
  }
};

/// A view [B, rows, H, depth], [rows, H, depth] or [rows, depth], without the last axis unless
/// `with_depth`.
HeadTensor head_tensor(const TensorView& view, bool with_depth);

struct AttentionProblem {
  HeadTensor q, k, v;
  CsrPattern pattern;
  std::int64_t batches, heads, group, queries, keys;
  std::int64_t patterns;  // 1, heads or batches·heads
  EdgeScore score;        // with the bias of the first batch
  std::int64_t bias_batch;
  bool has_depth;  // of q and k

  [[nodiscard]] std::int64_t real() const { return q.type == DType::f64 ? 8 : 4; }
  /// The pattern of a head, of `patterns`.
  [[nodiscard]] std::int64_t pattern_of(std::int64_t batch, std::int64_t head) const {
    return patterns == 1 ? 0 : patterns == heads ? head : batch * heads + head;
  }
  [[nodiscard]] EdgeScore score_of(std::int64_t batch, std::int64_t head) const;
};

void check_csr_softmax(const Checker& check, const CsrPattern& pattern, const TensorView& x,
                       const TensorView& out);
void check_csr_softmax_backward(const Checker& check, const CsrPattern& pattern,
                                const TensorView& y, const TensorView& dy, const TensorView& dx);

[[nodiscard]] AttentionProblem check_csr_attention(const Checker& check, const TensorView& q,
                                                   const TensorView& k, const TensorView& v,
                                                   const CsrPattern& pattern, const TensorView& o,
                                                   const TensorView& lse,
                                                   const CsrAttentionOptions& options);
[[nodiscard]] AttentionProblem check_csr_attention_backward(
    const Checker& check, const TensorView& grad, const TensorView& q, const TensorView& k,
    const TensorView& v, const TensorView& o, const TensorView& lse, const CsrPattern& pattern,
    const TensorView& dq, const TensorView& dk, const TensorView& dv,
    const std::optional<TensorView>& dbias, const std::optional<TensorView>& dlse,
    const CsrAttentionOptions& options);

}  // namespace gossamer::detail
