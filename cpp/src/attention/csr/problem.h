#pragma once

// What csr_attention and its gradient mean once their arguments are checked, and how the work is
// cut.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "attention/csr/args.h"
#include "base/cut.h"
#include "gossamer/csr_attention.h"
#include "gossamer/detail/check.h"

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
  /// The heads from `head` on; where only `heads` = 1 is used, rows are as wide as they are deep.
  [[nodiscard]] HeadRows rows_of(std::int64_t batch, std::int64_t head,
                                 std::int64_t used_heads) const {
    return {
        .data = at(batch, head), .row = row_stride, .head = used_heads == 1 ? depth : head_stride};
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
  /// Are all heads of a row computed one after the other? That is so where keys and values do not
  /// fit in the cache, and those of all heads lie, and come from memory, together.
  [[nodiscard]] bool by_rows() const {
    return heads > 1 && patterns == 1 && is_large(keys) && k.heads_together() && v.heads_together();
  }
  /// Do the gathered rows of one head, `rows` of them, exceed what the cache keeps?
  [[nodiscard]] bool is_large(std::int64_t rows) const;
};

/// Checks the operands. Throws with the words of `check`.
AttentionProblem check_attention(const Checker& check, const TensorView& q, const TensorView& k,
                                 const TensorView& v, const CsrPattern& pattern,
                                 const CsrAttentionOptions& options);

/// `out` has the shape of `like` with the last axis `depth`, and may be written.
void check_result(const Checker& check, const Argument& out, const TensorView& like,
                  std::int64_t depth, bool like_has_depth);
/// `lse` is [B, H, M] as far as q has these axes, contiguous, of the type of sums.
void check_lse(const Checker& check, const Argument& lse, const AttentionProblem& problem,
               int leading);

/// A result, whose rows and heads may lie in any order, may be written and shares no memory with
/// `inputs`.
void check_writable(const Checker& check, const Argument& out,
                    std::initializer_list<Argument> inputs);

/// Fresh pages under a large result otherwise take long to come.
void use_huge_pages_for(const TensorView& out);

/// Ranges of rows for each of several matrices of `rows` rows, one below the other, as many for
/// each; some may be empty.
class StackCut {
 public:
  StackCut(const RowPointers& indptr, std::int64_t stacks, std::int64_t rows, std::int64_t pieces);

  [[nodiscard]] std::int64_t pieces() const noexcept { return pieces_; }
  [[nodiscard]] std::int64_t begin(std::int64_t stack, std::int64_t piece) const {
    return bounds_[static_cast<std::size_t>(stack * (pieces_ + 1) + piece)];
  }

 private:
  std::int64_t pieces_;
  std::vector<std::int64_t> bounds_;
};

/// Pieces that each of `units` is cut into, so that there are some for each thread.
std::int64_t pieces_of(std::int64_t units, std::int64_t entries);

}  // namespace gossamer::detail
