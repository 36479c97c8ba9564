#pragma once

// Transposed products range by range of A's columns: each range has a tile of sums that stays in a
// cache, to which the rows of A add their multiples of rows of B.

#include <algorithm>
#include <cstdint>

#include "base/cut.h"
#include "base/levels.h"
#include "base/scratch.h"
#include "formats/rows_view.h"
#include "products/column_cuts.h"
#include "products/product.h"
#include "products/tiles.h"

namespace gossamer::detail {

/// Of a matrix whose entries are blocks, or plain entries.
struct ColumnRanges {
  std::int64_t block_cols;
  int widest;          // tile of B
  std::int64_t width;  // of a range, in blocks
};

/// One range and tile.
struct RangeTask {
  const void* begin;  // of the range's entries, one for each row
  const void* end;
  std::int64_t first;  // column, in blocks
  const Tile& tile;
  const void* b;
  std::byte* sums;
};

/// Bytes of the sums of a range. Intel's processors move sums between L1 and L2 far more slowly
/// than they add to them: there, sums of all but the sparsest rows stay in L1. 256 KiB are for an
/// EPYC (family 25 model 17), Intel's for a Xeon (family 6 model 207).
inline std::int64_t sum_bytes(double density) {
  const std::int64_t kibibytes = !is_intel()       ? 256
                                 : density >= 0.3  ? 48
                                 : density >= 0.05 ? 64
                                                   : 128;
  return kibibytes << 10;
}

inline ColumnRanges plan_ranges(const Product& product, std::int64_t block_cols, int widest,
                                double density) {
  const std::int64_t columns = std::min<std::int64_t>(widest, product.n);
  const std::int64_t width = sum_bytes(density) / (columns * real_size(product) * block_cols);
  return {block_cols, widest, std::max<std::int64_t>(width, 16)};
}

/// Ranges cost a position for each of them and each row. Is this little beside the entries?
inline bool repay_positions(const RowsView& a, const ColumnRanges& ranges) {
  const std::int64_t positions = ceil_div(a.cols, ranges.width) * a.rows;
  return positions <= std::max<std::int64_t>(std::int64_t{1} << 24, 8 * (a.nnz + a.cols));
}

/// Calls add(task) for each range and tile, and stores the sums. `nanoseconds`: about what one
/// thread takes for all of it.
template <class F>
void for_column_ranges(const RowsView& a, const Product& product, const ColumnRanges& plan,
                       double nanoseconds, F&& add) {
  const std::int64_t real = real_size(product);
  const std::int64_t least = 2 * num_threads();  // ranges
  std::int64_t ranges = ceil_div(ceil_div(a.cols, plan.width), least) * least;
  const std::int64_t width =
      std::max<std::int64_t>(ceil_div(ceil_div(a.cols, ranges), 16) * 16, 16);
  ranges = ceil_div(a.cols, width);
  const std::int64_t pointer = pointer_size(a.kind);
  const Scratch cuts((ranges + 1) * a.rows * pointer);
  cut_columns(a, width, ranges, cuts.data());

  const auto run = [&](const Tile& tile, const void* b, std::int64_t q) {
    const std::int64_t first = q * width;
    const std::int64_t rows = std::min(width, a.cols - first) * plan.block_cols;
    const std::int64_t row = first * plan.block_cols;  // of the product
    const std::int64_t bytes = rows * tile.tile * real;
    const Scratch sums(bytes);
    std::fill_n(sums.data(), bytes, std::byte{0});
    const void* begin = at(cuts.data(), q * a.rows * pointer);
    add(RangeTask{begin, at(begin, a.rows * pointer), first, tile, b, sums.data()});
    store(product, Sums::row_major, sums.data(), tile.tile, row, std::min(rows, product.m - row),
          tile.first, tile.width);
  };
  for_tiles(product, plan.widest, ranges, nanoseconds, run);
}

}  // namespace gossamer::detail
