#include <limits>
#include <string>

#include "formats/compressed.h"
#include "gossamer/detail/check.h"
#include "gossamer/regrow.h"
#include "regrow/regrow_common.h"

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

RowStructure::RowStructure(const Csr& a) noexcept
    : indptr_(a.indptr()), indices_(a.indices()), rows_(a.rows()), cols_(a.cols()), nnz_(a.nnz()) {}

RowStructure::RowStructure(const Bsr& a) noexcept
    : indptr_(a.indptr()),
      indices_(a.indices()),
      rows_(a.rows() / a.block_rows()),
      cols_(a.cols() / a.block_cols()),
      nnz_(a.nblocks()) {}

RowStructure RowStructure::with_room(const TensorView& indices) const {
  const Argument longer{"indices", indices};
  kCheck.dtype(longer, indices_.dtype, "the structure's indices");
  kCheck.device(longer, indices_.device, "the structure");
  kCheck.rank(longer, {1});
  kCheck.contiguous(longer);
  if (indices.shape[0] < nnz_ || (nnz_ > 0 && indices.data != indices_.data)) {
    kCheck.value_error("indices do not begin with the structure's own in memory");
  }
  RowStructure result = *this;
  result.indices_ = indices;
  return result;
}

std::int64_t entries_after(const RowStructure& structure, std::int64_t n_drop,
                           std::int64_t n_grow) {
  const Checker check("csr_drop_grow_");
  const std::int64_t nnz = structure.nnz();
  check_number(check, "n_drop", n_drop, nnz, "entries");
  if (n_grow < 0) {
    check.value_error("n_grow is " + std::to_string(n_grow) + ", expected at least 0");
  }
  const bool narrow = structure.indices().dtype == DType::i32;
  const std::int64_t most =
      narrow ? std::numeric_limits<std::int32_t>::max() : std::numeric_limits<std::int64_t>::max();
  if (n_grow > most - (nnz - n_drop)) {
    check.value_error("n_grow is " + std::to_string(n_grow) + ", expected at most " +
                      std::to_string(most - (nnz - n_drop)) + " for " +
                      name_of(structure.indices().dtype) + " indices");
  }
  const std::int64_t after = nnz - n_drop + n_grow, longest = std::max(after, nnz);
  if (structure.indices().shape[0] < longest) {
    check.value_error("indices.shape[0] is " + std::to_string(structure.indices().shape[0]) +
                      ", expected at least " + std::to_string(longest) +
                      ", the entries before and after");
  }
  return after;
}

}  // namespace gossamer::regrow
