// spmm and linear of BSR matrices: how the products are cut, and which kernel runs.

#include "gossamer/bsr.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/caches.h"
#include "base/cut.h"
#include "base/floats.h"
#include "base/levels.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "formats/quant/kernels.h"
#include "formats/rows_view.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/products.h"
#include "products/bf16_product.h"
#include "products/block_product.h"
#include "products/compact.h"
#include "products/kernels.h"
#include "products/product.h"
#include "products/tiles.h"

namespace gossamer {
using namespace detail;
namespace {

/// Rows whose sums over a tile, and whose converted values, stay in the caches.
constexpr std::int64_t kStripRows = 32;

/// Do kernels read the values where they are?
bool in_place(const BlockOperand& a) {
  return a.groups == nullptr && size_of(a.grid.value_type) != 2;
}

/// Calls body(matrix) with the block rows [row0, row1) as kernels read them: in place, or converted
/// to the type of sums.
template <class F>
void with_values(const BlockOperand& a, std::int64_t row0, std::int64_t row1, F&& body) {
  BsrMatrix matrix{.wide = a.grid.kind == IndexKind::i64_i64,
                   .indptr = a.grid.indptr,
                   .indices = a.grid.indices,
                   .order = a.order,
                   .values = a.values,
                   .rows = a.block_rows,
                   .cols = a.block_cols,
                   .pitch = a.transposed ? a.block_rows : a.block_cols,
                   .transposed = a.transposed};
  const DType type = a.grid.value_type;
  const std::int64_t first = a.grid.pointer(row0), count = a.grid.pointer(row1) - first;
  if (in_place(a) || count == 0) return body(matrix);
  const std::int64_t block = a.block_rows * a.block_cols, real = type == DType::f64 ? 8 : 4;
  const Scratch wide(count * block * real);
  if (a.groups != nullptr) {
    QuantGroups groups = *a.groups;
    // Index arrays of groups are int32.
    const auto* order = static_cast<const std::int32_t*>(a.order);
    if (order == nullptr) {
      groups.codes += first * block * groups.bits / 8;
      groups.scales += first;
      groups.zeros += first;
    }
    quant_kernels().dequantise({.groups = groups,
                                .order = order == nullptr ? nullptr : order + first,
                                .places = nullptr,
                                .count = count,
                                .out = wide.data(),
                                .f64 = type == DType::f64});
  } else if (a.order == nullptr) {
    widen(at(a.values, first * block * 2), type, count * block, wide.data());
  } else {
    for (std::int64_t k = 0; k < count; ++k) {
      widen(at(a.values, a.position(first + k) * block * 2), type, block,
            wide.data() + k * block * real);
    }
  }
  matrix.order = nullptr;
  matrix.values = wide.data() - first * block * real;
  body(matrix);
}

/// About the nanoseconds that one thread takes.
double cost(const BlockOperand& a, const Product& product) {
  const std::int64_t nnz = a.grid.nnz * a.block_rows * a.block_cols;
  return static_cast<double>(nnz) * (0.1 + 0.02 * static_cast<double>(product.n));
}

/// Rows of the product in the block rows [row0, row1): the last block may reach beyond them.
std::int64_t rows_within(const BlockOperand& a, const Product& product, std::int64_t row0,
                         std::int64_t row1) {
  return std::min(product.m, row1 * a.block_rows) - row0 * a.block_rows;
}

/// Calls body(row0, row1) for strips of block rows, of about `rows` rows each.
template <class F>
void for_strips(const BlockOperand& a, std::int64_t row0, std::int64_t row1, std::int64_t rows,
                F&& body) {
  const std::int64_t strip = std::max<std::int64_t>(rows / a.block_rows, 1);
  for (std::int64_t row = row0; row < row1; row += strip) body(row, std::min(row1, row + strip));
}

void multiply_vectors(const BlockOperand& a, const Product& product) {
  const std::int64_t real = real_size(product);
  const Columns columns(product);
  const auto strip_of_rows = [&](std::int64_t row0, std::int64_t row1) {
    const std::int64_t rows = (row1 - row0) * a.block_rows;
    const Scratch sums(kBatch * rows * real);
    with_values(a, row0, row1, [&](const BsrMatrix& matrix) {
      for (std::int64_t first = 0; first < product.n; first += kBatch) {
        const std::int64_t batch = std::min(kBatch, product.n - first);
        product_kernels().bsr_vectors({.a = matrix,
                                       .row0 = row0,
                                       .row1 = row1,
                                       .x = at(columns.data(), first * columns.stride() * real),
                                       .ldx = columns.stride(),
                                       .y = sums.data(),
                                       .ldy = rows,
                                       .batch = static_cast<int>(batch),
                                       .f64 = is_f64(product)});
        store(product, Sums::column_major, sums.data(), rows, row0 * a.block_rows,
              rows_within(a, product, row0, row1), first, batch);
      }
    });
  };
  for_ranges(cut_block_rows(a.grid), cost(a, product), [&](std::int64_t row0, std::int64_t row1) {
    for_strips(a, row0, row1, in_place(a) ? 256 : kStripRows, strip_of_rows);
  });
}

/// The widest tile of B whose sums for some rows of a block stay in registers. Blocks of few rows
/// leave registers for four vectors, where that many columns of B stay in L2.
int widest_block_tile(const BlockOperand& a, const Product& product) {
  const int lanes = static_cast<int>(vector_bytes() / real_size(product));
  const std::int64_t k = std::min(product.k, std::int64_t{1} << 40);
  const bool four = a.block_rows < 8 && k * 4 * vector_bytes() <= tile_of_b();
  return std::max((four ? 4 : 2) * lanes, 8);
}

void multiply_tiles(const BlockOperand& a, const Product& product) {
  const std::int64_t real = real_size(product);
  const RowRanges pieces = cut_block_rows(a.grid);
  const auto run = [&](const Tile& tile, const std::byte* b, std::int64_t piece) {
    for_strips(a, pieces.begin(piece), pieces.end(piece), kStripRows,
               [&](std::int64_t row0, std::int64_t row1) {
                 const std::int64_t rows = (row1 - row0) * a.block_rows;
                 const Scratch sums(rows * tile.tile * real);
                 with_values(a, row0, row1, [&](const BsrMatrix& matrix) {
                   product_kernels().bsr_tile({.a = matrix,
                                               .row0 = row0,
                                               .row1 = row1,
                                               .b = b,
                                               .c = sums.data(),
                                               .tile = tile.tile,
                                               .f64 = is_f64(product)});
                 });
                 store(product, Sums::row_major, sums.data(), tile.tile, row0 * a.block_rows,
                       rows_within(a, product, row0, row1), tile.first, tile.width);
               });
  };
  for_tiles(product, widest_block_tile(a, product), pieces.count(), cost(a, product), run);
}

/// Groups are decoded once for all tiles of B.
void multiply_groups(const BlockOperand& a, const Product& product) {
  const RowRanges pieces = cut_block_rows(a.grid);
  for_panels(product, widest_block_tile(a, product), [&](const Panel& panel) {
    const auto strip = [&](std::int64_t row0, std::int64_t row1) {
      const std::int64_t rows = (row1 - row0) * a.block_rows;
      const Scratch sums(rows * panel.tiles.front().tile * real_size(product));
      with_values(a, row0, row1, [&](const BsrMatrix& matrix) {
        for (std::size_t t = 0; t < panel.tiles.size(); ++t) {
          const Tile& tile = panel.tiles[t];
          product_kernels().bsr_tile({.a = matrix,
                                      .row0 = row0,
                                      .row1 = row1,
                                      .b = panel.tile_data(t),
                                      .c = sums.data(),
                                      .tile = tile.tile,
                                      .f64 = is_f64(product)});
          store(product, Sums::row_major, sums.data(), tile.tile, row0 * a.block_rows,
                rows_within(a, product, row0, row1), tile.first, tile.width);
        }
      });
    };
    for_ranges(pieces, cost(a, product), [&](std::int64_t row0, std::int64_t row1) {
      for_strips(a, row0, row1, kStripRows, strip);
    });
  });
}

/// Are pairs of bfloat16 the fastest, and the blocks such that a kernel reads them where they are?
bool takes_pairs(const BlockOperand& a, const Product& product) {
  if (!has_bf16(product) || a.groups != nullptr || a.transposed) return false;
  if (has_amx_tiles()) return a.block_rows % 16 == 0 && a.block_cols % 16 == 0;
  // 32×32 and 16×16 take 0.7 of what they take in float32; 8×8 as long, 4×4 longer (Zen 5).
  return product.n > kVectors && a.block_rows >= 8 && a.block_cols >= 16 && a.block_cols % 2 == 0;
}

void multiply_pairs(const BlockOperand& a, const Product& product) {
  const RowRanges pieces = cut_block_rows(a.grid);
  const std::int64_t rows = a.block_rows, depth = a.block_cols;
  const RowPointers columns{a.grid.indices, a.grid.pointers().wide};
  const auto block_row = [&](std::int64_t i, const Bf16Panel& panel) {
    const std::int64_t first = a.grid.pointer(i), count = a.grid.pointer(i + 1) - first;
    const Scratch sums(rows * kWidestBf16 * 4),
        memory(count * static_cast<std::int64_t>(sizeof(Bf16Pair)));
    auto* pairs = memory.as<Bf16Pair>();
    for (std::size_t t = 0; t < panel.tiles.size(); ++t) {
      const Tile& tile = panel.tiles[t];
      for (std::int64_t k = 0; k < count; ++k) {
        pairs[k] = {at(a.values, a.position(first + k) * rows * depth * 2),
                    panel.data(t) + columns[first + k] * depth * tile.tile * 2};
      }
      if (count == 0) {
        std::fill_n(sums.data(), rows * tile.tile * 4, std::byte{0});
      } else {
        multiply_bf16_tile({.pairs = pairs,
                            .count = count,
                            .rows = rows,
                            .depth = depth,
                            .lda = depth,
                            .tile = tile.tile,
                            .c = sums.as<float>(),
                            .accumulate = false});
      }
      store(product, Sums::row_major, sums.data(), tile.tile, i * rows,
            rows_within(a, product, i, i + 1), tile.first, tile.width);
    }
  };
  for_bf16_panels(product, ceil_div(product.k, 32) * 32, [&](const Bf16Panel& panel) {
    for_ranges(pieces, cost(a, product), [&](std::int64_t row0, std::int64_t row1) {
      for (std::int64_t i = row0; i < row1; ++i) block_row(i, panel);
    });
  });
}

void multiply_grid(const BlockOperand& a, const Product& product, bool vectors) {
  if (vectors) return multiply_vectors(a, product);
  a.groups != nullptr ? multiply_groups(a, product) : multiply_tiles(a, product);
}

}  // namespace

void detail::multiply(const Bsr& a, const Product& product, bool transpose) {
  compute(product, [&] {
    BlockOperand operand{.grid = block_view(a),
                         .block_rows = a.block_rows(),
                         .block_cols = a.block_cols(),
                         .values = a.blocks().data};
    if (transpose && scatter_blocks(operand, product)) return;
    if (transpose) operand.transpose();
    multiply_blocks(operand, product);
  });
}

namespace detail {

void BlockOperand::transpose() {
  const DType index = grid.pointers().wide ? DType::i64 : DType::i32;
  const std::int64_t size = size_of(index), pointers = grid.cols + 1, blocks = grid.nnz;
  arrays = Buffer<std::byte>((pointers + 2 * blocks) * size);
  std::byte* indices = arrays.data() + pointers * size;
  // The blocks as entries: no value is read.
  const Csr pattern(
      make_view(grid.indptr, index, {grid.rows + 1}), make_view(grid.indices, index, {blocks}),
      make_view(grid.indices, DType::f32, {blocks}), grid.rows, grid.cols, Csr::Check::trust);
  csr_transpose(pattern, make_view(arrays.data(), index, {pointers}),
                make_view(indices, index, {blocks}), std::nullopt,
                make_view(indices + blocks * size, index, {blocks}));
  grid.indptr = arrays.data();
  grid.indices = indices;
  order = indices + blocks * size;
  std::swap(grid.rows, grid.cols);
  std::swap(block_rows, block_cols);
  transposed = true;
}

void multiply_blocks(BlockOperand& a, const Product& product) {
  // A block of one row or column lies in memory like its transpose, so vectors can run along it.
  if (a.block_cols == 1) a.transposed = true;
  if (a.block_rows == 1) a.transposed = false;
  // Of a row of a block in memory. Vectors shorter than 64 bytes pay for fewer columns of B.
  const std::int64_t bytes = (a.transposed ? a.block_rows : a.block_cols) * real_size(product);
  const std::int64_t most = kVectors * std::min<std::int64_t>(bytes, 64) / 64;
  const bool two = product.n == 1 && a.block_rows * a.block_cols * real_size(product) == 8;
  const bool vectors = (product.n <= most && bytes % 16 == 0) || (two && !is_f64(product));
  const bool copies = vectors ? !columns_are_contiguous(product)
                              : !is_one_tile(product, widest_block_tile(a, product));
  if (copies && is_hollow(a.grid.cols, a.grid.nnz, a.block_cols)) {
    const CompactColumns compact(a.grid, product, a.block_cols);
    a.grid = compact.matrix();
    return multiply_grid(a, compact.product(), vectors);
  }
  if (takes_pairs(a, product)) return multiply_pairs(a, product);
  multiply_grid(a, product, vectors);
}

}  // namespace detail

void spmm(const Bsr& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Checker check("spmm");
  const Product product = check_spmm(check, describe(a), b, out, transpose_a, epilogue);
  check_apart(check, "a", a, out);
  multiply(a, product, transpose_a);
}

void linear(const TensorView& x, const Bsr& w, const TensorView& out, const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Checker check("linear");
  const Product product = check_linear(check, x, describe(w), out, epilogue);
  check_apart(check, "w", w, out);
  for_parts(product, [&](const Product& part) { multiply(w, part, false); });
}

}  // namespace gossamer
