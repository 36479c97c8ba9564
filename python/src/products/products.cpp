#include "products/products.h"

#include <optional>
#include <type_traits>

#include "base/call.h"
#include "cuda/backend.h"
#include "formats/handle.h"
#include "gossamer/cuda.h"
#include "gossamer/products.h"
#include "products/batched.h"
#include "products/epilogue.h"

namespace gossamer::python {
namespace {

// The operations of CPUs have the same names and are found by the types of their arguments: those
// of GPUs take a workspace and a stream more.
using cuda::linear, cuda::sddmm, cuda::spmm;

template <class Backend>
py::object bind_spmm(Call<Backend>& call, py::handle a, py::handle b, bool transpose_a,
                     py::handle bias, py::handle activation, bool accumulate, py::handle out) {
  require_out(call.op(), accumulate, out);
  return with_matrix<Csr, Packed, cuda::PackedTiles, Bsr, Nm, GroupQuant>(
      call, "a", a, [&](const auto& matrix) {
        const Import b_import = call.read(b, "b");
        if constexpr (std::is_same_v<decltype(matrix), const Csr&>) {
          if (b_import.view().rank > 2) {
            return spmm_batched(call, a, b, transpose_a, false, bias, activation, accumulate, out);
          }
        }
        const std::optional<Import> bias_import = call.read_optional(bias, "bias");
        Epilogue epilogue{.bias = view_of(bias_import), .accumulate = accumulate};
        read_activation(call.op(), activation, epilogue);
        const TensorView& view = b_import.view();
        Output result = call.output(out, b, spmm_shape(matrix, view, transpose_a), view.dtype);
        const auto workspace = call.workspace(
            b, [](const auto&... operands) { return cuda::spmm_workspace(operands...); }, matrix,
            view, transpose_a);
        call.run(workspace, [&](const auto&... queue) {
          spmm(matrix, view, result.view(), transpose_a, epilogue, queue...);
        });
        return result.finish();
      });
}

template <class Backend>
py::object bind_linear(Call<Backend>& call, py::handle x, py::handle w, py::handle bias,
                       py::handle activation, bool accumulate, py::handle out) {
  require_out(call.op(), accumulate, out);
  return with_matrix<Csr, Packed, cuda::PackedTiles, Bsr, Nm, GroupQuant>(
      call, "w", w, [&](const auto& matrix) {
        const Import x_import = call.read(x, "x");
        const std::optional<Import> bias_import = call.read_optional(bias, "bias");
        Epilogue epilogue{.bias = view_of(bias_import), .accumulate = accumulate};
        read_activation(call.op(), activation, epilogue);
        const TensorView& view = x_import.view();
        Output result = call.output(out, x, linear_shape(view, matrix), view.dtype);
        const auto workspace = call.workspace(
            x, [](const auto&... operands) { return cuda::linear_workspace(operands...); }, view,
            matrix);
        call.run(workspace, [&](const auto&... queue) {
          linear(view, matrix, result.view(), epilogue, queue...);
        });
        return result.finish();
      });
}

template <class Backend>
py::object bind_sddmm(Call<Backend>& call, py::handle a, py::handle b, py::handle pattern,
                      bool accumulate, py::handle out) {
  require_out(call.op(), accumulate, out);
  return with_pattern<Csr, Bsr>(call, "pattern", pattern, [&](const auto& matrix) {
    const Import a_import = call.read(a, "a");
    const Import b_import = call.read(b, "b");
    const TensorView &a_view = a_import.view(), &b_view = b_import.view();
    if constexpr (std::is_same_v<decltype(matrix), const Csr&>) {
      if (a_view.rank > 2) {
        return sddmm_batched(call, a, b, pattern, 1.0, std::nullopt, accumulate, out);
      }
    }
    Output result = call.output(out, a, values_shape(matrix), a_view.dtype);
    const auto workspace = call.workspace(
        a, [](const auto&... operands) { return cuda::sddmm_workspace(operands...); }, a_view,
        b_view, matrix);
    call.run(workspace, [&](const auto&... queue) {
      sddmm(a_view, b_view, matrix, result.view(), accumulate, queue...);
    });
    return result.finish();
  });
}

}  // namespace

template <class Backend>
void bind_products(py::module_& module) {
  define(module, "spmm", &bind_spmm<Backend>, py::arg("a"), py::arg("b"), py::arg("transpose_a"),
         py::arg("bias"), py::arg("activation"), py::arg("accumulate"), py::arg("out"));
  define(module, "linear", &bind_linear<Backend>, py::arg("x"), py::arg("w"), py::arg("bias"),
         py::arg("activation"), py::arg("accumulate"), py::arg("out"));
  define(module, "sddmm", &bind_sddmm<Backend>, py::arg("a"), py::arg("b"), py::arg("pattern"),
         py::arg("accumulate"), py::arg("out"));
}

template void bind_products<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
