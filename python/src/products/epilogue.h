#pragma once

#include <pybind11/pybind11.h>

#include "base/output.h"
#include "gossamer/products.h"

namespace gossamer::python {

/// Sets the activation of `epilogue` from None, a name or ("clamp", lo, hi).
void read_activation(const char* op, py::handle activation, Epilogue& epilogue);

/// `accumulate` adds to what `out` holds, so there must be one.
void require_out(const char* op, bool accumulate, py::handle out);

/// The shapes of results.
template <class Matrix>
Shape spmm_shape(const Matrix& a, const TensorView& b, bool transpose_a) {
  Shape shape{transpose_a ? a.cols() : a.rows()};
  shape.append(b, 1, b.rank);
  return shape;
}
template <class Matrix>
Shape linear_shape(const TensorView& x, const Matrix& w) {
  Shape shape;
  shape.append(x, 0, x.rank - 1);
  shape.push_back(w.rows());
  return shape;
}
inline Shape values_shape(const Csr& a) { return {a.nnz()}; }
inline Shape values_shape(const Nm& a) { return shape_of(a.values()); }
inline Shape values_shape(const Bsr& a) { return {a.nblocks(), a.block_rows(), a.block_cols()}; }

}  // namespace gossamer::python
