#include "products/csr_product.h"

namespace gossamer::cuda {

namespace {

/// Is B better read column by column than transposed first? So it is with few columns, and where
/// most of its rows meet no entry of A: a transpose of all would take memory for nothing.
bool is_thin(const CsrView& a, std::int64_t n) {
  constexpr std::int64_t kHollow = std::int64_t{1} << 16;
  return n <= kThinColumns || (a.cols >= kHollow && a.nnz <= a.cols / 32);
}

}  // namespace

std::int64_t multiply_workspace(const CsrView& a, std::int64_t n, bool by_columns) {
  if (by_columns) return is_thin(a, n) ? 0 : multiply_columns_workspace(a, n);
  return n == 1 ? 0 : partial_sums(a) * n * sum_size(a.dtype);
}

void multiply(const CsrView& a, const detail::Product& product, void* workspace, Stream stream) {
  if (product.m == 0 || product.n == 0) return;
  if (product.b.transposed) {
    if (is_thin(a, product.n)) {
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
