#include "base/cut.h"

namespace gossamer::detail {

RowRanges cut_rows(const RowPointers& indptr, std::int64_t rows, const RowCut& cut) {
  const std::int64_t total = indptr[rows] + cut.row_cost * rows;
  std::vector<std::int64_t> bounds = {0};
  for (std::int64_t piece = 1; piece < cut.pieces; ++piece) {
    const std::int64_t target = total / cut.pieces * piece;
    std::int64_t low = bounds.back(), high = rows;
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (indptr[middle] + cut.row_cost * middle < target) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    low = low / cut.multiple * cut.multiple;
    if (low > bounds.back()) bounds.push_back(low);
  }
  if (rows > bounds.back()) bounds.push_back(rows);
  return RowRanges(std::move(bounds));
}

}  // namespace gossamer::detail
