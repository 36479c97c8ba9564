#include "products/column_ranges.h"

#include <algorithm>

#include "base/cut.h"
#include "base/levels.h"
#include "base/scratch.h"
#include "products/column_cuts.h"
#include "products/kernels.h"
#include "products/tiles.h"

namespace gossamer::detail {
namespace {

/// Bytes of the sums of a range. Intel's processors move sums between L1 and L2 far more slowly
/// than they add to them: there, sums of all but the sparsest rows stay in L1. 256 KiB are for an
/// EPYC (family 25 model 17), Intel's for a Xeon (family 6 model 207).
std::int64_t sum_bytes(double density) {
  std::int64_t kibibytes = 256;
  if (is_intel()) kibibytes = density >= 0.3 ? 48 : density >= 0.05 ? 64 : 128;
  return kibibytes << 10;
}

}  // namespace

double density_of(std::int64_t stored, const Product& product) {
  const double area = static_cast<double>(product.m) * static_cast<double>(product.k);
  return static_cast<double>(stored) / std::max(area, 1.0);
}

ColumnRanges plan_ranges(const Product& product, std::int64_t block_rows, std::int64_t block_cols,
                         int widest, double density) {
  const std::int64_t columns = std::min<std::int64_t>(widest, product.n);
  const std::int64_t width = sum_bytes(density) / (columns * real_size(product) * block_cols);
  return {block_rows, block_cols, widest, std::max<std::int64_t>(width, 16)};
}

bool repay_positions(const RowsView& a, const ColumnRanges& ranges) {
  const std::int64_t positions = ceil_div(a.cols, ranges.width) * a.rows;
  return positions <= std::max<std::int64_t>(std::int64_t{1} << 24, 8 * (a.nnz + a.cols));
}

void multiply_by_ranges(const RowsView& a, const Product& product, const ColumnRanges& plan) {
  const std::int64_t real = real_size(product), size = plan.block_rows * plan.block_cols;
  const std::int64_t least = 2 * num_threads();  // ranges
  std::int64_t ranges = ceil_div(ceil_div(a.cols, plan.width), least) * least;
  const std::int64_t width =
      std::max<std::int64_t>(ceil_div(ceil_div(a.cols, ranges), 16) * 16, 16);
  ranges = ceil_div(a.cols, width);
  const std::int64_t pointer = pointer_size(a.kind);
  const Scratch cuts((ranges + 1) * a.rows * pointer);
  cut_columns(a, width, ranges, cuts.data());
  const auto scatter = size == 1 ? product_kernels().spmm_scatter : product_kernels().bsr_scatter;

  const auto run = [&](const Tile& tile, const void* b, std::int64_t q) {
    const std::int64_t first = q * width;
    const std::int64_t rows = std::min(width, a.cols - first) * plan.block_cols;
    const std::int64_t row = first * plan.block_cols;  // of the product
    const std::int64_t bytes = rows * tile.tile * real;
    const Scratch sums(bytes);
    std::fill_n(sums.data(), bytes, std::byte{0});
    const void* begin = at(cuts.data(), q * a.rows * pointer);
    scatter({.kind = a.kind,
             .begin = begin,
             .end = at(begin, a.rows * pointer),
             .indices = a.indices,
             .values = a.values,
             .value_type = a.value_type,
             .rows = a.rows,
             .block_rows = plan.block_rows,
             .block_cols = plan.block_cols,
             .col0 = first,
             .b = b,
             .ldb = tile.tile,
             .c = sums.data(),
             .tile = tile.tile,
             .f64 = is_f64(product)});
    store(product, Sums::row_major, sums.data(), tile.tile, row, std::min(rows, product.m - row),
          tile.first, tile.width);
  };
  for_tiles(product, plan.widest, ranges, row_cost(a.nnz * size, product), run);
}

}  // namespace gossamer::detail
