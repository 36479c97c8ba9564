#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Drop-and-grow of sparse matrices, which both backends have.
template <class Backend>
void bind_regrow_rows(pybind11::module_& module);

}  // namespace gossamer::python
