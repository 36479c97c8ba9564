#include "products/csr_product.h"

namespace gossamer::cuda {

std::int64_t multiply_workspace(const CsrView& a, std::int64_t n, bool by_columns) {
  if (by_columns) return n <= kThinColumns ? 0 : multiply_columns_workspace(a, n);
  return n == 1 ? 0 : partial_sums(a) * n * sum_size(a.dtype);
}

void multiply(const CsrView& a, const detail::Product& product, void* workspace, Stream stream) {
  if (product.m == 0 || product.n == 0) return;
  if (product.b.transposed) {
    if (product.n <= kThinColumns) {
      multiply_thin(a, product, stream);
    } else {
      multiply_columns(a, product, workspace, stream);
    }
  } else if (product.n == 1) {
    multiply_thin(a, product, stream);
  } else {
    multiply_rows(a, product, nullptr, 0, workspace, stream);
  }
}

}  // namespace gossamer::cuda
