#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Masks that both backends make.
template <class Backend>
void bind_masks(pybind11::module_& module);

}  // namespace gossamer::python
