#include <algorithm>
#include <vector>

#include "base/numbers.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/check.h"
#include "gossamer/products.h"
#include "gossamer/runtime.h"
#include "products/kernels.h"
#include "products/product.h"

namespace gossamer {
using namespace detail;
namespace {

constexpr std::int64_t kPiece = 16;  // least entries of a row in a column block

/// A dense operand's rows in the type of sums: the caller's memory, or a converted copy.
struct Operand {
  const void* data;
  std::int64_t stride;
};

Operand convert(const TensorView& x, bool f64, Scratch& scratch) {
  if (x.dtype == (f64 ? DType::f64 : DType::f32)) return {x.data, x.strides[0]};
  widen_rows(x, scratch.data());
  return {scratch.data(), x.shape[1]};
}

}  // namespace

void sddmm(const TensorView& a, const TensorView& b, const Csr& pattern, const TensorView& out,
           bool accumulate) {
  check_sddmm(Checker("sddmm"), a, b, pattern, out);
  const std::int64_t nnz = pattern.nnz(), depth = a.shape[1];
  if (nnz == 0) return;

  const bool f64 = a.dtype == DType::f64;
  const std::int64_t real = f64 ? 8 : 4;
  const bool converts = size_of(a.dtype) != real;
  Scratch a_scratch(converts ? a.numel() * real : 0);
  Scratch b_scratch(converts ? b.numel() * real : 0);
  const Operand x = convert(a, f64, a_scratch), y = convert(b, f64, b_scratch);

  // Column blocks whose rows of b stay in L2, where rows of the pattern are long enough to be cut.
  // Blocks for L1 were slower in 7 of 10 cases, in a run of their own.
  const RowsView rows = rows_view(pattern);
  const std::int64_t row_length = std::max<std::int64_t>(nnz / rows.rows, 1);
  const std::int64_t blocks =
      std::clamp<std::int64_t>((pattern.cols() * depth * real + kRowsOfB - 1) / kRowsOfB, 1,
                               std::max<std::int64_t>(row_length / kPiece, 1));
  const std::int64_t width = (pattern.cols() + blocks - 1) / blocks;

  const bool direct = !converts && !accumulate;
  const Scratch sums(direct ? 0 : nnz * real);
  void* result = direct ? out.data : sums.data();
  const Scratch cursors(rows.rows * 8);
  auto* cursor = cursors.as<std::int64_t>();
  const auto bounds = cut_rows(rows, 8 * num_threads(), 1);
  const double work = 0.05 * static_cast<double>(nnz) * static_cast<double>(depth);
  for_tasks(static_cast<std::int64_t>(bounds.size()) - 1, work, [&](std::int64_t task) {
    const std::int64_t row0 = bounds[static_cast<std::size_t>(task)];
    const std::int64_t row1 = bounds[static_cast<std::size_t>(task) + 1];
    for (std::int64_t row = row0; row < row1; ++row) cursor[row] = rows.pointer(row);
    for (std::int64_t col = 0; col < pattern.cols(); col += width) {
      product_kernels().sddmm_rows({.kind = rows.kind,
                                    .indptr = rows.indptr,
                                    .cursor = cursor,
                                    .indices = rows.indices,
                                    .row0 = row0,
                                    .row1 = row1,
                                    .col_end = col + width,
                                    .a = x.data,
                                    .lda = x.stride,
                                    .b = y.data,
                                    .ldb = y.stride,
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
