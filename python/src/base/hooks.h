#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <utility>

#include "base/gil.h"
#include "gossamer/tensor.h"

namespace gossamer::python {

namespace py = pybind11;

/// The argument that a message is about: "spmm: b".
struct Where {
  const char* op;
  const char* argument;

  [[nodiscard]] std::string text() const { return std::string(op) + ": " + argument; }
};

/// A Python function of the package.
class Hook {
 public:
  Hook() = default;
  explicit Hook(py::object function) : function_(std::move(function)) {}

  template <class... Args>
  py::object operator()(Args&&... args) const {
    return sleep_if_python_ends(
        [&]() -> py::object { return function_(std::forward<Args>(args)...); });
  }

 private:
  py::object function_;
};

/// What the native half asks of Python. gossamer._interop is the one module that knows the array
/// frameworks: its functions serve every array that is neither a numpy.ndarray itself nor a Tensor.
struct Hooks {
  Hook borrow;            // (array, op, argument[, stream]) -> capsule or numpy.ndarray to read
  Hook borrow_out;        // the same, to write
  Hook keep;              // (array, op, argument) -> the same, to read for longer than a call
  Hook admit;             // (array, op, argument): raises where it has no plain values
  Hook written;           // (array): its framework is told that it was written
  Hook numpy_dtype;       // (dtype name) -> NumPy's, which has bfloat16 of another package
  Hook empty;             // (shape, dtype name, like) -> a writable array
  Hook finish;            // (array from `empty`, like) -> what the caller gets
  Hook launch;            // (array, op, argument) -> (stream, whether results are waited for)
  Hook cuda;              // (op, argument, device index) -> the extension for GPUs
  py::object cuda_error;  // the class
};

const Hooks& hooks();

/// The function of the extension for GPUs by this name; null where it has none. Raises
/// NotImplementedError where the build has no such extension: `where` is what lies on the device.
py::object on_gpu(Where where, Device device, const char* name);

/// True for numpy.ndarray itself, false for its subclasses.
bool is_ndarray(py::handle object);

}  // namespace gossamer::python
