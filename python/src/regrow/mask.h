#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Drop-and-grow of masks, which both backends have.
template <class Backend>
void bind_regrow_mask(pybind11::module_& module);

}  // namespace gossamer::python
