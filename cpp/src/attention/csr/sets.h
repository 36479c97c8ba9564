#pragma once

// Work on several sets of values [..., nnz] of one pattern.

#include <cstddef>
#include <cstdint>

#include "base/cut.h"
#include "gossamer/csr.h"

namespace gossamer::detail {

inline std::byte* element(const TensorView& view, std::int64_t i) {
  return static_cast<std::byte*>(view.data) + i * size_of(view.dtype);
}

/// Calls body(set, row0, row1) for each set of `values` and ranges of rows; an entry takes about
/// `nanoseconds`.
template <class F>
void for_sets(const CsrPattern& pattern, const TensorView& values, double nanoseconds, F&& body) {
  if (pattern.nnz() == 0 || values.numel() == 0) return;
  const std::int64_t sets = values.numel() / pattern.nnz();
  const std::int64_t work = pattern.nnz() + pattern.rows();
  const RowRanges ranges =
      cut_rows({pattern.indptr().data, pattern.index_dtype() == DType::i64}, pattern.rows(),
               {.pieces = ceil_div(4 * work, kTaskElements), .row_cost = 1});
  for_tasks(sets * ranges.count(),
            nanoseconds * static_cast<double>(sets) * static_cast<double>(work),
            [&](std::int64_t task) {
              const std::int64_t range = task % ranges.count();
              body(task / ranges.count(), ranges.begin(range), ranges.end(range));
            });
}

}  // namespace gossamer::detail
