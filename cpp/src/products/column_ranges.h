#pragma once

// Transposed products range by range of A's columns: each range has a tile of sums that stays in a
// cache, to which the rows of A add their multiples of rows of B.

#include <cstdint>

#include "formats/rows_view.h"
#include "products/product.h"

namespace gossamer::detail {

/// How a matrix is cut whose entries are blocks; a block of a plain entry is 1×1.
struct ColumnRanges {
  std::int64_t block_rows, block_cols;
  int widest;          // tile of B
  std::int64_t width;  // of a range, in blocks
};

/// Elements that are stored over all of them.
double density_of(std::int64_t stored, const Product& product);

/// `block_rows`, `block_cols` and `widest` are as in ColumnRanges. The sparser the matrix is, the
/// more sums a range has.
ColumnRanges plan_ranges(const Product& product, std::int64_t block_rows, std::int64_t block_cols,
                         int widest, double density);

/// Ranges cost a position for each of them and each row. Is this little beside the entries?
bool repay_positions(const RowsView& a, const ColumnRanges& ranges);

/// out = epilogue(Aᵀ·B).
void multiply_by_ranges(const RowsView& a, const Product& product, const ColumnRanges& ranges);

}  // namespace gossamer::detail
