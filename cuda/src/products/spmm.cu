#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/csr_product.h"

namespace gossamer::cuda {
namespace {

/// The transpose, and the workspace of its product.
struct Plan {
  CsrTransposed transposed;
  void* scratch;  // of transpose()
  void* product;  // of multiply()
};

CsrView as_view(const CsrView& a, const CsrTransposed& t) {
  return {.indptr = t.indptr,
          .indices = t.indices,
          .values = t.values,
          .dtype = a.dtype,
          .rows = a.cols,
          .cols = a.rows,
          .nnz = a.nnz};
}

Plan carve(const CsrView& a, std::int64_t n, bool by_columns, Carver& carver) {
  Plan plan{};
  plan.transposed = {.indptr = carver.take<int>(a.cols + 1),
                     .indices = carver.take<int>(a.nnz),
                     .values = carver.take_bytes(a.nnz * size_of(a.dtype)),
                     .permutation = nullptr};
  plan.scratch = carver.take_bytes(transpose_workspace(a));
  plan.product = carver.take_bytes(multiply_workspace(as_view(a, plan.transposed), n, by_columns));
  return plan;
}

detail::Checker checker() { return detail::Checker("spmm", DeviceType::cuda); }

}  // namespace

std::int64_t multiply_transposed_workspace(const CsrView& a, std::int64_t n, bool by_columns) {
  Carver carver(nullptr);
  static_cast<void>(carve(a, n, by_columns, carver));
  return carver.used();
}

void multiply_transposed(const CsrView& a, const detail::Product& product, void* workspace,
                         Stream stream) {
  if (product.m == 0 || product.n == 0) return;
  // A transpose reads and writes every entry about twice, in five launches. A caller that
  // multiplies by Aᵀ often can keep it (csr_transpose).
  Carver carver(workspace);
  const Plan plan = carve(a, product.n, product.b.transposed && product.n > 1, carver);
  transpose(a, plan.transposed, plan.scratch, stream);
  multiply(as_view(a, plan.transposed), product, plan.product, stream);
}

std::int64_t spmm_workspace(const Csr& a, const TensorView& b, bool transpose_a) {
  const CsrView view = view_of(checker(), "a", a);
  const std::int64_t n = b.rank == 2 ? b.shape[1] : 1;
  return transpose_a ? multiply_transposed_workspace(view, n, false)
                     : multiply_workspace(view, n, false);
}

void spmm(const Csr& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, const TensorView& workspace, Stream stream) {
  const detail::Checker check = checker();
  const detail::Product product =
      detail::check_spmm(check, detail::describe(a), b, out, transpose_a, epilogue);
  detail::check_apart(check, "a", a, out);
  const CsrView view = view_of(check, "a", a);
  check.workspace(workspace, a.device(), spmm_workspace(a, b, transpose_a));
  if (product.m == 0 || product.n == 0) return;
  const DeviceGuard guard(a.device());
  if (!transpose_a) return multiply(view, product, workspace.data, stream);
  multiply_transposed(view, product, workspace.data, stream);
}

}  // namespace gossamer::cuda
