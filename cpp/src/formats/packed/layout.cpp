#include "formats/packed/layout.h"

#include <utility>

namespace gossamer::detail {

namespace {

TensorView index_view(const Buffer<std::int64_t>& buffer) {
  return make_view(static_cast<void*>(buffer.data()), DType::i64, {buffer.size()});
}

TensorView value_view(const OwnedRows& rows) {
  return make_view(static_cast<void*>(rows.values.data()), rows.shape.dtype, {rows.shape.nnz});
}

Csr csr_of(const OwnedRows& rows) {
  return {index_view(rows.indptr), index_view(rows.indices), value_view(rows),
          rows.shape.rows,         rows.shape.cols,          Csr::Check::trust};
}

}  // namespace

OwnedRows::OwnedRows(const PackedShape& shape_)
    : indptr(shape_.rows + 1),
      indices(shape_.nnz),
      values(shape_.nnz * size_of(shape_.dtype)),
      shape(shape_) {}

RowsView OwnedRows::view() const {
  return {.kind = IndexKind::i64_i64,
          .indptr = indptr.data(),
          .indices = indices.data(),
          .values = values.data(),
          .value_type = shape.dtype,
          .rows = shape.rows,
          .cols = shape.cols,
          .nnz = shape.nnz};
}

OwnedRows OwnedRows::transposed() const {
  PackedShape turned = shape;
  std::swap(turned.rows, turned.cols);
  OwnedRows result(turned);
  csr_transpose(csr_of(*this), index_view(result.indptr), index_view(result.indices),
                value_view(result), std::nullopt);
  return result;
}

Buffer<std::int64_t> OwnedRows::transposed_order() const {
  const Buffer<std::int64_t> pointers(shape.cols + 1), rows(shape.nnz);
  Buffer<std::int64_t> order(shape.nnz);
  csr_transpose(csr_of(*this), index_view(pointers), index_view(rows), std::nullopt,
                index_view(order));
  return order;
}

}  // namespace gossamer::detail
