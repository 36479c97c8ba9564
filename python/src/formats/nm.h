#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

void bind_nm(pybind11::module_& module);

}  // namespace gossamer::python
