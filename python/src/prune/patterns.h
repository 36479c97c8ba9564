#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Compiled for each backend.
template <class Backend>
void bind_patterns(pybind11::module_& module);

}  // namespace gossamer::python
