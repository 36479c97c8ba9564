#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// GroupQuant, and its conversions.
void bind_quant(pybind11::module_& module);

}  // namespace gossamer::python
