#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Proximal steps of groups, polarization, and thresholds of channels, that both backends have.
template <class Backend>
void bind_proximal(pybind11::module_& module);

}  // namespace gossamer::python
