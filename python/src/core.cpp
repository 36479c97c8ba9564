#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "activation/activation.h"
#include "activation/layers.h"
#include "attention/attention.h"
#include "attention/csr.h"
#include "attention/forward.h"
#include "base/direct.h"
#include "base/errors.h"
#include "base/parameters.h"
#include "base/probe.h"
#include "base/tensor.h"
#include "formats/bsr.h"
#include "formats/convert.h"
#include "formats/csr.h"
#include "formats/layout.h"
#include "formats/lists.h"
#include "formats/nm.h"
#include "formats/packed.h"
#include "formats/quant.h"
#include "gossamer/detail/processors.h"
#include "gossamer/runtime.h"
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
#include "prune/select.h"
#include "prune/updates.h"
#include "regrow/mask.h"
#include "regrow/regrow.h"
#include "regrow/rows.h"

namespace py = pybind11;

PYBIND11_MODULE(_core_of_main, module) {
  module.doc() = "The native half of gossamer. Use the functions of the package instead.";
  py::register_local_exception_translator(&gossamer::python::translate_exception);
  module.def("version", &gossamer::version);
  module.def("isa", &gossamer::isa);
  module.def("available_isas", &gossamer::available_isas);
  module.def("num_threads", &gossamer::num_threads);
  module.def(
      "set_num_threads",
      [](py::handle n) {
        const auto threads = gossamer::python::read_integer({"set_num_threads", "n"}, n, 1, 1024);
        gossamer::set_num_threads(static_cast<int>(threads));
      },
      py::arg("n"));
  module.def("processors", &gossamer::detail::processors);
  module.def("processors_of_quota", &gossamer::detail::processors_of_quota, py::arg("root") = "");
  gossamer::python::bind_activation<gossamer::python::Cpu>(module);
  gossamer::python::bind_layers<gossamer::python::Cpu>(module);
  gossamer::python::bind_tensor(module);
  gossamer::python::bind_direct(module);
  gossamer::python::bind_parameters(module);
  gossamer::python::bind_csr(module);
  gossamer::python::bind_bsr(module);
  gossamer::python::bind_layout(module);
  gossamer::python::bind_layout_lists<gossamer::python::Cpu>(module);
  gossamer::python::bind_packed(module);
  gossamer::python::bind_quant(module);
  gossamer::python::bind_conversions<gossamer::python::Cpu>(module);
  gossamer::python::bind_products<gossamer::python::Cpu>(module);
  gossamer::python::bind_attention(module);
  gossamer::python::bind_attention_forward<gossamer::python::Cpu>(module);
  gossamer::python::bind_nm(module);
  gossamer::python::bind_backward<gossamer::python::Cpu>(module);
  gossamer::python::bind_batched_products<gossamer::python::Cpu>(module);
  gossamer::python::bind_csr_attention<gossamer::python::Cpu>(module);
  gossamer::python::bind_patterns<gossamer::python::Cpu>(module);
  gossamer::python::bind_column_stats(module);
  gossamer::python::bind_layerwise<gossamer::python::Cpu>(module);
  gossamer::python::bind_proximal<gossamer::python::Cpu>(module);
  gossamer::python::bind_diagnostics<gossamer::python::Cpu>(module);
  gossamer::python::bind_graph_rows<gossamer::python::Cpu>(module);
  gossamer::python::bind_jax<gossamer::python::Cpu>(module);
  gossamer::python::bind_probe(module);
  gossamer::python::bind_regrow(module);
  gossamer::python::bind_select(module);
  gossamer::python::bind_masks<gossamer::python::Cpu>(module);
  gossamer::python::bind_updates<gossamer::python::Cpu>(module);
  gossamer::python::bind_regrow_mask<gossamer::python::Cpu>(module);
  gossamer::python::bind_regrow_rows<gossamer::python::Cpu>(module);
}

/// The library has one pool of threads and one set of hooks, so it is of the main interpreter.
/// pybind11 would wait for ever for the lock of that in another.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    PyErr_SetString(PyExc_ImportError,
                    "gossamer: imported in a sub-interpreter, expected the main interpreter");
    return nullptr;
  }
  return PyInit__core_of_main();
}
