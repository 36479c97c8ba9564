#include "gossamer/check.h"
#include "gossamer/cuda.h"
#include "ops/csr_product.h"
#include "ops/sddmm.h"
#include "runtime.h"

namespace gossamer::cuda {
namespace {

Checker checker() { return Checker("sddmm", DeviceType::cuda); }

}  // namespace

std::int64_t sddmm_workspace(const TensorView&, const TensorView&, const Csr&) { return 0; }

void sddmm(const TensorView& a, const TensorView& b, const Csr& pattern, const TensorView& out,
           bool accumulate, const TensorView& workspace, Stream stream) {
  const Checker check = checker();
  check_sddmm(check, a, b, pattern, out);
  const CsrView view = view_of(check, "pattern", pattern);
  check.workspace(workspace, pattern.device(), 0);
  if (view.nnz == 0) return;
  const DeviceGuard guard(pattern.device());
  with_element_type(a.dtype, [&]<class T>(T) {
    const SddmmArgs<T> args{.indptr = view.indptr,
                            .indices = view.indices,
                            .rows = static_cast<int>(view.rows),
                            .block_rows = 1,
                            .block_cols = 1,
                            .nnz = view.nnz,
                            .a = static_cast<const T*>(a.data),
                            .lda = a.strides[0],
                            .b = static_cast<const T*>(b.data),
                            .ldb = b.strides[0],
                            .depth = a.shape[1],
                            .out = static_cast<T*>(out.data),
                            .accumulate = accumulate,
                            .log_group = 2,
                            .tiles = 1};
    sddmm_of_entries<T, false>(args, stream);
  });
}

}  // namespace gossamer::cuda
