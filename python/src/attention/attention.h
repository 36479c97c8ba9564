#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

void bind_attention(pybind11::module_& module);

}  // namespace gossamer::python
