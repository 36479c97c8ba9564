#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/csr_product.h"

namespace gossamer::cuda {
namespace {

detail::Checker checker() { return detail::Checker("linear", DeviceType::cuda); }

}  // namespace

std::int64_t linear_workspace(const TensorView& x, const Csr& w) {
  std::int64_t n = 1;
  for (int d = 0; d + 1 < x.rank; ++d) n *= x.shape[static_cast<std::size_t>(d)];
  return multiply_workspace(view_of(checker(), "w", w), n, true);
}

void linear(const TensorView& x, const Csr& w, const TensorView& out, const Epilogue& epilogue,
            const TensorView& workspace, Stream stream) {
  const detail::Checker check = checker();
  const detail::Product product =
      detail::check_linear(check, x, detail::describe(w), out, epilogue);
  detail::check_apart(check, "w", w, out);
  const CsrView view = view_of(check, "w", w);
  check.workspace(workspace, w.device(), linear_workspace(x, w));
  const DeviceGuard guard(w.device());
  detail::for_parts(
      product, [&](const detail::Product& part) { multiply(view, part, workspace.data, stream); });
}

}  // namespace gossamer::cuda
