#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "base/work.h"
#include "gossamer/detail/check.h"
#include "gossamer/prune/diagnostics.h"

namespace gossamer::detail {

/// A matrix cut into down x across blocks of rows x cols elements, no larger than the matrix.
struct Grid {
  std::int64_t rows, cols, down, across;
};

inline Grid make_grid(const Checker& check, std::int64_t height, std::int64_t width,
                      const prune::CountBlock& block) {
  if (block.rows.value_or(1) < 1 || block.cols.value_or(1) < 1) {
    check.value_error("per is (" + std::to_string(block.rows.value_or(1)) + ", " +
                      std::to_string(block.cols.value_or(1)) + "), expected at least 1 each");
  }
  const std::int64_t tall = std::max<std::int64_t>(height, 1);
  const std::int64_t wide = std::max<std::int64_t>(width, 1);
  Grid grid{.rows = std::min(block.rows.value_or(tall), tall),
            .cols = std::min(block.cols.value_or(wide), wide),
            .down = 1,
            .across = 1};
  if (block.rows) grid.down = ceil_div(height, grid.rows);
  if (block.cols) grid.across = ceil_div(width, grid.cols);
  return grid;
}

/// `counts` is int64, contiguous, with an element for each block.
inline void check_counts(const Checker& check, const TensorView& counts, const Grid& grid,
                         const prune::CountBlock& block) {
  const Argument result{"out", counts};
  check.dtype(result, DType::i64, "a count");
  if (block.rows && block.cols) {
    check.shape(result, {grid.down, grid.across});
  } else if (block.rows) {
    check.shape(result, {grid.down});
  } else if (block.cols) {
    check.shape(result, {grid.across});
  } else {
    check.shape(result, {});
  }
  check.device(result, {}, "the CPU");
  check.contiguous(result);
}

}  // namespace gossamer::detail
