#include <pybind11/pybind11.h>

#include "gossamer/gossamer.h"

PYBIND11_MODULE(_core, module) {
  module.def("version", &gossamer::version);
  module.def("isa", &gossamer::isa);
}
