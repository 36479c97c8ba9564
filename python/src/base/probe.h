#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Adds read_bandwidth(bytes, seconds), fma_peak(seconds) and ReadProbe(bytes) to the module.
void bind_probe(pybind11::module_& module);

}  // namespace gossamer::python
