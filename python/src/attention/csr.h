#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// csr_softmax, csr_attention, and products of several sets of values.
template <class Backend>
void bind_csr_attention(pybind11::module_& module);

}  // namespace gossamer::python
