#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Adds read_bandwidth(bytes, seconds) and fma_peak(seconds) to the module.
void bind_probe(pybind11::module_& module);

}  // namespace gossamer::python
