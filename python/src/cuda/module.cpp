// The extension for GPUs. It is loaded at the first array on one, works on the formats of _core,
// and needs no driver to be imported.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "activation/activation.h"
#include "activation/layers.h"
#include "attention/csr.h"
#include "attention/forward.h"
#include "base/errors.h"
#include "base/tensor.h"
#include "cuda/backend.h"
#include "cuda/layerwise.h"
#include "cuda/pack.h"
#include "formats/convert.h"
#include "formats/lists.h"
#include "gossamer/cuda.h"
#include "graph/rows.h"
#include "jax/handlers.h"
#include "products/backward.h"
#include "products/batched.h"
#include "products/products.h"
#include "prune/diagnostics.h"
#include "prune/layerwise.h"
#include "prune/masks.h"
#include "prune/patterns.h"
#include "prune/proximal.h"
#include "prune/updates.h"
#include "regrow/mask.h"
#include "regrow/rows.h"

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

/// A NumPy copy of an array of structure, which the CPU checks. Waits for it.
py::array to_host(py::handle array) {
  constexpr gossamer::python::Where where{"CSR", "indices"};
  gossamer::python::Call<gossamer::python::Cuda> call(where.op);
  const gossamer::python::Import from = call.read(array, where.argument);
  const gossamer::TensorView& view = from.view();
  py::array host(py::dtype(name_of(view.dtype)),
                 std::vector<py::ssize_t>(view.shape.begin(), view.shape.begin() + view.rank));
  void* data = host.mutable_data();
  call.run(
      [&](gossamer::cuda::Stream stream) { gossamer::cuda::copy_to_host(view, data, stream); });
  return host;
}

}  // namespace

PYBIND11_MODULE(GOSSAMER_EXTENSION, module) {
  module.doc() = "gossamer on GPUs. Use the functions of the package instead.";
  py::module_::import("gossamer._core");  // registers the classes
  py::register_local_exception_translator(&gossamer::python::translate_exception);
  module.def("device_count", &gossamer::cuda::device_count);
  module.def("empty", &empty, py::arg("shape"), py::arg("dtype"), py::arg("index"));
  module.def("to_host", &to_host, py::arg("array"));
  gossamer::python::bind_activation<gossamer::python::Cuda>(module);
  gossamer::python::bind_layers<gossamer::python::Cuda>(module);
  gossamer::python::bind_attention_forward<gossamer::python::Cuda>(module);
  gossamer::python::bind_csr_attention<gossamer::python::Cuda>(module);
  gossamer::python::bind_graph_rows<gossamer::python::Cuda>(module);
  gossamer::python::bind_conversions<gossamer::python::Cuda>(module);
  gossamer::python::bind_layout_lists<gossamer::python::Cuda>(module);
  gossamer::python::bind_jax<gossamer::python::Cuda>(module);
  gossamer::python::bind_pack(module);
  gossamer::python::bind_products<gossamer::python::Cuda>(module);
  gossamer::python::bind_batched_products<gossamer::python::Cuda>(module);
  gossamer::python::bind_backward<gossamer::python::Cuda>(module);
  gossamer::python::bind_diagnostics<gossamer::python::Cuda>(module);
  gossamer::python::bind_layerwise<gossamer::python::Cuda>(module);
  gossamer::python::bind_layerwise_steps(module);
  gossamer::python::bind_masks<gossamer::python::Cuda>(module);
  gossamer::python::bind_patterns<gossamer::python::Cuda>(module);
  gossamer::python::bind_proximal<gossamer::python::Cuda>(module);
  gossamer::python::bind_updates<gossamer::python::Cuda>(module);
  gossamer::python::bind_regrow_mask<gossamer::python::Cuda>(module);
  gossamer::python::bind_regrow_rows<gossamer::python::Cuda>(module);
}
