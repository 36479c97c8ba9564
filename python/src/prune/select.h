#pragma once

#include <pybind11/pybind11.h>

#include "prune/score.h"

namespace gossamer::python {

using ScoreImport = ScoreOperand<Cpu>;

void bind_select(py::module_& module);

}  // namespace gossamer::python
