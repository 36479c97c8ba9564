// spmm and linear of CSR matrices. They differ in how B and the result lie in memory.

#include <string>

#include "gossamer/check.h"
#include "gossamer/cuda.h"
#include "kernels/csr_rows.cuh"
#include "runtime.h"

namespace gossamer::cuda {
namespace {

void require_int32(const Checker& check, const char* name, const Csr& a) {
  if (a.index_dtype() == DType::i32) return;
  check.not_implemented(std::string(name) + ".index_dtype is int64, expected int32 on a GPU");
}

std::int64_t row_stride(const DenseView& x) { return x.transposed ? 1 : x.stride; }
std::int64_t col_stride(const DenseView& x) { return x.transposed ? x.stride : 1; }

void multiply(const Csr& a, const Product& product, Stream stream) {
  if (product.m == 0 || product.n == 0) return;
  with_element_type(a.dtype(), [&](auto element) {
    using T = decltype(element);
    const CsrRows<T> args{.indptr = static_cast<const int*>(a.indptr().data),
                          .indices = static_cast<const int*>(a.indices().data),
                          .values = static_cast<const T*>(a.values().data),
                          .b = static_cast<const T*>(product.b.data),
                          .b_row = row_stride(product.b),
                          .b_col = col_stride(product.b),
                          .out = static_cast<T*>(product.out.data),
                          .out_row = row_stride(product.out),
                          .out_col = col_stride(product.out),
                          .rows = static_cast<int>(product.m),
                          .n = product.n,
                          .finish = Finish<T>(product)};
    const auto blocks = static_cast<unsigned>((product.m + kRowsWarps - 1) / kRowsWarps);
    launch(csr_rows<T>, dim3(blocks), dim3(32, kRowsWarps), 0, stream, args);
  });
}

}  // namespace

std::int64_t spmm_workspace(const Csr& /*a*/, const TensorView& /*b*/, bool /*transpose_a*/) {
  return 0;
}

void spmm(const Csr& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, const TensorView& workspace, Stream stream) {
  const Checker check("spmm", DeviceType::cuda);
  const Product product = check_spmm(check, describe(a), b, out, transpose_a, epilogue);
  check_apart(check, "a", a, out);
  require_int32(check, "a", a);
  check.workspace(workspace, a.device(), spmm_workspace(a, b, transpose_a));
  if (transpose_a) check.not_implemented("transpose_a has no kernel for a GPU yet");
  const DeviceGuard guard(a.device());
  multiply(a, product, stream);
}

std::int64_t linear_workspace(const TensorView& /*x*/, const Csr& /*w*/) { return 0; }

void linear(const TensorView& x, const Csr& w, const TensorView& out, const Epilogue& epilogue,
            const TensorView& workspace, Stream stream) {
  const Checker check("linear", DeviceType::cuda);
  const Product product = check_linear(check, x, describe(w), out, epilogue);
  check_apart(check, "w", w, out);
  require_int32(check, "w", w);
  check.workspace(workspace, w.device(), linear_workspace(x, w));
  const DeviceGuard guard(w.device());
  multiply(w, product, stream);
}

}  // namespace gossamer::cuda
