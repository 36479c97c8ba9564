#include <algorithm>
#include <optional>

#include "base/caches.h"
#include "base/cut.h"
#include "base/scratch.h"
#include "products/column_cuts.h"
#include "products/compact.h"
#include "products/kernels.h"
#include "products/product.h"
#include "products/tiles.h"

namespace gossamer::detail {
namespace {

/// One column: rows of A against a vector.
void multiply_vector(const RowsView& a, const Product& product) {
  if (is_hollow(a.cols, a.nnz) && !columns_are_contiguous(product)) {
    const CompactColumns compact(a, product);
    return multiply_vector(compact.matrix(), compact.product());
  }
  const std::int64_t real = real_size(product);
  const Columns columns(product);
  const RowRanges pieces =
      cut_rows(a.pointers(), a.rows, {.pieces = std::int64_t{4} * num_threads(), .multiple = 16});
  for_ranges(pieces, row_cost(a.nnz, product), [&](std::int64_t row0, std::int64_t row1) {
    constexpr std::int64_t kRows = 256;
    alignas(64) double sums[kRows];
    for (std::int64_t row = row0; row < row1; row += kRows) {
      const std::int64_t end = std::min(row1, row + kRows);
      product_kernels().spmv({.kind = a.kind,
                              .indptr = a.indptr,
                              .indices = a.indices,
                              .values = a.values,
                              .value_type = a.value_type,
                              .row0 = row,
                              .row1 = end,
                              .x = columns.data(),
                              .y = reinterpret_cast<std::byte*>(sums) - row * real,
                              .f64 = is_f64(product)});
      store(product, Sums::column_major, sums, kRows, row, end - row, 0, 1);
    }
  });
}

}  // namespace

// A's rows against tiles of B that stay in L2, in column blocks where all of A's columns do not
// fit.
void multiply_columns(const RowsView& a, const Product& product) {
  const std::int64_t real = real_size(product);
  int widest = widest_tile();
  // A B whose rows are all one in memory may have more of them than can be multiplied.
  const std::int64_t k = std::min(product.k, std::int64_t{1} << 40);
  while (widest > 32 && k * widest * real > tile_of_b()) widest /= 2;
  std::int64_t blocks = 1;
  if (product.n > 8) {
    const std::int64_t tile = std::min<std::int64_t>(widest, product.n);
    blocks = ceil_div(k * tile * real, tile_of_b());
  }
  blocks = std::clamp<std::int64_t>(
      blocks, 1, std::max<std::int64_t>(a.nnz / std::max<std::int64_t>(a.rows, 1) / 8, 1));
  const std::int64_t pointer = pointer_size(a.kind);
  const Scratch cuts(blocks > 1 ? (blocks + 1) * a.rows * pointer : 0);
  if (blocks > 1) cut_columns(a, ceil_div(product.k, blocks), blocks, cuts.data());
  const RowRanges pieces =
      cut_rows(a.pointers(), a.rows,
               {.pieces = std::max<std::int64_t>(std::int64_t{4} * num_threads(), a.rows / 512),
                .multiple = 16});
  std::optional<CompactColumns> compact;
  if (is_hollow(a.cols, a.nnz) && !is_one_tile(product, widest)) compact.emplace(a, product);
  const RowsView& matrix = compact ? compact->matrix() : a;

  const auto run = [&](const Tile& tile, const void* b, std::int64_t piece) {
    // Sums of a strip of rows stay in L1, or in L2 over several column blocks.
    const std::int64_t strip = blocks == 1 ? 32 : 512;
    const Scratch sums(strip * tile.tile * real);
    for (std::int64_t row = pieces.begin(piece); row < pieces.end(piece); row += strip) {
      const std::int64_t end = std::min(pieces.end(piece), row + strip);
      for (std::int64_t q = 0; q < blocks; ++q) {
        const void* begin = blocks == 1 ? a.indptr : at(cuts.data(), q * a.rows * pointer);
        product_kernels().spmm_rows(
            {.kind = matrix.kind,
             .begin = begin,
             .end = blocks == 1 ? at(a.indptr, pointer) : at(begin, a.rows * pointer),
             .indices = matrix.indices,
             .values = a.values,
             .value_type = a.value_type,
             .row0 = row,
             .row1 = end,
             .b = b,
             .c = sums.data(),
             .tile = tile.tile,
             .accumulate = q > 0,
             .f64 = is_f64(product)});
      }
      store(product, Sums::row_major, sums.data(), tile.tile, row, end - row, tile.first,
            tile.width);
    }
  };

  for_tiles(compact ? compact->product() : product, widest, pieces.count(),
            row_cost(a.nnz, product), run);
}

void multiply(const RowsView& a, const Product& product) {
  if (product.n == 1) {
    multiply_vector(a, product);
  } else {
    multiply_columns(a, product);
  }
}

}  // namespace gossamer::detail
