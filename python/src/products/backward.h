#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// linear_backward and spmm_backward.
template <class Backend>
void bind_backward(pybind11::module_& module);

}  // namespace gossamer::python
