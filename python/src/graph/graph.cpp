#include "graph/graph.h"

#include <optional>

#include "base/call.h"
#include "formats/handle.h"
#include "gossamer/graph.h"

namespace gossamer::python {
namespace {

py::object edge_score_binding(Call<Cpu>& call, py::handle a, py::handle out) {
  return with_any_csr<false>(call, "a", a, [&](const PatternView& view) {
    Output scores = call.output(out, view.like, {view.matrix.nnz()}, DType::f32);
    call.run([&] { graph::edge_score(view.matrix, scores.view()); });
    return scores.finish();
  });
}

py::object strength_binding(Call<Cpu>& call, py::handle a, int axis, py::handle out) {
  return with_held<Csr>(call, "a", a, [&](const CsrHandle& held) {
    const Csr& matrix = held.matrix;
    const DType dtype = matrix.dtype() == DType::f64 ? DType::f64 : DType::f32;
    Output sums =
        call.output(out, held.values.array, {axis == 1 ? matrix.rows() : matrix.cols()}, dtype);
    call.run([&] { graph::strength(matrix, axis, sums.view()); });
    return sums.finish();
  });
}

/// The values' shape with `size` in place of the entries.
Shape sets_shape(const PatternView& a, std::int64_t size) {
  Shape shape;
  if (a.values) shape.append(*a.values, 0, a.values->rank - 1);
  shape.push_back(size);
  return shape;
}

DType sums_type(DType values) { return values == DType::f64 ? DType::f64 : DType::f32; }

py::object row_sum_binding(Call<Cpu>& call, py::handle a, double power, py::handle out) {
  return with_any_csr<true>(call, "a", a, [&](const PatternView& view) {
    const DType dtype = view.values ? sums_type(view.values->dtype) : DType::f32;
    Output sums = call.output(out, view.like, sets_shape(view, view.matrix.rows()), dtype);
    call.run([&] { graph::row_sum(view.matrix, view.values, sums.view(), power); });
    return sums.finish();
  });
}

py::object row_max_binding(Call<Cpu>& call, py::handle a, py::handle out) {
  return with_any_csr<true>(call, "a", a, [&](const PatternView& view) {
    if (!view.values) throw ValueError("row_max: a.values is None, expected an array");
    Output largest = call.output(out, view.like, sets_shape(view, view.matrix.rows()),
                                 sums_type(view.values->dtype));
    call.run([&] { graph::row_max(view.matrix, *view.values, largest.view()); });
    return largest.finish();
  });
}

py::object scale_binding(Call<Cpu>& call, py::handle a, py::handle rows, py::handle cols,
                         py::handle out) {
  return with_any_csr<true>(call, "a", a, [&](const PatternView& view) {
    const std::optional<Import> row_import = call.read_optional(rows, "rows");
    const std::optional<Import> col_import = call.read_optional(cols, "cols");
    const std::optional<TensorView> row_view = view_of(row_import), col_view = view_of(col_import);
    DType dtype = DType::f32;
    if (view.values) {
      dtype = view.values->dtype;
    } else if (row_view || col_view) {
      dtype = sums_type(row_view ? row_view->dtype : col_view->dtype);
    }
    Output scaled = call.output(out, view.like, sets_shape(view, view.matrix.nnz()), dtype);
    call.run([&] {
      graph::scale_rows_cols(view.matrix, view.values, row_view, col_view, scaled.view());
    });
    return scaled.finish();
  });
}

}  // namespace

void bind_graph(py::module_& module) {
  define(module, "edge_score", &edge_score_binding, py::arg("a"), py::arg("out"));
  define(module, "row_sum", &row_sum_binding, py::arg("a"), py::arg("power"), py::arg("out"));
  define(module, "row_max", &row_max_binding, py::arg("a"), py::arg("out"));
  define(module, "scale_rows_cols", &scale_binding, py::arg("a"), py::arg("rows"), py::arg("cols"),
         py::arg("out"));
  define(module, "strength", &strength_binding, py::arg("a"), py::arg("axis"), py::arg("out"));
}

}  // namespace gossamer::python
