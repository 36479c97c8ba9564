#include "products/batched.h"

#include <algorithm>
#include <optional>
#include <string>

#include "base/tensor.h"
#include "cuda/backend.h"
#include "formats/handle.h"
#include "gossamer/cuda.h"
#include "gossamer/products.h"
#include "products/epilogue.h"

namespace gossamer::python {
namespace {

// The operations of CPUs have the same names and are found by the types of their arguments.
using cuda::sddmm, cuda::spmm;

/// Leading axes that the result of sddmm lacks, since the pattern has rows for them. Where nothing
/// fits, the operation says so.
int stacked_axes(const TensorView& a, std::int64_t rows) {
  const int leading = a.rank - 2;
  if (leading <= 0) return 0;
  const auto extent = [&](int axis) { return a.shape[static_cast<std::size_t>(axis)]; };
  if (rows == extent(leading)) return 0;
  std::int64_t all = 1;
  for (int d = 0; d <= leading; ++d) {
    if (__builtin_mul_overflow(all, extent(d), &all)) return 0;
  }
  return rows == all ? leading : 1;
}

}  // namespace

template <class Backend>
py::object sddmm_batched(Call<Backend>& call, py::handle a, py::handle b, py::handle pattern,
                         double scale, const std::optional<std::string>& dtype, bool accumulate,
                         py::handle out) {
  if (accumulate && out.is_none()) {
    throw ValueError(std::string(call.op()) + ": accumulate is True, expected out");
  }
  return with_any_csr<false>(call, "pattern", pattern, [&](const PatternView& view) {
    const Import a_import = call.read(a, "a"), b_import = call.read(b, "b");
    const TensorView& left = a_import.view();
    DType type = left.dtype;
    if (dtype) {
      type = dtype_named(*dtype, call.where("dtype").text());
      if (type != left.dtype && (type != DType::f32 || size_of(left.dtype) != 2)) {
        throw ValueError(std::string(call.op()) + ": dtype is " + *dtype + ", expected " +
                         name_of(left.dtype) +
                         (size_of(left.dtype) == 2 ? " or float32" : ", that of a"));
      }
    }
    Shape shape;
    shape.append(left, 0, std::max(left.rank - 2 - stacked_axes(left, view.matrix.rows()), 0));
    shape.push_back(view.matrix.nnz());
    Output result = call.output(out, a, shape, type);
    call.run([&](const auto&... queue) {
      sddmm(left, b_import.view(), view.matrix, result.view(),
            SddmmOptions{.scale = scale, .accumulate = accumulate}, queue...);
    });
    return result.finish();
  });
}

template <class Backend>
py::object spmm_batched(Call<Backend>& call, py::handle a, py::handle b, bool transpose_a,
                        bool stacked, py::handle bias, py::handle activation, bool accumulate,
                        py::handle out) {
  require_out(call.op(), accumulate, out);
  return with_any_csr<true>(call, "a", a, [&](const PatternView& view) {
    if (!view.values) {
      throw ValueError(call.where("a").text() + ".values is None, expected an array");
    }
    const TensorView& values = *view.values;
    const Import b_import = call.read(b, "b");
    const std::optional<Import> bias_import = call.read_optional(bias, "bias");
    Epilogue epilogue{.bias = view_of(bias_import), .accumulate = accumulate};
    read_activation(call.op(), activation, epilogue);
    const TensorView& right = b_import.view();
    Shape shape;
    const bool same_b = right.rank == 2 && !stacked;
    const TensorView& axes = same_b ? values : right;
    const int leading = same_b ? values.rank - 1 : std::max(right.rank - 2, 0);
    shape.append(axes, 0, leading);
    std::int64_t rows = view.matrix.rows();
    if (stacked && !transpose_a) {
      const int first = values.rank == 1 ? 0 : std::max(leading - 1, 0);
      for (int d = first; d < leading; ++d) {
        rows /= std::max<std::int64_t>(right.shape[static_cast<std::size_t>(d)], 1);
      }
    }
    shape.push_back(transpose_a ? view.matrix.cols() : rows);
    if (right.rank > 0) shape.append(right, right.rank - 1, right.rank);
    Output result = call.output(out, b, shape, right.dtype);
    const auto workspace = call.workspace(
        b, [](const auto&... operands) { return cuda::spmm_workspace(operands...); }, view.matrix,
        values, right, transpose_a, stacked);
    call.run(workspace, [&](const auto&... queue) {
      spmm(view.matrix, values, right, result.view(), transpose_a, stacked, epilogue, queue...);
    });
    return result.finish();
  });
}

template <class Backend>
void bind_batched_products(py::module_& module) {
  define(module, {"sddmm_batched", "sddmm"}, &sddmm_batched<Backend>, py::arg("a"), py::arg("b"),
         py::arg("pattern"), py::arg("scale"), py::arg("dtype"), py::arg("accumulate"),
         py::arg("out"));
  define(module, {"spmm_batched", "spmm"}, &spmm_batched<Backend>, py::arg("a"), py::arg("b"),
         py::arg("transpose_a"), py::arg("stacked"), py::arg("bias"), py::arg("activation"),
         py::arg("accumulate"), py::arg("out"));
}

template py::object sddmm_batched(Call<GOSSAMER_BACKEND>&, py::handle, py::handle, py::handle,
                                  double, const std::optional<std::string>&, bool, py::handle);
template py::object spmm_batched(Call<GOSSAMER_BACKEND>&, py::handle, py::handle, bool, bool,
                                 py::handle, py::handle, bool, py::handle);
template void bind_batched_products<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
