#include "gossamer/check.h"
#include "gossamer/cuda.h"
#include "kernels/convert_indices.cuh"
#include "ops/csr_product.h"
#include "runtime.h"

namespace gossamer::cuda {

std::int64_t csr_count_workspace(const TensorView& /*w*/) { return 0; }

std::int64_t csr_count(const TensorView& w, const std::optional<TensorView>& mask,
                       const TensorView& indptr, const TensorView& /*workspace*/,
                       Stream /*stream*/) {
  const Checker check("CSR.from_dense", DeviceType::cuda);
  check_csr_count(check, w, mask, indptr);
  check.not_implemented("there is no kernel for a GPU yet");
}

void csr_fill(const TensorView& w, const std::optional<TensorView>& mask, const TensorView& indptr,
              const TensorView& indices, const TensorView& values, Stream /*stream*/) {
  const Checker check("CSR.from_dense", DeviceType::cuda);
  check_csr_fill(check, w, mask, indptr, indices, values);
  check.not_implemented("there is no kernel for a GPU yet");
}

void csr_to_dense(const Csr& a, const TensorView& out, Stream /*stream*/) {
  const Checker check("CSR.to_dense", DeviceType::cuda);
  check_csr_to_dense(check, a, out);
  check.not_implemented("there is no kernel for a GPU yet");
}

std::int64_t csr_transpose_workspace(const Csr& a) {
  return transpose_workspace(view_of(Checker("CSR.transpose", DeviceType::cuda), "a", a));
}

void csr_transpose(const Csr& a, const TensorView& indptr, const TensorView& indices,
                   const std::optional<TensorView>& values,
                   const std::optional<TensorView>& permutation, const TensorView& workspace,
                   Stream stream) {
  const Checker check("CSR.transpose", DeviceType::cuda);
  check_csr_transpose(check, a, indptr, indices, values, permutation);
  const CsrView view = view_of(check, "a", a);
  check.workspace(workspace, a.device(), transpose_workspace(view));
  const DeviceGuard guard(a.device());
  transpose(view,
            {.indptr = static_cast<int*>(indptr.data),
             .indices = static_cast<int*>(indices.data),
             .values = values ? values->data : nullptr,
             .permutation = permutation ? static_cast<int*>(permutation->data) : nullptr},
            workspace.data, stream);
}

void convert_indices(const TensorView& from, const TensorView& to, Stream stream) {
  check_convert_indices(Checker("convert_indices", DeviceType::cuda), from, to);
  const std::int64_t size = from.shape[0];
  if (size == 0) return;
  const DeviceGuard guard(from.device);
  if (from.dtype == to.dtype) return copy(to.data, from.data, size * size_of(from.dtype), stream);
  const auto blocks = static_cast<unsigned>((size + kConvertThreads - 1) / kConvertThreads);
  if (from.dtype == DType::i64) {
    launch(convert_each<std::int64_t, std::int32_t>, dim3(blocks), dim3(kConvertThreads), 0, stream,
           static_cast<const std::int64_t*>(from.data), static_cast<std::int32_t*>(to.data), size);
  } else {
    launch(convert_each<std::int32_t, std::int64_t>, dim3(blocks), dim3(kConvertThreads), 0, stream,
           static_cast<const std::int32_t*>(from.data), static_cast<std::int64_t*>(to.data), size);
  }
}

}  // namespace gossamer::cuda
