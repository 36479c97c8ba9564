#include "attention/csr/problem.h"

#include <algorithm>

#include "base/buffer.h"
#include "base/caches.h"
#include "base/work.h"

namespace gossamer::detail {

bool is_large(const AttentionProblem& problem, std::int64_t rows) {
  return static_cast<double>(rows) * static_cast<double>(problem.k.depth + problem.v.depth) *
             static_cast<double>(size_of(problem.q.type)) >
         static_cast<double>(rows_of_b());
}

bool by_rows(const AttentionProblem& problem) {
  return problem.heads > 1 && problem.patterns == 1 && is_large(problem, problem.keys) &&
         problem.k.heads_together() && problem.v.heads_together();
}

HeadRows rows_of(const HeadTensor& tensor, std::int64_t batch, std::int64_t head,
                 std::int64_t used_heads) {
  return {.data = tensor.at(batch, head),
          .row = tensor.row_stride,
          .head = used_heads == 1 ? tensor.depth : tensor.head_stride};
}

void use_huge_pages_for(const TensorView& out) {
  if (is_contiguous(out)) ask_for_huge_pages(out.data, out.numel() * size_of(out.dtype));
}

StackCut::StackCut(const RowPointers& indptr, std::int64_t stacks, std::int64_t rows,
                   std::int64_t pieces)
    : pieces_(pieces) {
  constexpr std::int64_t kRowCost = 4;  // of a row beside its entries, in entries
  bounds_.reserve(static_cast<std::size_t>(stacks * (pieces + 1)));
  for (std::int64_t stack = 0; stack < stacks; ++stack) {
    const std::int64_t first = stack * rows, last = first + rows;
    const auto cost = [&](std::int64_t row) {
      return indptr[row] - indptr[first] + kRowCost * (row - first);
    };
    for (std::int64_t piece = 0; piece <= pieces; ++piece) {
      const std::int64_t target = cost(last) / pieces * piece;
      std::int64_t low = piece == 0 ? first : bounds_.back();
      std::int64_t high = last;
      if (piece == pieces) low = last;
      while (low < high) {
        const std::int64_t middle = low + (high - low) / 2;
        if (cost(middle) < target) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      bounds_.push_back(low);
    }
  }
}

std::int64_t pieces_of(std::int64_t units, std::int64_t entries) {
  const std::int64_t wanted = ceil_div(std::int64_t{8} * num_threads(), units);
  return std::clamp<std::int64_t>(std::max(wanted, entries / kTaskElements), 1,
                                  std::max<std::int64_t>(entries / 256, 1));
}

}  // namespace gossamer::detail
