#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Functions for GPUs that the CPU's half of ColumnStats and obs_prune_ call by name.
void bind_layerwise_steps(pybind11::module_& module);

}  // namespace gossamer::python
