#include <string>

#include "formats/compressed.h"
#include "gossamer/detail/check.h"
#include "gossamer/regrow.h"

namespace gossamer::regrow {
using namespace detail;
namespace {

const Checker kCheck("RowStructure");

/// Element i of a contiguous index array.
std::int64_t element(const TensorView& array, std::int64_t i) {
  return array.dtype == DType::i64 ? static_cast<const std::int64_t*>(array.data)[i]
                                   : static_cast<const std::int32_t*>(array.data)[i];
}

}  // namespace

RowStructure::RowStructure(const TensorView& indptr, const TensorView& indices, std::int64_t rows,
                           std::int64_t cols)
    : indptr_(indptr), indices_(indices), rows_(rows), cols_(cols), nnz_(0) {
  check_index_arrays(kCheck, indptr, indices, rows, cols);
  kCheck.device({"indptr", indptr}, indptr.device, "indptr");
  kCheck.extent({"indptr", indptr}, 0, rows + 1, "rows + 1");
  nnz_ = element(indptr, rows);
  if (nnz_ < 0 || nnz_ > indices.shape[0]) {
    kCheck.value_error("indptr[-1] is " + std::to_string(nnz_) + ", expected 0 to " +
                       std::to_string(indices.shape[0]) + ", the length of indices");
  }
  TensorView entries = indices;
  entries.shape[0] = nnz_;
  check_structure(kCheck, indptr, entries, {rows, "rows"}, {cols, "cols"}, false);
}

}  // namespace gossamer::regrow
