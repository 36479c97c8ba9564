#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// spmm, linear and sddmm.
template <class Backend>
void bind_products(pybind11::module_& module);

}  // namespace gossamer::python
