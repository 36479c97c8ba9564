#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

namespace py = pybind11;

/// Lets a class take part in garbage collection: an array may hold, as an attribute, what was made
/// of it. T has a function objects(visit) that calls visit(handle) for each reference of its own to
/// a Python object, and returns the first result that is not 0.
///
/// There is nothing to clear: arrays and the package's classes break the circles that go through
/// them, and what is only traversed stays valid until it is freed, as a tuple does.
template <class T>
py::custom_type_setup collected() {
  return py::custom_type_setup([](PyHeapTypeObject* heap_type) {
    PyTypeObject& type = heap_type->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) -> int {
      Py_VISIT(Py_TYPE(self));  // uses the names visit and arg
      if (!py::detail::is_holder_constructed(self)) return 0;
      return py::cast<const T&>(py::handle(self)).objects([&](py::handle object) {
        return object ? visit(object.ptr(), arg) : 0;
      });
    };
  });
}

}  // namespace gossamer::python
