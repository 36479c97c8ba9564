// spmm, linear and sddmm of BSR matrices: how the products are cut, and which kernel runs.

#include <algorithm>
#include <optional>
#include <vector>

#include "base/buffer.h"
#include "base/levels.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "base/work.h"
#include "formats/csr_index.h"
#include "gossamer/bsr.h"
#include "gossamer/detail/check.h"
#include "gossamer/products.h"
#include "gossamer/runtime.h"
#include "products/kernels.h"
#include "products/tiles.h"

namespace gossamer {
using namespace detail;
namespace {

/// Up to so many columns of B the blocks are read as vectors of their own.
constexpr std::int64_t kVectors = 8;
constexpr std::int64_t kBatch = 4;

/// A BSR matrix or its transpose, whose index arrays are made for the product.
struct Operand {
  const Bsr& source;
  RowsView grid;  // the blocks as entries
  const void* order = nullptr;
  bool transposed = false;
  std::int64_t block_rows, block_cols;  // of the product's A
  Buffer<std::byte> arrays = {};

  explicit Operand(const Bsr& a)
      : source(a),
        grid{.kind = a.index_dtype() == DType::i64 ? IndexKind::i64_i64 : IndexKind::i32_i32,
             .indptr = a.indptr().data,
             .indices = a.indices().data,
             .values = nullptr,
             .value_type = a.dtype(),
             .rows = a.rows() / a.block_rows(),
             .cols = a.cols() / a.block_cols(),
             .nnz = a.nblocks()},
        block_rows(a.block_rows()),
        block_cols(a.block_cols()) {}

  /// Takes a pass over the blocks' indices; the blocks stay where they are.
  void transpose() {
    const DType index = source.index_dtype();
    const std::int64_t size = size_of(index), pointers = grid.cols + 1, blocks = grid.nnz;
    arrays = Buffer<std::byte>((pointers + 2 * blocks) * size);
    std::byte* indices = arrays.data() + pointers * size;
    bsr_transpose(source, make_view(arrays.data(), index, {pointers}),
                  make_view(indices, index, {blocks}), std::nullopt,
                  make_view(indices + blocks * size, index, {blocks}));
    grid.indptr = arrays.data();
    grid.indices = indices;
    order = indices + blocks * size;
    std::swap(grid.rows, grid.cols);
    std::swap(block_rows, block_cols);
    transposed = true;
  }

