#include "formats/packed/layout.h"

#include <utility>

#include "base/work.h"

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

SourcePositions OwnedRows::transposed_order() const {
  const Buffer<std::int64_t> pointers(shape.cols + 1), rows(shape.nnz), order(shape.nnz);
  csr_transpose(csr_of(*this), index_view(pointers), index_view(rows), std::nullopt,
                index_view(order));
  SourcePositions positions(shape.nnz, shape.nnz);
  for (std::int64_t p = 0; p < shape.nnz; ++p) positions.set(p, order[p]);
  return positions;
}

void gather_values(const void* from, const SourcePositions& positions, std::int64_t size,
                   void* to) {
  const std::int64_t count = positions.size();
  const auto gather = [&](auto value, const auto* at) {
    using T = decltype(value);
    for_tasks(ceil_div(count, kTaskElements), move_cost(count), [&](std::int64_t task) {
      const auto* source = static_cast<const T*>(from);
      auto* target = static_cast<T*>(to);
      const std::int64_t end = std::min(count, (task + 1) * kTaskElements);
      for (std::int64_t i = task * kTaskElements; i < end; ++i) target[i] = source[at[i]];
    });
  };
  with_size(size, [&](auto value) { positions.visit([&](const auto* at) { gather(value, at); }); });
}

}  // namespace gossamer::detail
