#include "products/product.h"

#include <algorithm>
#include <vector>

#include "base/levels.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/runtime.h"
#include "products/kernels.h"
#include "products/tiles.h"

namespace gossamer::detail {
namespace {

// A transposed product of so many columns, with a matrix of less density, transposes first.
constexpr std::int64_t kTransposeWidth = 256;
constexpr double kTransposeDensity = 0.3;

/// About the nanoseconds that one thread takes for the product.
double cost(std::int64_t nnz, const Product& product) {
  return static_cast<double>(nnz) * (0.3 + 0.05 * static_cast<double>(product.n));
}

/// The widest tile that this level's registers take.
int widest_tile() { return vector_bytes() >= 32 ? 64 : 32; }

/// One column: rows of A against a vector.
void multiply_vector(const RowsView& a, const Product& product) {
  const std::int64_t real = real_size(product);
  const bool direct = columns_are_contiguous(product);
  Scratch scratch(direct ? 0 : product.k * real);
  const void* x = direct ? product.b.data : contiguous_columns(product, scratch, product.k);
  const auto bounds = cut_rows(a, 4 * num_threads(), 16);
  for_tasks(static_cast<std::int64_t>(bounds.size()) - 1, cost(a.nnz, product),
            [&](std::int64_t task) {
              const std::int64_t row0 = bounds[static_cast<std::size_t>(task)];
              const std::int64_t row1 = bounds[static_cast<std::size_t>(task) + 1];
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
                                        .x = x,
                                        .y = reinterpret_cast<std::byte*>(sums) - row * real,
                                        .f64 = is_f64(product)});
                store(product, Sums::column_major, sums, kRows, row, end - row, 0, 1);
              }
            });
}

