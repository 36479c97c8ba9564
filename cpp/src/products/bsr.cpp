// spmm and linear of BSR matrices: how the products are cut, and which kernel runs.

#include "gossamer/bsr.h"

#include <algorithm>
#include <optional>

#include "base/buffer.h"
#include "base/cut.h"
#include "base/floats.h"
#include "base/levels.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "formats/rows_view.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/products.h"
#include "products/compact.h"
#include "products/kernels.h"
#include "products/product.h"
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
      : source(a), grid(block_view(a)), block_rows(a.block_rows()), block_cols(a.block_cols()) {}

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
    return RowPointers{order, grid.pointers().wide}[k];
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

void multiply_vectors(const Operand& a, const Product& product) {
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
        store(product, Sums::column_major, sums.data(), rows, row0 * a.block_rows, rows, first,
              batch);
      }
    });
  };
  for_ranges(
      cut_block_rows(a.grid), cost(a.source, product),
      [&](std::int64_t row0, std::int64_t row1) { for_strips(a, row0, row1, strip_of_rows); });
}

/// The widest tile of B whose sums for some rows of a block stay in registers.
int widest_block_tile(const Product& product) {
  return std::max(2 * static_cast<int>(vector_bytes() / real_size(product)), 8);
}

void multiply_tiles(const Operand& a, const Product& product) {
  const std::int64_t real = real_size(product);
  const RowRanges pieces = cut_block_rows(a.grid);
  const auto run = [&](const Tile& tile, const std::byte* b, std::int64_t piece) {
    for_strips(a, pieces.begin(piece), pieces.end(piece),
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
                 store(product, Sums::row_major, sums.data(), tile.tile, row0 * a.block_rows, rows,
                       tile.first, tile.width);
               });
  };
  for_tiles(product, widest_block_tile(product), pieces.count(), cost(a.source, product), run);
}

void multiply(const Operand& a, const Product& product, bool vectors) {
  vectors ? multiply_vectors(a, product) : multiply_tiles(a, product);
}

}  // namespace

void detail::multiply(const Bsr& a, const Product& product, bool transpose) {
  compute(product, [&] {
    Operand operand(a);
    if (transpose) operand.transpose();
    const bool vectors = product.n <= kVectors && a.block_cols() * real_size(product) % 16 == 0;
    const bool copies = vectors ? !columns_are_contiguous(product)
                                : !is_one_tile(product, widest_block_tile(product));
    if (copies && is_hollow(operand.grid.cols, operand.grid.nnz, operand.block_cols)) {
      const CompactColumns compact(operand.grid, product, operand.block_cols);
      operand.grid = compact.matrix();
      return multiply(operand, compact.product(), vectors);
    }
    multiply(operand, product, vectors);
  });
}

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
