#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// ColumnStats.
void bind_column_stats(pybind11::module_& module);

/// What both backends do with a layer.
template <class Backend>
void bind_layerwise(pybind11::module_& module);

}  // namespace gossamer::python
