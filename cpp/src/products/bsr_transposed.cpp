// Aᵀ·B of small blocks of two or more rows: rows of B are multiplied as they come, and added to
// sums. A transpose of the blocks would be read in no order, each for a few elements.

#include <algorithm>

#include "formats/rows_view.h"
#include "products/block_product.h"
#include "products/column_ranges.h"
#include "products/compact.h"
#include "products/product.h"
#include "products/tiles.h"

namespace gossamer::detail {
namespace {

/// Is adding each block to its sums faster than a transpose? Large blocks are few beside what is
/// multiplied by them; with many columns of B, sums of blocks that are wide and low are loaded and
/// stored for too few products. Measured on a Xeon (family 6 model 207).
bool repays_sums(const BlockOperand& a, const Product& product) {
  const std::int64_t size = a.block_rows * a.block_cols;
  return a.block_rows >= 2 && size <= (product.n == 1 ? 8 : 64) &&
         (product.n <= 32 || a.block_cols <= 2 || a.block_rows >= 8);
}

/// The widest tile of B of which a kernel holds four rows in registers, and a row of sums.
int widest_scattered_tile(const Product& product) {
  const int lanes = static_cast<int>(vector_bytes() / real_size(product));
  return std::max((vector_bytes() >= 64 ? 4 : 2) * lanes, 8);
}

}  // namespace

bool scatter_blocks(const BlockOperand& a, const Product& product) {
  RowsView grid = a.grid;
  grid.values = a.values;
  const std::int64_t size = a.block_rows * a.block_cols;
  const bool narrow = size_of(grid.value_type) == 2;
  if (!repays_sums(a, product) || (narrow && 512 % size != 0) ||
      is_hollow(grid.rows, grid.nnz, a.block_rows)) {
    return false;
  }
  const ColumnRanges ranges =
      plan_ranges(product, a.block_rows, a.block_cols, widest_scattered_tile(product),
                  density_of(grid.nnz * size, product));
  if (!repay_positions(grid, ranges)) return false;
  multiply_by_ranges(grid, product, ranges);
  return true;
}

}  // namespace gossamer::detail
