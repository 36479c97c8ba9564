#include <optional>

#include "base/arguments.h"
#include "cuda/bind.h"
#include "cuda/launch.h"
#include "formats/handle.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/check.h"

namespace gossamer::python {
namespace {

template <class Format>
py::object spmm_binding(const Handle<Format>& a, py::handle b, bool transpose_a, py::handle bias,
                        py::handle activation, bool accumulate, py::handle out) {
  constexpr const char* op = "spmm";
  require_out(op, accumulate, out);
  const Launch launch(b, {op, "b"});
  const Import b_import = launch.read(b, {op, "b"});
  const std::optional<Import> bias_import = launch.read_optional(bias, {op, "bias"});
  Epilogue epilogue{.bias = view_of(bias_import), .accumulate = accumulate};
  read_activation(op, activation, epilogue);
  const TensorView& view = b_import.view();
  detail::Checker(op, DeviceType::cuda).device({"b", view}, a.matrix.device(), "a");
  Output result = launch.output(op, out, b, spmm_shape(a.matrix, view, transpose_a), view.dtype);
  const Workspace workspace(b, cuda::spmm_workspace(a.matrix, view, transpose_a));
  launch.run(view.device, [&] {
    cuda::spmm(a.matrix, view, result.view(), transpose_a, epilogue, workspace.view(),
               launch.stream());
  });
  return result.finish();
}

template <class Format>
py::object linear_binding(py::handle x, const Handle<Format>& w, py::handle bias,
                          py::handle activation, bool accumulate, py::handle out) {
  constexpr const char* op = "linear";
  require_out(op, accumulate, out);
  const Launch launch(x, {op, "x"});
  const Import x_import = launch.read(x, {op, "x"});
  const std::optional<Import> bias_import = launch.read_optional(bias, {op, "bias"});
  Epilogue epilogue{.bias = view_of(bias_import), .accumulate = accumulate};
  read_activation(op, activation, epilogue);
  const TensorView& view = x_import.view();
  detail::Checker(op, DeviceType::cuda).device({"x", view}, w.matrix.device(), "w");
  Output result = launch.output(op, out, x, linear_shape(view, w.matrix), view.dtype);
  const Workspace workspace(x, cuda::linear_workspace(view, w.matrix));
  launch.run(view.device, [&] {
    cuda::linear(view, w.matrix, result.view(), epilogue, workspace.view(), launch.stream());
  });
  return result.finish();
}

template <class Format>
py::object sddmm_binding(py::handle a, py::handle b, const Handle<Format>& pattern, bool accumulate,
                         py::handle out) {
  constexpr const char* op = "sddmm";
  require_out(op, accumulate, out);
  const Launch launch(a, {op, "a"});
  const Import a_import = launch.read(a, {op, "a"});
  const Import b_import = launch.read(b, {op, "b"});
  const TensorView& view = a_import.view();
  detail::Checker(op, DeviceType::cuda).device({"a", view}, pattern.matrix.device(), "pattern");
  Output result = launch.output(op, out, a, values_shape(pattern.matrix), view.dtype);
  const Workspace workspace(a, cuda::sddmm_workspace(view, b_import.view(), pattern.matrix));
  launch.run(view.device, [&] {
    cuda::sddmm(view, b_import.view(), pattern.matrix, result.view(), accumulate, workspace.view(),
                launch.stream());
  });
  return result.finish();
}

template <class Format>
void bind_products(py::module_& module) {
  module.def("spmm", &spmm_binding<Format>, py::arg("a"), py::arg("b"), py::arg("transpose_a"),
             py::arg("bias"), py::arg("activation"), py::arg("accumulate"), py::arg("out"));
  module.def("linear", &linear_binding<Format>, py::arg("x"), py::arg("w"), py::arg("bias"),
             py::arg("activation"), py::arg("accumulate"), py::arg("out"));
  module.def("sddmm", &sddmm_binding<Format>, py::arg("a"), py::arg("b"), py::arg("pattern"),
             py::arg("accumulate"), py::arg("out"));
}

}  // namespace

void bind_cuda_ops(py::module_& module) {
  bind_products<Csr>(module);
  bind_products<Bsr>(module);
}

}  // namespace gossamer::python
