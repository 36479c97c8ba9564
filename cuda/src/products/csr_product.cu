#include <limits>
#include <string>

#include "base/launch.h"
#include "products/csr_product.h"

namespace gossamer::cuda {

void require_int(const detail::Checker& check, const char* name, DType index, std::int64_t rows,
                 std::int64_t cols) {
  if (index != DType::i32) {
    check.not_implemented(std::string(name) + ".index_dtype is int64, expected int32 on a GPU");
  }
  constexpr std::int64_t kMax = std::numeric_limits<int>::max();
  if (rows >= kMax || cols >= kMax) {
    check.not_implemented(std::string(name) + ".shape is (" + std::to_string(rows) + ", " +
                          std::to_string(cols) + "), expected less than 2**31 - 1 on a GPU");
  }
}

CsrView view_of(const detail::Checker& check, const char* name, const Csr& a) {
  require_int(check, name, a.index_dtype(), a.rows(), a.cols());
  return {.indptr = static_cast<const int*>(a.indptr().data),
          .indices = static_cast<const int*>(a.indices().data),
          .values = a.values().data,
          .dtype = a.dtype(),
          .rows = a.rows(),
          .cols = a.cols(),
          .nnz = a.nnz()};
}

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
