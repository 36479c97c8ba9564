#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

namespace py = pybind11;

/// The functions of gossamer._interop, the one module that knows the array frameworks. They serve
/// every array that is neither a numpy.ndarray itself nor a Tensor.
struct Hooks {
  py::object borrow;      // (array, op, argument) -> capsule or numpy.ndarray to read
  py::object borrow_out;  // (array, op, argument) -> the same, to write
  py::object empty;       // (shape, dtype name, like) -> a writable array
  py::object finish;      // (array from `empty`, like) -> what the caller gets
};

const Hooks& hooks();

/// True for numpy.ndarray itself, false for its subclasses.
bool is_ndarray(py::handle object);

}  // namespace gossamer::python
