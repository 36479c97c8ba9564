// The extension for GPUs. It is loaded at the first array on one, works on the formats of _core,
// and needs no driver to be imported.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/tensor.h"
#include "cuda/bind.h"
#include "gossamer/cuda.h"

namespace py = pybind11;

namespace {

using gossamer::Device;
using gossamer::DeviceType;
using gossamer::python::Tensor;

Tensor empty(const std::vector<std::int64_t>& shape, const std::string& dtype, int index) {
  const Device device{DeviceType::cuda, index};
  return Tensor(shape, gossamer::python::dtype_named(dtype), device,
                [device](std::int64_t bytes) { return gossamer::cuda::allocate(device, bytes); });
}

}  // namespace

PYBIND11_MODULE(GOSSAMER_EXTENSION, module) {
  module.doc() = "gossamer on GPUs. Use the functions of the package instead.";
  py::module_::import("gossamer._core");  // registers the classes
  py::register_local_exception_translator(&gossamer::python::translate_exception);
  module.def("device_count", &gossamer::cuda::device_count);
  module.def("empty", &empty, py::arg("shape"), py::arg("dtype"), py::arg("index"));
  gossamer::python::bind_cuda_formats(module);
  gossamer::python::bind_cuda_ops(module);
}