/// Several columns: A's rows against tiles of B that stay in L2, in column blocks where all of A's
/// columns do not fit.
void multiply_rows(const RowsView& a, const Product& product) {
  const std::int64_t real = real_size(product);
  int widest = widest_tile();
  while (widest > 32 && product.k * widest * real > kTileOfB) widest /= 2;
  std::int64_t blocks = 1;
  if (product.n > 8) {
    const std::int64_t tile = std::min<std::int64_t>(widest, product.n);
    blocks = (product.k * tile * real + kTileOfB - 1) / kTileOfB;
  }
  blocks = std::clamp<std::int64_t>(
      blocks, 1, std::max<std::int64_t>(a.nnz / std::max<std::int64_t>(a.rows, 1) / 8, 1));
  const std::int64_t width = (product.k + blocks - 1) / blocks;
  const std::int64_t pointer = pointer_size(a.kind);

  const Scratch cuts(blocks > 1 ? (blocks + 1) * a.rows * pointer : 0);
  if (blocks > 1) cut_columns(a, width, blocks, cuts.data());
  const std::int64_t pieces = std::max<std::int64_t>(4 * num_threads(), a.rows / 512);
  const auto bounds = cut_rows(a, pieces, 16);
  const auto chunks = static_cast<std::int64_t>(bounds.size()) - 1;

  const auto run = [&](const Tile& tile, const void* b, std::int64_t chunk) {
    const std::int64_t row0 = bounds[static_cast<std::size_t>(chunk)];
    const std::int64_t row1 = bounds[static_cast<std::size_t>(chunk) + 1];
    // Sums of a strip of rows stay in L1, or in L2 over several column blocks.
    const std::int64_t strip = blocks == 1 ? 32 : 512;
    const Scratch sums(strip * tile.tile * real);
    for (std::int64_t row = row0; row < row1; row += strip) {
      const std::int64_t end = std::min(row1, row + strip);
      for (std::int64_t q = 0; q < blocks; ++q) {
        const void* begin = blocks == 1 ? a.indptr : at(cuts.data(), q * a.rows * pointer);
        product_kernels().spmm_rows(
            {.kind = a.kind,
             .begin = begin,
             .end = blocks == 1 ? at(a.indptr, pointer) : at(begin, a.rows * pointer),
             .indices = a.indices,
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

  for_tiles(product, widest, chunks, cost(a.nnz, product), run);
}

void multiply_blocks(const BlocksLayout& a, std::int64_t nnz, const Product& product) {
  const std::int64_t real = real_size(product);
  const auto run = [&](const Tile& tile, const std::byte* b, std::int64_t row_block) {
    const std::int64_t row = row_block * a.block_rows;
    const std::int64_t rows = std::min(a.block_rows, product.m - row);
    const std::int64_t bytes = rows * tile.tile * real;
    const Scratch sums(bytes);
    std::fill(sums.data(), sums.data() + bytes, std::byte{0});
    for (std::int64_t q = 0; q < a.col_blocks; ++q) {
      const auto cell = static_cast<std::size_t>(row_block * a.col_blocks + q);
      const std::int64_t begin = a.run_begin[cell], entry = a.entry_begin[cell];
      product_kernels().spmm_block({.run_length = a.run_length.data() + begin,
                                    .run_count = a.run_count.data() + begin,
                                    .runs = a.run_begin[cell + 1] - begin,
                                    .rows = a.rows.data() + a.segment_begin[cell],
                                    .indices = a.indices.data() + entry,
                                    .values = a.values.data() + entry * real,
                                    .b = b + q * a.block_cols * tile.tile * real,
                                    .c = sums.data(),
                                    .tile = tile.tile,
                                    .f64 = is_f64(product)});
    }
    store(product, Sums::row_major, sums.data(), tile.tile, row, rows, tile.first, tile.width);
  };
  for_tiles(product, widest_tile(), a.row_blocks, cost(nnz, product), run);
}

void multiply_strips(const StripsLayout& a, DType value_type, std::int64_t nnz,
                     const Product& product) {
  const bool direct = columns_are_contiguous(product);
  Scratch scratch(direct ? 0 : product.n * product.k * 4);
  const std::int64_t ldx = direct && product.b.transposed ? product.b.stride : product.k;
  const auto* x = static_cast<const float*>(
      direct ? product.b.data : contiguous_columns(product, scratch, product.k));
  const std::int64_t at_once = a.width == 32 ? 8 : 4;
  const std::int64_t batches = (product.n + at_once - 1) / at_once;
  // Strips pick x from registers, faster than `cost` supposes.
  for_tasks(a.blocks * batches, 0.6 * cost(nnz, product), [&](std::int64_t task) {
    const std::int64_t block = task % a.blocks;
    const std::int64_t first = task / a.blocks * at_once;
    const std::int64_t batch = std::min(at_once, product.n - first);
    const auto b = static_cast<std::size_t>(block);
    const std::int64_t row = block * a.groups_per_block * StripsLayout::kLanes;
    const std::int64_t rows = std::min(a.groups_per_block * StripsLayout::kLanes, product.m - row);
    const std::int64_t groups = (rows + StripsLayout::kLanes - 1) / StripsLayout::kLanes;
    const std::int64_t ldy = groups * StripsLayout::kLanes;
    const Scratch sums(batch * ldy * 4);
    std::fill(sums.as<float>(), sums.as<float>() + batch * ldy, 0.0F);
    const std::int64_t entry = a.entry_begin[b];
    product_kernels().spmm_strips({.group = a.groups.data() + a.strips * block * a.groups_per_block,
                                   .counts = a.counts.data() + a.step_begin[b],
                                   .indices = a.indices.data() + entry,
                                   .values = a.values.data() + entry * size_of(value_type),
                                   .value_type = value_type,
                                   .groups = groups,
                                   .strips = a.strips,
                                   .width = a.width,
                                   .x = x + first * ldx,
                                   .ldx = ldx,
                                   .cols = product.k,
                                   .batch = static_cast<int>(batch),
                                   .y = sums.as<float>(),
                                   .ldy = ldy});
    store(product, Sums::column_major, sums.data(), ldy, row, rows, first, batch);
  });
}

/// Pieces of A's rows for a transposed product whose sums fill a tile of `tile` columns: as many as
/// their sums cost little to add up. It depends on A and the tile alone, as then do the results.
std::int64_t transposed_pieces(const RowsView& a, std::int64_t tile) {
  // In entries. Sums of one column cost as much to clear and to add as an entry of A.
  const std::int64_t worth = std::max<std::int64_t>((tile == 1 ? 16 : 4) * a.cols * tile, 32768);
  return std::clamp<std::int64_t>(a.nnz / worth, 1, 64);
}

/// One tile of Aᵀ·B by row pieces, each into sums of its own, which are then added in order: A is
/// read as it lies in memory. `b` is [k, tile] in the type of sums.
void multiply_transposed_pieces(const RowsView& a, const Product& product, const Tile& tile,
                                const void* b) {
  const std::int64_t real = real_size(product);
  const auto bounds = cut_rows(a, transposed_pieces(a, tile.tile), 1);
  const auto pieces = static_cast<std::int64_t>(bounds.size()) - 1;
  const std::int64_t piece_size = product.m * tile.tile;
  const Scratch sums(std::max<std::int64_t>(pieces, 1) * piece_size * real);
  if (pieces == 0) std::fill(sums.data(), sums.data() + piece_size * real, std::byte{0});
  for_tasks(pieces, cost(a.nnz, product), [&](std::int64_t piece) {
    const std::int64_t row0 = bounds[static_cast<std::size_t>(piece)];
    const std::int64_t row1 = bounds[static_cast<std::size_t>(piece) + 1];
    std::byte* c = sums.data() + piece * piece_size * real;
    std::fill(c, c + piece_size * real, std::byte{0});
    const std::byte* begin = at(a.indptr, row0 * pointer_size(a.kind));
    product_kernels().spmm_scatter({.kind = a.kind,
                                    .begin = begin,
                                    .end = begin + pointer_size(a.kind),
                                    .indices = a.indices,
                                    .values = a.values,
                                    .value_type = a.value_type,
                                    .rows = row1 - row0,
                                    .col0 = 0,
                                    .b = at(b, row0 * tile.tile * real),
                                    .ldb = tile.tile,
                                    .c = c,
                                    .tile = tile.tile,
                                    .f64 = is_f64(product)});
  });
  const std::int64_t rows = std::max<std::int64_t>(1024 / tile.tile, 1);
  for_tasks((product.m + rows - 1) / rows, 0.1 * static_cast<double>(pieces * piece_size),
            [&](std::int64_t task) {
              const std::int64_t first = task * rows;
              const std::int64_t count = std::min(rows, product.m - first);
              const auto add = [&]<class T>(T* total) {
                for (std::int64_t piece = 1; piece < pieces; ++piece) {
                  const T* more = total + piece * piece_size;
                  for (std::int64_t i = 0; i < count * tile.tile; ++i) total[i] += more[i];
                }
              };
              std::byte* total = sums.data() + first * tile.tile * real;
              if (is_f64(product)) {
                add(reinterpret_cast<double*>(total));
              } else {
                add(reinterpret_cast<float*>(total));
              }
              if (tile.tile == 1) {
                store(product, Sums::column_major, total, count, first, count, tile.first, 1);
              } else {
                store(product, Sums::row_major, total, tile.tile, first, count, tile.first,
                      tile.width);
              }
            });
}

}  // namespace

std::vector<std::int64_t> cut_rows(const RowsView& a, std::int64_t pieces, std::int64_t multiple) {
  constexpr std::int64_t kRowCost = 8;  // in entries
  const std::int64_t total = a.nnz + kRowCost * a.rows;
  std::vector<std::int64_t> bounds = {0};
  for (std::int64_t piece = 1; piece < pieces; ++piece) {
    const std::int64_t target = total / pieces * piece;
    std::int64_t low = bounds.back(), high = a.rows;
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (a.pointer(middle) + kRowCost * middle < target) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    low = low / multiple * multiple;
    if (low > bounds.back()) bounds.push_back(low);
  }
  if (a.rows > bounds.back()) bounds.push_back(a.rows);
  return bounds;
}

void cut_columns(const RowsView& a, std::int64_t width, std::int64_t ranges, void* cuts) {
  const auto cut = [&]<class P, class I>(const P* indptr, const I* indices, P* out) {
    const auto bounds = cut_rows(a, 4 * num_threads(), 1);
    for_tasks(static_cast<std::int64_t>(bounds.size()) - 1, static_cast<double>(a.nnz),
              [&](std::int64_t task) {
                for (std::int64_t row = bounds[static_cast<std::size_t>(task)];
                     row < bounds[static_cast<std::size_t>(task) + 1]; ++row) {
                  const I* p = indices + indptr[row];
                  const I* end = indices + indptr[row + 1];
                  out[row] = indptr[row];
                  for (std::int64_t q = 1; q < ranges; ++q) {
                    if (end - p > 16 * (ranges - q + 1)) {
                      p = std::lower_bound(p, end, q * width, [](I index, std::int64_t bound) {
                        return index < bound;
                      });
                    } else {
                      while (p < end && *p < q * width) ++p;
                    }
                    out[q * a.rows + row] = static_cast<P>(p - indices);
                  }
                  out[ranges * a.rows + row] = indptr[row + 1];
                }
              });
  };
  switch (a.kind) {
    case IndexKind::i32_u16:
      cut(static_cast<const std::int32_t*>(a.indptr), static_cast<const std::uint16_t*>(a.indices),
          static_cast<std::int32_t*>(cuts));
      break;
    case IndexKind::i32_i32:
      cut(static_cast<const std::int32_t*>(a.indptr), static_cast<const std::int32_t*>(a.indices),
          static_cast<std::int32_t*>(cuts));
      break;
    case IndexKind::i64_i64:
      cut(static_cast<const std::int64_t*>(a.indptr), static_cast<const std::int64_t*>(a.indices),
          static_cast<std::int64_t*>(cuts));
      break;
  }
}

void multiply(const RowsView& a, const Product& product) {
  if (product.m == 0 || product.n == 0) return;
  prepare_output(product);
  if (product.n == 1) {
    multiply_vector(a, product);
  } else {
    multiply_rows(a, product);
  }
}

void multiply(const Packed::Impl& a, const Product& product) {
  if (product.m == 0 || product.n == 0) return;
  prepare_output(product);
  const Layout best = a.layout_for(product.n);
  if (a.strips.has_value() &&
      (best == Layout::strips || !(a.blocks.has_value() || a.by_rows.has_value()))) {
    return multiply_strips(*a.strips, a.dtype, a.nnz, product);
  }
  if (a.blocks.has_value() && (best == Layout::blocks || !a.by_rows.has_value())) {
    return multiply_blocks(*a.blocks, a.nnz, product);
  }
  multiply(a.rows_view(), product);
}

namespace {

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
  multiply_rows(view, product);
}

}  // namespace

void multiply_transposed(const Csr& matrix, const Product& product) {
  if (product.m == 0 || product.n == 0) return;
  prepare_output(product);
  const RowsView a = rows_view(matrix);
  const std::int64_t real = real_size(product);
  // Scattered sums of sparse rows are loaded and stored far slower than rows of B are read: wide
  // products of them repay a transpose.
  const double entries = static_cast<double>(a.nnz);
  const double area = static_cast<double>(product.m) * static_cast<double>(product.k);
  if (product.n >= kTransposeWidth && entries < kTransposeDensity * area) {
    return multiply_by_transpose(matrix, product);
  }
  if (product.n == 1) {
    const bool direct = columns_are_contiguous(product);
    Scratch scratch(direct ? 0 : product.k * real);
    const void* x = direct ? product.b.data : contiguous_columns(product, scratch, product.k);
    return multiply_transposed_pieces(a, product, {0, 1, 1}, x);
  }
  const int widest = widest_tile();
  const Tile whole = make_tiles(0, product.n, widest).front();
  if (whole.width == product.n && product.m * whole.tile * real <= kTileOfB &&
      transposed_pieces(a, whole.tile) >= 4) {
    return for_panels(product, widest, [&](const Panel& panel) {
      multiply_transposed_pieces(a, product, whole, panel.data);
    });
  }
  const std::int64_t tile_columns = std::min<std::int64_t>(widest, product.n);
  // Column ranges of A whose tile of the result stays in cache; two for each thread at least.
  const std::int64_t least = 2 * num_threads();
  std::int64_t width = std::max<std::int64_t>(kScatterTile / (tile_columns * real), 16);
  std::int64_t ranges = ((product.m + width - 1) / width + least - 1) / least * least;
  width = std::max<std::int64_t>(((product.m + ranges - 1) / ranges + 15) / 16 * 16, 16);
  ranges = (product.m + width - 1) / width;
  const std::int64_t pointer = pointer_size(a.kind);
  const Scratch cuts((ranges + 1) * a.rows * pointer);
  cut_columns(a, width, ranges, cuts.data());

  const auto run = [&](const Tile& tile, const void* b, std::int64_t q) {
    const std::int64_t first = q * width, rows = std::min(width, product.m - first);
    const std::int64_t bytes = rows * tile.tile * real;
    const Scratch sums(bytes);
    std::fill(sums.data(), sums.data() + bytes, std::byte{0});
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

  for_tiles(product, widest, ranges, cost(a.nnz, product), run);
}

}  // namespace gossamer::detail
