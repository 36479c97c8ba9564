#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Packing for GPUs, whose layouts are arrays of the caller's framework.
void bind_pack(pybind11::module_& module);

}  // namespace gossamer::python
