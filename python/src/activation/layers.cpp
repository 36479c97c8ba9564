#include "activation/layers.h"

#include <optional>

#include "activation/threshold.h"
#include "base/call.h"
#include "cuda/backend.h"
#include "gossamer/activation.h"
#include "gossamer/cuda.h"
#include "products/epilogue.h"

namespace gossamer::python {
namespace {

// The operations of CPUs have the same names and are found by the types of their arguments: those
// of GPUs take a workspace and a stream more.
using cuda::gated_mlp, cuda::sparse_linear;

template <class Backend>
py::object bind_sparse_linear(Call<Backend>& call, py::handle x, py::handle wt,
                              py::handle threshold, py::handle bias, py::handle activation,
                              bool accumulate, py::handle out) {
  require_out(call.op(), accumulate, out);
  const Import x_import = call.read(x, "x");
  const Import wt_import = call.read(wt, "wt");
  const GivenThreshold limit(call, threshold);
  const std::optional<Import> bias_import = call.read_optional(bias, "bias");
  Epilogue epilogue{.bias = view_of(bias_import), .accumulate = accumulate};
  read_activation(call.op(), activation, epilogue);
  const TensorView& view = x_import.view();
  Output result = call.output(out, x, tokens_shape(view, columns_of(wt_import.view())), view.dtype);
  const auto workspace = call.workspace(
      x, [](const auto&... operands) { return cuda::sparse_linear_workspace(operands...); }, view,
      wt_import.view());
  call.run(workspace, [&](const auto&... queue) {
    sparse_linear(view, wt_import.view(), limit.get(), result.view(), epilogue, queue...);
  });
  return result.finish();
}

template <class Backend>
py::object bind_gated_mlp(Call<Backend>& call, py::handle x, py::handle w_gate, py::handle w_up,
                          py::handle w_down_t, py::handle threshold, py::handle activation,
                          py::handle out) {
  const Import x_import = call.read(x, "x");
  const Import gate = call.read(w_gate, "w_gate");
  const Import up = call.read(w_up, "w_up");
  const Import down = call.read(w_down_t, "w_down_t");
  const GivenThreshold limit(call, threshold);
  Epilogue read;
  read_activation(call.op(), activation, read);
  const TensorView& view = x_import.view();
  Output result = call.output(out, x, shape_of(view), view.dtype);
  const GatedMlpOptions options{.activation = read.activation, .lo = read.lo, .hi = read.hi};
  const auto workspace = call.workspace(
      x, [](const auto&... operands) { return cuda::gated_mlp_workspace(operands...); }, view,
      gate.view());
  call.run(workspace, [&](const auto&... queue) {
    gated_mlp(view, gate.view(), up.view(), down.view(), limit.get(), result.view(), options,
              queue...);
  });
  return result.finish();
}

}  // namespace

template <class Backend>
void bind_layers(py::module_& module) {
  define(module, "sparse_linear", &bind_sparse_linear<Backend>, py::arg("x"), py::arg("wt"),
         py::arg("threshold"), py::arg("bias"), py::arg("activation"), py::arg("accumulate"),
         py::arg("out"));
  define(module, "gated_mlp", &bind_gated_mlp<Backend>, py::arg("x"), py::arg("w_gate"),
         py::arg("w_up"), py::arg("w_down_t"), py::arg("threshold"), py::arg("activation"),
         py::arg("out"));
}

template void bind_layers<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
