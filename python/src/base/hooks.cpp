#include "base/hooks.h"

#include <pybind11/gil_safe_call_once.h>

namespace gossamer::python {

// Both are kept for the life of the process: no Python object may be released after its end.

const Hooks& hooks() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Hooks> storage;
  return storage
      .call_once_and_store_result([] {
        const py::module_ interop = py::module_::import("gossamer._interop");
        const py::module_ backend = py::module_::import("gossamer._backend");
        const auto hook = [&](const char* name) { return Hook(interop.attr(name)); };
        return Hooks{.borrow = hook("borrow"),
                     .borrow_out = hook("borrow_out"),
                     .keep = hook("keep"),
                     .admit = hook("admit"),
                     .written = hook("written"),
                     .numpy_dtype = hook("numpy_dtype"),
                     .empty = hook("empty"),
                     .finish = hook("finish"),
                     .launch = hook("launch"),
                     .cuda = Hook(backend.attr("cuda")),
                     .cuda_error = backend.attr("CudaError")};
      })
      .get_stored();
}

py::object on_gpu(Where where, Device device, const char* name) {
  const py::object extension = hooks().cuda(where.op, where.argument, device.index);
  if (!py::hasattr(extension, name)) return {};
  return extension.attr(name);
}

bool is_ndarray(py::handle object) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> storage;
  const py::object& type =
      storage
          .call_once_and_store_result([] { return py::module_::import("numpy").attr("ndarray"); })
          .get_stored();
  return reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) == type.ptr();
}

}  // namespace gossamer::python
