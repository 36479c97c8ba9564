#pragma once

// How the work of csr_attention and its gradient is cut.

#include <cstdint>
#include <vector>

#include "attention/csr/args.h"
#include "base/cut.h"
#include "gossamer/detail/csr_attention_checks.h"

namespace gossamer::detail {

/// The heads of a batch from `head` on; where only `heads` = 1 is used, rows are as wide as they
/// are deep.
HeadRows rows_of(const HeadTensor& tensor, std::int64_t batch, std::int64_t head,
                 std::int64_t used_heads);

/// Do the gathered rows of one head, `rows` of them, exceed what the cache keeps?
bool is_large(const AttentionProblem& problem, std::int64_t rows);

/// Are all heads of a row computed one after the other? That is so where keys and values do not fit
/// in the cache, and those of all heads lie, and come from memory, together.
bool by_rows(const AttentionProblem& problem);

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
