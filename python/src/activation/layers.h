#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// sparse_linear and gated_mlp.
template <class Backend>
void bind_layers(pybind11::module_& module);

}  // namespace gossamer::python
