#pragma once

#include <pybind11/pybind11.h>

#include "gossamer/ops.h"

namespace gossamer::python {

namespace py = pybind11;

/// Sets the activation of `epilogue` from None, a name or ("clamp", lo, hi).
void read_activation(const char* op, py::handle activation, Epilogue& epilogue);

/// `accumulate` adds to what `out` holds, so there must be one.
void require_out(const char* op, bool accumulate, py::handle out);

}  // namespace gossamer::python
