#include "base/output.h"

#include <pybind11/numpy.h>

#include "base/hooks.h"

namespace gossamer::python {
namespace {

py::dtype numpy_type(const py::array& like, DType dtype, Where where) {
  // The type of `like` itself, because NumPy knows bfloat16 by object only.
  if (Import::to_read(like, where).view().dtype == dtype) return like.dtype();
  return py::dtype(name_of(dtype));
}

}  // namespace

Output::Output(Where where, py::handle out, MaybeStream stream)
    : array_(py::reinterpret_borrow<py::object>(out)),
      import_(Import::to_write(out, where, stream)) {}

Output::Output(Where where, py::handle like, const Shape& shape, DType dtype) {
  const auto* first = shape.extents.data();
  if (is_ndarray(like)) {
    const auto array = py::reinterpret_borrow<py::array>(like);
    array_ = py::array(numpy_type(array, dtype, where),
                       py::array::ShapeContainer(first, first + shape.rank));
  } else {
    py::tuple extents(shape.rank);
    for (std::size_t d = 0; d < static_cast<std::size_t>(shape.rank); ++d) {
      extents[d] = shape.extents[d];
    }
    like_ = py::reinterpret_borrow<py::object>(like);
    array_ = hooks().empty(extents, name_of(dtype), like);
  }
  import_ = Import::to_write(array_, where);
}

py::object Output::finish() {
  import_.reset();
  return like_ ? hooks().finish(array_, like_) : std::move(array_);
}

}  // namespace gossamer::python
