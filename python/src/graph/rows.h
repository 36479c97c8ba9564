#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Sums and largest values of rows, and entries scaled by their row and column.
template <class Backend>
void bind_graph_rows(pybind11::module_& module);

}  // namespace gossamer::python
