#include "base/output.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/direct.h"
#include "base/hooks.h"

namespace gossamer::python {
namespace {

/// NumPy's type of a result.
py::dtype numpy_type(const py::array& like, DType dtype, Where where) {
  if (numpy_dtype(like.dtype(), where) == dtype) return like.dtype();
  static std::array<PyObject*, kDTypeCount> known = {};  // kept for the life of the process
  PyObject*& type = known[static_cast<std::size_t>(dtype)];
  if (type == nullptr) type = hooks().numpy_dtype(name_of(dtype)).release().ptr();
  return py::reinterpret_borrow<py::dtype>(type);
}

/// How a new array lies.
TensorView compact_view(void* data, const Shape& shape, DType dtype) {
  TensorView view;
  view.data = data;
  view.dtype = dtype;
  view.rank = shape.rank;
  view.shape = shape.extents;
  std::int64_t stride = 1;
  for (auto d = static_cast<std::size_t>(shape.rank); d-- > 0;) {
    view.strides[d] = stride;
    stride *= std::max<std::int64_t>(view.shape[d], 1);
  }
  return view;
}

/// Throws MemoryError for a result of 2**63 bytes or more: the sizes of sparse matrices multiply to
/// any number.
void check_size(Where where, const Shape& shape, DType dtype) {
  std::int64_t bytes = size_of(dtype);
  for (std::size_t d = 0; d < static_cast<std::size_t>(shape.rank); ++d) {
    const std::int64_t extent = shape.extents[d];
    if (extent >= 0 && !__builtin_mul_overflow(bytes, std::max<std::int64_t>(extent, 1), &bytes)) {
      continue;
    }
    TensorView view;
    view.rank = shape.rank;
    view.shape = shape.extents;
    PyErr_SetString(PyExc_MemoryError, (where.text() + " would have shape " + shape_string(view) +
                                        ", which is 2**63 bytes or more")
                                           .c_str());
    throw py::error_already_set();
  }
}

}  // namespace

Output::Output(Where where, py::handle out, MaybeStream stream)
    : array_(py::reinterpret_borrow<py::object>(out)),
      import_(Import::to_write(out, where, stream)) {}

Output::Output(Where where, py::handle like, const Shape& shape, DType dtype) {
  check_size(where, shape, dtype);
  const auto* first = shape.extents.data();
  if (is_ndarray(like)) {
    const auto array = py::reinterpret_borrow<py::array>(like);
    py::array made(numpy_type(array, dtype, where),
                   py::array::ShapeContainer(first, first + shape.rank));
    import_ = Import::of_new(made, compact_view(made.mutable_data(), shape, dtype));
    array_ = std::move(made);
    return;
  }
  py::tuple extents(shape.rank);
  for (std::size_t d = 0; d < static_cast<std::size_t>(shape.rank); ++d) {
    extents[d] = shape.extents[d];
  }
  if (const Direct* direct = Direct::of(like)) {
    dlpack::Tensor tensor;
    if (py::object made = direct->empty(extents, dtype, tensor)) {
      import_ = Import::from_borrowed(tensor, made, where);
      array_ = std::move(made);
      return;
    }
  }
  like_ = py::reinterpret_borrow<py::object>(like);
  array_ = hooks().empty(extents, name_of(dtype), like);
  import_ = Import::to_write(array_, where);
}

py::object Output::finish() {
  import_.reset();
  return like_ ? hooks().finish(array_, like_) : std::move(array_);
}

}  // namespace gossamer::python
