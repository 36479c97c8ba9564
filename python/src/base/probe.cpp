#include "base/probe.h"

#include <cstdint>

#include "base/gil.h"
#include "gossamer/probe.h"

namespace gossamer::python {

namespace py = pybind11;

void bind_probe(py::module_& module) {
  module.def("read_bandwidth", &read_bandwidth, py::arg("bytes"), py::arg("seconds") = 0.1,
             py::call_guard<GilRelease>());
  py::class_<ReadProbe>(module, "ReadProbe")
      .def(py::init<std::int64_t>(), py::arg("bytes"))
      .def("__call__", [](ReadProbe& probe) { probe.read(); }, py::call_guard<GilRelease>());
  module.def("fma_peak", &fma_peak, py::arg("seconds") = 0.1, py::call_guard<GilRelease>());
  module.def("tile_peak", &tile_peak, py::arg("seconds") = 0.1, py::call_guard<GilRelease>());
}

}  // namespace gossamer::python
