#include "gossamer/csr.h"

#include "formats/compressed.h"
#include "gossamer/detail/check.h"

namespace gossamer {
using namespace detail;
namespace {

const Checker kCsrCheck("CSR");

}  // namespace

Csr::Csr(const TensorView& indptr, const TensorView& indices, const TensorView& values,
         std::int64_t rows, std::int64_t cols, Check check)
    : Csr(Unread{}, indptr, indices, values, rows, cols) {
  check_structure(kCsrCheck, indptr, indices, {rows, "shape[0]"}, {cols, "shape[1]"},
                  check == Check::trust);
}

Csr Csr::with_values(const TensorView& values) const {
  check_values(kCsrCheck, {"values", values}, 1, device(), nnz());
  Csr result = *this;
  result.values_ = values;
  return result;
}

CsrPattern::CsrPattern(const TensorView& indptr, const TensorView& indices, std::int64_t rows,
                       std::int64_t cols, Csr::Check check)
    : CsrPattern(Unread{}, indptr, indices, rows, cols) {
  check_structure(kCsrCheck, indptr, indices, {rows, "shape[0]"}, {cols, "shape[1]"},
                  check == Csr::Check::trust);
}

Csr CsrPattern::with_values(const TensorView& values) const {
  return {indptr_, indices_, values, rows_, cols_, Csr::Check::trust};
}

}  // namespace gossamer
