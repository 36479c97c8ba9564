// sddmm at the entries of a CSR pattern.

#include <algorithm>
#include <optional>

#include "base/caches.h"
#include "base/cut.h"
#include "base/floats.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "formats/rows_view.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/products.h"
#include "products/compact.h"
#include "products/dense_rows.h"
#include "products/kernels.h"
#include "products/product.h"

namespace gossamer {
using namespace detail;
namespace {

/// Width of the column blocks whose rows of b stay in L2, where rows of the pattern are long enough
/// to be cut. Blocks for L1 were slower in 7 of 10 cases, in a run of their own.
std::int64_t column_block(const RowsView& pattern, std::int64_t row_bytes) {
  constexpr std::int64_t kPiece = 16;  // least entries of a row in a column block
  const std::int64_t row_length = std::max<std::int64_t>(pattern.nnz / pattern.rows, 1);
  // A b whose rows are all one in memory may have more of them than can be multiplied.
  const std::int64_t bytes = std::min(pattern.cols, std::int64_t{1} << 40) * row_bytes;
  const std::int64_t blocks = std::clamp<std::int64_t>(
      ceil_div(bytes, rows_of_b()), 1, std::max<std::int64_t>(row_length / kPiece, 1));
  return ceil_div(pattern.cols, blocks);
}

}  // namespace

void sddmm(const TensorView& a, const TensorView& b, const Csr& pattern, const TensorView& out,
           bool accumulate) {
  const FloatEnvironment floats;
  check_sddmm(Checker("sddmm"), a, b, pattern, out);
  sample(a, b, pattern, out, accumulate);
}

void detail::sample(const TensorView& a, const TensorView& b, const Csr& pattern,
                    const TensorView& out, bool accumulate) {
  if (pattern.nnz() == 0) return;
  const bool f64 = a.dtype == DType::f64;
  const std::int64_t depth = a.shape[1], real = f64 ? 8 : 4;
  RowsView rows = rows_view(pattern);
  TensorView left = a, right = b;
  // Operands of half precision are copied: those of their rows that an entry names.
  std::optional<CompactRows> some_rows;
  std::optional<CompactColumns> some_columns;
  if (size_of(a.dtype) == 2 && is_hollow(rows.rows, rows.nnz)) {
    some_rows.emplace(rows, as_b(a));
    rows = some_rows->matrix();
    left = b_of(some_rows->product());
  }
  if (size_of(a.dtype) == 2 && is_hollow(rows.cols, rows.nnz)) {
    some_columns.emplace(rows, as_b(b));
    rows = some_columns->matrix();
    right = b_of(some_columns->product());
  }
  const DenseRows x(left), y(right, rows.nnz / rows.cols);
  const std::int64_t width = column_block(rows, depth * real);
  const bool direct = size_of(out.dtype) == real && !accumulate;
  const Scratch sums(direct ? 0 : rows.nnz * real);
  void* result = direct ? out.data : sums.data();
  const Scratch cursors(rows.rows * 8);
  auto* cursor = cursors.as<std::int64_t>();
  const double work = 0.05 * static_cast<double>(rows.nnz) * static_cast<double>(depth);
  const RowRanges pieces =
      cut_rows(rows.pointers(), rows.rows, {.pieces = std::int64_t{8} * num_threads()});
  for_ranges(pieces, work, [&](std::int64_t row0, std::int64_t row1) {
    for (std::int64_t row = row0; row < row1; ++row) cursor[row] = rows.pointer(row);
    for (std::int64_t col = 0; col < rows.cols; col += width) {
      product_kernels().sddmm_rows({.kind = rows.kind,
                                    .indptr = rows.indptr,
                                    .cursor = cursor,
                                    .indices = rows.indices,
                                    .row0 = row0,
                                    .row1 = row1,
                                    .col_end = col + width,
                                    .a = x.data(),
                                    .lda = x.stride(),
                                    .b = y.data(),
                                    .ldb = y.stride(),
                                    .depth = depth,
                                    .out = result,
                                    .f64 = f64});
    }
    if (direct) return;
    const std::int64_t first = rows.pointer(row0), n = rows.pointer(row1) - first;
    narrow(static_cast<const std::byte*>(result) + first * real, n,
           static_cast<std::byte*>(out.data) + first * size_of(out.dtype), out.dtype, accumulate);
  });
}

}  // namespace gossamer
