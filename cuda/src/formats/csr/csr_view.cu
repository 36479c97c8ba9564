#include <limits>
#include <string>

#include "formats/csr/csr_view.h"

namespace gossamer::cuda {
namespace {

void require_int(const detail::Checker& check, const std::string& indices, const std::string& shape,
                 DType index, std::int64_t rows, std::int64_t cols) {
  if (index != DType::i32) check.not_implemented(indices + " is int64, expected int32 on a GPU");
  constexpr std::int64_t kMax = std::numeric_limits<int>::max();
  if (rows >= kMax || cols >= kMax) {
    check.not_implemented(shape + " is (" + std::to_string(rows) + ", " + std::to_string(cols) +
                          "), expected less than 2**31 - 1 on a GPU");
  }
}

}  // namespace

void require_int(const detail::Checker& check, const char* name, DType index, std::int64_t rows,
                 std::int64_t cols) {
  const std::string matrix = name;
  require_int(check, matrix + ".index_dtype", matrix + ".shape", index, rows, cols);
}

void require_int(const detail::Checker& check, const TensorView& w, const TensorView& indptr) {
  require_int(check, "indptr.dtype", "w.shape", indptr.dtype, w.shape[0], w.shape[1]);
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

CsrView pattern_of(const detail::Checker& check, const char* name, const CsrPattern& a) {
  require_int(check, name, a.index_dtype(), a.rows(), a.cols());
  return {.indptr = static_cast<const int*>(a.indptr().data),
          .indices = static_cast<const int*>(a.indices().data),
          .values = nullptr,
          .dtype = DType::f32,
          .rows = a.rows(),
          .cols = a.cols(),
          .nnz = a.nnz()};
}

}  // namespace gossamer::cuda
