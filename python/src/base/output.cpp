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

Output::Output(const char* op, py::handle out, py::handle like, const Shape& shape, DType dtype,
               MaybeStream stream)
    : Output(Where{op, "out"}, out, like, shape, dtype, stream) {}

Output::Output(Where where, py::handle out, py::handle like, const Shape& shape, DType dtype,
               MaybeStream stream)
    : like_(py::reinterpret_borrow<py::object>(like)) {
  if (out.is_none()) {
    allocate(where, shape, dtype);
  } else {
    array_ = py::reinterpret_borrow<py::object>(out);
    import_ = Import::to_write(out, where, stream);
    handed_over_ = true;
  }
}

Output::Output(Where where, py::handle like, const Shape& shape, DType dtype)
    : like_(py::reinterpret_borrow<py::object>(like)) {
  allocate(where, shape, dtype);
}

void Output::allocate(Where where, const Shape& shape, DType dtype) {
  const auto* first = shape.extents.data();
  if (is_ndarray(like_)) {
    const py::array& like = py::reinterpret_borrow<py::array>(like_);
    array_ = py::array(numpy_type(like, dtype, where),
                       py::array::ShapeContainer(first, first + shape.rank));
    handed_over_ = true;
  } else {
    py::tuple extents(shape.rank);
    for (std::size_t d = 0; d < static_cast<std::size_t>(shape.rank); ++d) {
      extents[d] = shape.extents[d];
    }
    array_ = hooks().empty(extents, name_of(dtype), like_);
  }
  import_ = Import::to_write(array_, where);
}

py::object Output::finish() {
  import_.reset();
  if (handed_over_) return std::move(array_);
  return hooks().finish(array_, like_);
}

}  // namespace gossamer::python
