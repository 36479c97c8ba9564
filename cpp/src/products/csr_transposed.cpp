#include <algorithm>
#include <optional>
#include <utility>

#include "base/caches.h"
#include "base/cut.h"
#include "base/levels.h"
#include "base/scratch.h"
#include "products/column_cuts.h"
#include "products/compact.h"
#include "products/kernels.h"
#include "products/product.h"
#include "products/tiles.h"

namespace gossamer::detail {
namespace {

/// How Aᵀ·B is computed. Sums of sparse rows are loaded, added to and stored again, so it matters
/// which cache they lie in.
struct Limits {
  bool by_transpose;       // with a transpose of A, whose product reads rows of B instead
  bool by_pieces;          // pieces of rows may have sums of their own
  std::int64_t sum_bytes;  // of a range of A's columns
};

/// Intel's processors move sums between L1 and L2 far more slowly than they add to them: there,
/// sums of all but the sparsest rows stay in L1. The others' limits are of an EPYC (family 25 model
/// 17), Intel's of a Xeon (family 6 model 207).
Limits limits_of(const RowsView& a, const Product& product) {
  const double density =
      static_cast<double>(a.nnz) /
      std::max(static_cast<double>(product.m) * static_cast<double>(product.k), 1.0);
  if (!is_intel()) {
    return {.by_transpose = product.n >= 256 && density < 0.3,
            .by_pieces = true,
            .sum_bytes = std::int64_t{256} << 10};
  }
  const std::int64_t kibibytes = density >= 0.3 ? 48 : density >= 0.05 ? 64 : 128;
  return {.by_transpose = static_cast<double>(product.n) >= 128 + 4000 * density,
          .by_pieces = density < 0.15,
          .sum_bytes = kibibytes << 10};
}

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

/// Columns of A whose sums take so many bytes.
std::int64_t range_width(const Product& product, std::int64_t sum_bytes) {
  const std::int64_t columns = std::min<std::int64_t>(widest_tile(), product.n);
  return std::max<std::int64_t>(sum_bytes / (columns * real_size(product)), 16);
}

/// Ranges of A's columns: each has a tile of sums that stays in cache, to which the rows of A add
/// their multiples of a row of B.
void multiply_by_ranges(const RowsView& a, const Product& product, std::int64_t width) {
  const std::int64_t real = real_size(product);
  const std::int64_t least = 2 * num_threads();  // ranges
  std::int64_t ranges = ceil_div(ceil_div(product.m, width), least) * least;
  width = std::max<std::int64_t>(ceil_div(ceil_div(product.m, ranges), 16) * 16, 16);
  ranges = ceil_div(product.m, width);
  const std::int64_t pointer = pointer_size(a.kind);
  const Scratch cuts((ranges + 1) * a.rows * pointer);
  cut_columns(a, width, ranges, cuts.data());

  const auto run = [&](const Tile& tile, const void* b, std::int64_t q) {
    const std::int64_t first = q * width, rows = std::min(width, product.m - first);
    const std::int64_t bytes = rows * tile.tile * real;
    const Scratch sums(bytes);
    std::fill_n(sums.data(), bytes, std::byte{0});
    const void* begin = at(cuts.data(), q * a.rows * pointer);
    product_kernels().spmm_scatter({.kind = a.kind,
                                    .begin = begin,
                                    .end = at(begin, a.rows * pointer),
                                    .indices = a.indices,
                                    .values = a.values,
                                    .value_type = a.value_type,
                                    .rows = a.rows,
                                    .col0 = first,
                                    .b = b,
                                    .ldb = tile.tile,
                                    .c = sums.data(),
                                    .tile = tile.tile,
                                    .f64 = is_f64(product)});
    store(product, Sums::row_major, sums.data(), tile.tile, first, rows, tile.first, tile.width);
  };
  for_tiles(product, widest_tile(), ranges, row_cost(a.nnz, product), run);
}

}  // namespace

void multiply_transposed(const Csr& matrix, const Product& product) {
  const RowsView a = rows_view(matrix);
  const Limits limits = limits_of(a, product);
  if (limits.by_transpose) return multiply_by_transpose(matrix, product);
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
  if (limits.by_pieces && whole.width == product.n &&
      product.m * whole.tile * real_size(product) <= tile_of_b() &&
      transposed_pieces(a, whole.tile) >= 4) {
    return for_panels(of_rows, widest, [&](const Panel& panel) { by_pieces(whole, panel.data); });
  }
  // Ranges cost a position for each of them and each row; this must stay small beside the entries.
  const std::int64_t width = range_width(product, limits.sum_bytes);
  const std::int64_t positions = ceil_div(product.m, width) * rows.rows;
  if (positions > std::max<std::int64_t>(std::int64_t{1} << 24, 8 * (a.nnz + product.m))) {
    return multiply_by_transpose(matrix, product);
  }
  multiply_by_ranges(rows, of_rows, width);
}

}  // namespace gossamer::detail
