#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
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
    constexpr std::size_t count = sizeof...(Args);
    const std::array<py::object, count> owned{object_of(std::forward<Args>(args))...};
    // The first is room for a method's object (PEP 590).
    std::array<PyObject*, count + 1> arguments{};
    for (std::size_t i = 0; i < count; ++i) arguments[i + 1] = owned[i].ptr();
    // pybind11's own call would own the arguments within the body, and release them when Python
    // ends.
    PyObject* result = sleep_if_python_ends([&] {
      return PyObject_Vectorcall(function_.ptr(), arguments.data() + 1,
                                 count | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
    });
    if (result == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
  }

 private:
  template <class T>
  static py::object object_of(T&& argument) {
    return py::reinterpret_steal<py::object>(py::detail::make_caster<T>::cast(
        std::forward<T>(argument), py::return_value_policy::automatic_reference, {}));
  }

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
