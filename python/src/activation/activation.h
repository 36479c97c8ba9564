#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// delta_linear, gather_decode and the gradients of lists of rows.
template <class Backend>
void bind_activation(pybind11::module_& module);

}  // namespace gossamer::python
