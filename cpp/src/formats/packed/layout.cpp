#include "formats/packed/layout.h"

#include <utility>

namespace gossamer::detail {

OwnedRows::OwnedRows(const PackedShape& shape_, DType value_type_)
    : indptr(shape_.rows + 1),
      indices(shape_.nnz),
      values(shape_.nnz * size_of(value_type_)),
      value_type(value_type_),
      shape(shape_) {}

RowsView OwnedRows::view() const {
  return {.kind = IndexKind::i64_i64,
          .indptr = indptr.data(),
          .indices = indices.data(),
          .values = values.data(),
          .value_type = value_type,
          .rows = shape.rows,
          .cols = shape.cols,
          .nnz = shape.nnz};
}

OwnedRows OwnedRows::transposed() const {
  PackedShape turned = shape;
  std::swap(turned.rows, turned.cols);
  OwnedRows result(turned, value_type);
  const auto index_view = [](const Buffer<std::int64_t>& buffer) {
    return make_view(static_cast<void*>(buffer.data()), DType::i64, {buffer.size()});
  };
  const auto value_view = [&](const OwnedRows& rows) {
    return make_view(static_cast<void*>(rows.values.data()), value_type, {shape.nnz});
  };
  const Csr a(index_view(indptr), index_view(indices), value_view(*this), shape.rows, shape.cols,
              Csr::Check::trust);
  csr_transpose(a, index_view(result.indptr), index_view(result.indices), value_view(result),
                std::nullopt);
  return result;
}

}  // namespace gossamer::detail
