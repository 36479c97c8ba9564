#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Scores as arrays, and updates of weights in place, that both backends make.
template <class Backend>
void bind_updates(pybind11::module_& module);

}  // namespace gossamer::python
