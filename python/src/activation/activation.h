#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// What runs on CPUs only: delta_linear, gather_decode and the gradients.
void bind_activation(pybind11::module_& module);

}  // namespace gossamer::python
