#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Counts, coverage and means of patterns, that both backends have.
template <class Backend>
void bind_diagnostics(pybind11::module_& module);

}  // namespace gossamer::python
