#pragma once

// Cutting rows into consecutive ranges, one for each task: dense rows evenly, sparse rows by their
// entries. Which thread takes a range never shows in a result.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/index.h"
#include "base/work.h"

namespace gossamer::detail {

/// [0, size) in `count` ranges whose lengths differ by one at most.
struct EqualRanges {
  std::int64_t size, count;

  /// Where range i begins; begin(count) is `size`.
  [[nodiscard]] std::int64_t begin(std::int64_t i) const noexcept {
    return size / count * i + std::min(i, size % count);
  }
  [[nodiscard]] std::int64_t end(std::int64_t i) const noexcept { return begin(i + 1); }
};

/// `rows` rows of `elements` elements in all, in as many ranges as these are worth.
inline EqualRanges equal_rows(std::int64_t rows, std::int64_t elements) {
  return {.size = rows, .count = std::min(rows, task_count(elements))};
}

/// Ranges of any lengths, each of at least one row.
class RowRanges {
 public:
  explicit RowRanges(std::vector<std::int64_t> bounds) : bounds_(std::move(bounds)) {}

  [[nodiscard]] std::int64_t count() const noexcept {
    return static_cast<std::int64_t>(bounds_.size()) - 1;
  }
  [[nodiscard]] std::int64_t begin(std::int64_t i) const noexcept {
    return bounds_[static_cast<std::size_t>(i)];
  }
  [[nodiscard]] std::int64_t end(std::int64_t i) const noexcept { return begin(i + 1); }

 private:
  std::vector<std::int64_t> bounds_;
};

struct RowCut {
  /// About as many ranges.
  std::int64_t pieces;
  /// What a row costs beside its entries, in entries.
  std::int64_t row_cost = 8;
  /// Ranges begin at multiples of so many rows.
  std::int64_t multiple = 1;
};

/// Cuts [0, rows) into ranges of about equal cost, where row i has the entries from indptr[i] to
/// indptr[i+1] and indptr[0] is 0.
RowRanges cut_rows(const RowPointers& indptr, std::int64_t rows, const RowCut& cut);

/// Calls body(begin, end) for each range, as for_tasks does.
template <class Ranges, class F>
void for_ranges(const Ranges& ranges, double nanoseconds, F&& body) {
  for_tasks(ranges.count(), nanoseconds,
            [&](std::int64_t task) { body(ranges.begin(task), ranges.end(task)); });
}

}  // namespace gossamer::detail