  [[nodiscard]] std::int64_t position(std::int64_t k) const {
    if (order == nullptr) return k;
    return grid.kind == IndexKind::i64_i64 ? static_cast<const std::int64_t*>(order)[k]
                                           : static_cast<const std::int32_t*>(order)[k];
  }
};

/// Calls body(matrix) with the block rows [row0, row1) as kernels read them: in place, or widened
/// to the type of sums.
template <class F>
void with_values(const Operand& a, std::int64_t row0, std::int64_t row1, F&& body) {
  const Bsr& source = a.source;
  BsrMatrix matrix{.wide = a.grid.kind == IndexKind::i64_i64,
                   .indptr = a.grid.indptr,
                   .indices = a.grid.indices,
                   .order = a.order,
                   .values = source.blocks().data,
                   .rows = a.block_rows,
                   .cols = a.block_cols,
                   .pitch = source.block_cols(),
                   .transposed = a.transposed};
  const std::int64_t first = a.grid.pointer(row0), count = a.grid.pointer(row1) - first;
  if (size_of(source.dtype()) != 2 || count == 0) return body(matrix);
  const std::int64_t block = a.block_rows * a.block_cols;
  const Scratch wide(count * block * 4);
  const auto place = [&](std::int64_t from, std::int64_t to, std::int64_t blocks) {
    widen(at(source.blocks().data, from * block * 2), source.dtype(), blocks * block,
          wide.data() + to * block * 4);
  };
  if (a.order == nullptr) {
    place(first, 0, count);
  } else {
    for (std::int64_t k = 0; k < count; ++k) place(a.position(first + k), k, 1);
  }
  matrix.order = nullptr;
  matrix.values = wide.data() - first * block * 4;
  body(matrix);
}

/// About the nanoseconds that one thread takes.
double cost(const Bsr& a, const Product& product) {
  return static_cast<double>(a.nnz()) * (0.1 + 0.02 * static_cast<double>(product.n));
}

/// Calls body(row0, row1) for strips of block rows, of about 32 rows each: their sums stay in L1.
template <class F>
void for_strips(const Operand& a, std::int64_t row0, std::int64_t row1, F&& body) {
  const std::int64_t strip = std::max<std::int64_t>(32 / a.block_rows, 1);
  for (std::int64_t row = row0; row < row1; row += strip) body(row, std::min(row1, row + strip));
}

std::vector<std::int64_t> cut(const Operand& a) {
  const std::int64_t pieces = std::max<std::int64_t>(4 * num_threads(), a.grid.nnz / 4096);
  return cut_rows(a.grid, pieces, 1);
}

void multiply_vectors(const Operand& a, const Product& product) {
  const std::int64_t real = real_size(product);
  const bool direct = columns_are_contiguous(product);
  Scratch scratch(direct ? 0 : product.n * product.k * real);
  const void* x = direct ? product.b.data : contiguous_columns(product, scratch, product.k);
  const std::int64_t ldx = direct && product.b.transposed ? product.b.stride : product.k;
  const auto bounds = cut(a);
  const auto pieces = static_cast<std::int64_t>(bounds.size()) - 1;
  for_tasks(pieces, cost(a.source, product), [&](std::int64_t task) {
    const auto piece = static_cast<std::size_t>(task);
    for_strips(a, bounds[piece], bounds[piece + 1], [&](std::int64_t row0, std::int64_t row1) {
      const std::int64_t rows = (row1 - row0) * a.block_rows;
      const Scratch sums(kBatch * rows * real);
      with_values(a, row0, row1, [&](const BsrMatrix& matrix) {
        for (std::int64_t first = 0; first < product.n; first += kBatch) {
          const std::int64_t batch = std::min(kBatch, product.n - first);
          product_kernels().bsr_vectors({.a = matrix,
                                         .row0 = row0,
                                         .row1 = row1,
                                         .x = at(x, first * ldx * real),
                                         .ldx = ldx,
                                         .y = sums.data(),
                                         .ldy = rows,
                                         .batch = static_cast<int>(batch),
                                         .f64 = is_f64(product)});
          store(product, Sums::column_major, sums.data(), rows, row0 * a.block_rows, rows, first,
                batch);
        }
      });
    });
  });
}

void multiply_tiles(const Operand& a, const Product& product) {
  const std::int64_t real = real_size(product);
  const auto lanes = static_cast<int>(vector_bytes() / real);
  const int widest = std::max(2 * lanes, 8);
  const auto bounds = cut(a);
  const auto pieces = static_cast<std::int64_t>(bounds.size()) - 1;
  const auto run = [&](const Tile& tile, const std::byte* b, std::int64_t piece) {
    const auto p = static_cast<std::size_t>(piece);
    for_strips(a, bounds[p], bounds[p + 1], [&](std::int64_t row0, std::int64_t row1) {
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
      store(product, Sums::row_major, sums.data(), tile.tile, row0 * a.block_rows, rows, tile.first,
            tile.width);
    });
  };
  for_tiles(product, widest, pieces, cost(a.source, product), run);
}

void multiply(const Bsr& a, const Product& product, bool transpose) {
  if (product.m == 0 || product.n == 0) return;
  prepare_output(product);
  Operand operand(a);
  if (transpose) operand.transpose();
  const bool vectors = product.n <= kVectors && a.block_cols() * real_size(product) % 16 == 0;
  vectors ? multiply_vectors(operand, product) : multiply_tiles(operand, product);
}

}  // namespace

void spmm(const Bsr& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue) {
  const Checker check("spmm");
  const Product product = check_spmm(check, describe(a), b, out, transpose_a, epilogue);
  check_apart(check, "a", a, out);
  multiply(a, product, transpose_a);
}

void linear(const TensorView& x, const Bsr& w, const TensorView& out, const Epilogue& epilogue) {
  const Checker check("linear");
  const Product product = check_linear(check, x, describe(w), out, epilogue);
  check_apart(check, "w", w, out);
  multiply(w, product, false);
}

void sddmm(const TensorView& a, const TensorView& b, const Bsr& pattern, const TensorView& out,
           bool accumulate) {
  check_sddmm(Checker("sddmm"), a, b, pattern, out);
  if (pattern.nnz() == 0) return;
  const std::int64_t depth = a.shape[1], br = pattern.block_rows(), bc = pattern.block_cols();
  const std::int64_t block = br * bc;
  // A dense block is a product itself: rows of a times a tile of bᵀ. Narrow blocks would leave most
  // of a tile empty, and are dot products.
  const Operand grid(pattern);
  const Product tiled{
      .b = {b.data, b.dtype, b.strides[0], true}, .out = {}, .m = 0, .k = 0, .n = 0};
  const std::int64_t real = real_size(tiled);
  const bool f64 = is_f64(tiled), converts = size_of(a.dtype) != real;
  const auto lanes = static_cast<int>(vector_bytes() / real);
  const bool dots = bc < 8;

  const Scratch a_rows(converts ? a.shape[0] * depth * real : 0);
  const Scratch b_rows(converts && dots ? b.shape[0] * depth * real : 0);
  if (converts) widen_rows(a, a_rows.data());
  if (converts && dots) widen_rows(b, b_rows.data());
  const void* left = converts ? a_rows.data() : a.data;
  const void* right = converts ? b_rows.data() : b.data;
  const std::int64_t lda = converts ? depth : a.strides[0];
  const std::int64_t ldb = converts ? depth : b.strides[0];

  // bᵀ for each column of blocks: [depth, tile] for each of its tiles.
  const std::vector<Tile> tiles = make_tiles(0, dots ? 0 : bc, std::max(2 * lanes, 8));
  std::int64_t width = 0;
  for (const Tile& tile : tiles) width += tile.tile;
  const std::int64_t panel = width * depth * real;
  const Scratch panels(dots ? 0 : grid.grid.cols * panel);
  if (!dots) {
    for_tasks(grid.grid.cols, 0.3 * static_cast<double>(b.shape[0] * depth), [&](std::int64_t j) {
      std::byte* to = panels.data() + j * panel;
      for (const Tile& tile : tiles) {
        load_tile(tiled, {.first = j * bc + tile.first, .width = tile.width, .tile = tile.tile}, 0,
                  depth, to);
        to += tile.tile * depth * real;
      }
    });
  }

  const auto bounds = cut(grid);
  const double work = 0.05 * static_cast<double>(pattern.nnz()) * static_cast<double>(depth);
  for_tasks(static_cast<std::int64_t>(bounds.size()) - 1, work, [&](std::int64_t task) {
    const Scratch sums((block + br * width) * real);
    std::byte* tile_sums = sums.data() + block * real;
    for (std::int64_t i = bounds[static_cast<std::size_t>(task)];
         i < bounds[static_cast<std::size_t>(task) + 1]; ++i) {
      for (std::int64_t p = grid.grid.pointer(i); p < grid.grid.pointer(i + 1); ++p) {
        const std::int64_t j = grid.grid.index(p);
        const void* rows = at(left, i * br * lda * real);
        const Product result{
            .b = tiled.b,
            .out = {at(out.data, p * block * size_of(out.dtype)), out.dtype, bc, false},
            .m = br,
            .k = depth,
            .n = bc,
            .accumulate = accumulate};
        if (dots) {
          product_kernels().bsr_dots({.a = rows,
                                      .lda = lda,
                                      .b = at(right, j * bc * ldb * real),
                                      .ldb = ldb,
                                      .rows = br,
                                      .cols = bc,
                                      .depth = depth,
                                      .out = sums.data(),
                                      .f64 = f64});
          store(result, Sums::row_major, sums.data(), bc, 0, br, 0, bc);
          continue;
        }
        const std::byte* from = panels.data() + j * panel;
        for (const Tile& tile : tiles) {
          // A block row of one block, as wide as the rows of a.
          static constexpr std::int32_t kOne[] = {0, 1};
          product_kernels().bsr_tile({.a = {.wide = false,
                                            .indptr = kOne,
                                            .indices = kOne,
                                            .order = nullptr,
                                            .values = rows,
                                            .rows = br,
                                            .cols = depth,
                                            .pitch = lda,
                                            .transposed = false},
                                      .row0 = 0,
                                      .row1 = 1,
                                      .b = from,
                                      .c = tile_sums,
                                      .tile = tile.tile,
                                      .f64 = f64});
          store(result, Sums::row_major, tile_sums, tile.tile, 0, br, tile.first, tile.width);
          from += tile.tile * depth * real;
        }
      }
    }
  });
}

}  // namespace gossamer
