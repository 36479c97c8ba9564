#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

template <class Backend>
void bind_attention_forward(pybind11::module_& module);

}  // namespace gossamer::python
