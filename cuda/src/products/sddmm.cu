#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/csr_product.h"
#include "products/sddmm.h"

namespace gossamer::cuda {

void sample(const CsrView& pattern, const SddmmOperands& x, Stream stream) {
  if (pattern.nnz == 0) return;
  with_element_type(x.a.dtype,
                    [&]<class T>(T) { sddmm_of_entries<T, false>(pattern, 1, 1, x, stream); });
}

std::int64_t sddmm_workspace(const TensorView&, const TensorView&, const Csr&) { return 0; }

void sddmm(const TensorView& a, const TensorView& b, const Csr& pattern, const TensorView& out,
           bool accumulate, const TensorView& workspace, Stream stream) {
  const detail::Checker check("sddmm", DeviceType::cuda);
  detail::check_sddmm(check, a, b, pattern, out);
  const CsrView view = view_of(check, "pattern", pattern);
  check.workspace(workspace, pattern.device(), 0);
  const DeviceGuard guard(pattern.device());
  sample(view, {a, b, out, accumulate}, stream);
}

}  // namespace gossamer::cuda
