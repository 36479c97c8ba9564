#include <algorithm>
#include <optional>
#include <utility>

#include "base/caches.h"
#include "base/cut.h"
#include "base/levels.h"
#include "base/scratch.h"
#include "products/column_ranges.h"
#include "products/compact.h"
#include "products/kernels.h"
#include "products/product.h"
#include "products/tiles.h"

namespace gossamer::detail {
namespace {

/// Is A·B with a transpose of A, made for it, faster than adding to sums, which are loaded and
/// stored again? Measured on an EPYC (family 25 model 17) and a Xeon (family 6 model 207).
bool repays_transpose(const Product& product, double density) {
  if (!is_intel()) return product.n >= 256 && density < 0.3;
  return static_cast<double>(product.n) >= 128 + 4000 * density;
}

/// May pieces of rows have sums of their own? On Intel's processors ranges of columns, whose sums
/// stay in L1, are faster at more than so many entries.
bool repays_pieces(double density) { return !is_intel() || density < 0.15; }

/// How many pieces A's rows are cut into where each piece has a tile of sums of its own: as many as
/// cost little to add up. It depends on A and the tile alone, as then do the results.
std::int64_t transposed_pieces(const RowsView& a, std::int64_t tile) {
  // In entries. Sums of one column cost as much to clear and to add as an entry of A.
  const std::int64_t worth = std::max<std::int64_t>((tile == 1 ? 16 : 4) * a.cols * tile, 32768);
  return std::clamp<std::int64_t>(a.nnz / worth, 1, 64);
}

/// Adds the sums of all pieces to those of the first, for `rows` rows from `first` on.
template <class T>
void add_pieces(T* total, std::int64_t count, std::int64_t pieces, std::int64_t piece_size) {
  for (std::int64_t piece = 1; piece < pieces; ++piece) {
    const T* more = total + piece * piece_size;
    for (std::int64_t i = 0; i < count; ++i) total[i] += more[i];
  }
}

/// One tile of Aᵀ·B by row pieces, each into sums of its own, which are then added in order: A is
/// read as it lies in memory. `b` is [k, tile] in the type of sums.
void multiply_by_pieces(const RowsView& a, const RowRanges& pieces, const Product& product,
                        const Tile& tile, const void* b) {
  const std::int64_t real = real_size(product);
  const std::int64_t piece_size = product.m * tile.tile;
  const Scratch sums(std::max<std::int64_t>(pieces.count(), 1) * piece_size * real);
  if (pieces.count() == 0) std::fill_n(sums.data(), piece_size * real, std::byte{0});
  for_tasks(pieces.count(), row_cost(a.nnz, product), [&](std::int64_t piece) {
    std::byte* c = sums.data() + piece * piece_size * real;
    std::fill_n(c, piece_size * real, std::byte{0});
    const std::byte* begin = at(a.indptr, pieces.begin(piece) * pointer_size(a.kind));
    product_kernels().spmm_scatter({.kind = a.kind,
                                    .begin = begin,
                                    .end = begin + pointer_size(a.kind),
                                    .indices = a.indices,
                                    .values = a.values,
                                    .value_type = a.value_type,
                                    .rows = pieces.end(piece) - pieces.begin(piece),
                                    .col0 = 0,
                                    .b = at(b, pieces.begin(piece) * tile.tile * real),
                                    .ldb = tile.tile,
                                    .c = c,
                                    .tile = tile.tile,
                                    .f64 = is_f64(product)});
  });
  const std::int64_t strip = std::max<std::int64_t>(1024 / tile.tile, 1);
  const double nanoseconds = 0.1 * static_cast<double>(pieces.count() * piece_size);
  for_tasks(ceil_div(product.m, strip), nanoseconds, [&](std::int64_t task) {
    const std::int64_t row = task * strip, rows = std::min(strip, product.m - row);
    std::byte* total = sums.data() + row * tile.tile * real;
    const std::int64_t count = rows * tile.tile;
    if (is_f64(product)) {
      add_pieces(reinterpret_cast<double*>(total), count, pieces.count(), piece_size);
    } else {
      add_pieces(reinterpret_cast<float*>(total), count, pieces.count(), piece_size);
    }
    if (tile.tile == 1) {
      store(product, Sums::column_major, total, rows, row, rows, tile.first, 1);
    } else {
      store(product, Sums::row_major, total, tile.tile, row, rows, tile.first, tile.width);
    }
  });
}

/// Aᵀ·B as a plain product, with a transpose of A made for it.
void multiply_by_transpose(const Csr& a, const Product& product) {
  const DType index = a.index_dtype();
  const std::int64_t indptr_bytes = (a.cols() + 2) / 2 * 2 * size_of(index);
  const std::int64_t indices_bytes = (a.nnz() + 1) / 2 * 2 * size_of(index);
  const Scratch scratch(indptr_bytes + indices_bytes + a.nnz() * size_of(a.dtype()));
  std::byte* indices = scratch.data() + indptr_bytes;
  std::byte* values = indices + indices_bytes;
  csr_transpose(a, make_view(static_cast<void*>(scratch.data()), index, {a.cols() + 1}),
                make_view(static_cast<void*>(indices), index, {a.nnz()}),
                make_view(static_cast<void*>(values), a.dtype(), {a.nnz()}), std::nullopt);
  RowsView view = rows_view(a);
  view.indptr = scratch.data();
  view.indices = indices;
  view.values = values;
  std::swap(view.rows, view.cols);
  multiply_columns(view, product);
}

}  // namespace

void multiply_transposed(const Csr& matrix, const Product& product) {
  const RowsView a = rows_view(matrix);
  const double kept = density_of(a.nnz, product);
  if (repays_transpose(product, kept)) return multiply_by_transpose(matrix, product);
  const int widest = widest_tile();
  const bool copies =
      product.n == 1 ? !columns_are_contiguous(product) : !is_one_tile(product, widest);
  std::optional<CompactRows> compact;
  if (copies && is_hollow(a.rows, a.nnz)) compact.emplace(a, product);
  const RowsView& rows = compact ? compact->matrix() : a;
  const Product& of_rows = compact ? compact->product() : product;
  const auto by_pieces = [&](const Tile& tile, const void* b) {
    const RowRanges pieces =
        cut_rows(a.pointers(), a.rows, {.pieces = transposed_pieces(a, tile.tile)});
    multiply_by_pieces(rows, compact ? compact->ranges(pieces) : pieces, of_rows, tile, b);
  };
  if (product.n == 1) {
    const Columns columns(of_rows);
    return by_pieces({0, 1, 1}, columns.data());
  }
  const Tile whole = make_tiles(0, product.n, widest).front();
  if (repays_pieces(kept) && whole.width == product.n &&
      product.m * whole.tile * real_size(product) <= tile_of_b() &&
      transposed_pieces(a, whole.tile) >= 4) {
    return for_panels(of_rows, widest, [&](const Panel& panel) { by_pieces(whole, panel.data); });
  }
  const ColumnRanges ranges = plan_ranges(of_rows, 1, 1, widest, kept);
  if (!repay_positions(rows, ranges)) return multiply_by_transpose(matrix, product);
  multiply_by_ranges(rows, of_rows, ranges);
}

}  // namespace gossamer::detail
