#include "attention/csr.h"

#include <optional>
#include <string>

#include "base/call.h"
#include "base/tensor.h"
#include "cuda/backend.h"
#include "formats/handle.h"
#include "gossamer/csr_attention.h"
#include "gossamer/cuda.h"

namespace gossamer::python {
namespace {

// The operations of CPUs have the same names and are found by the types of their arguments: those
// of GPUs take a stream more.
using cuda::csr_attention, cuda::csr_attention_backward, cuda::csr_softmax,
    cuda::csr_softmax_backward;

DType lse_type(DType values) { return values == DType::f64 ? DType::f64 : DType::f32; }

const TensorView& require_values(Where where, const PatternView& a) {
  if (!a.values) throw ValueError(where.text() + ".values is None, expected an array");
  return *a.values;
}

template <class Backend>
py::object csr_softmax_binding(Call<Backend>& call, py::handle a, py::handle out) {
  return with_any_csr<true>(call, "a", a, [&](const PatternView& view) {
    call.follow(view.like, "values");
    const TensorView& x = require_values(call.where("a"), view);
    Output result = call.output(out, view.like, shape_of(x), x.dtype);
    call.run([&](const auto&... queue) { csr_softmax(view.matrix, x, result.view(), queue...); });
    return result.finish();
  });
}

template <class Backend>
py::object csr_softmax_backward_binding(Call<Backend>& call, py::handle p, py::handle grad,
                                        py::handle out) {
  return with_any_csr<true>(call, "p", p, [&](const PatternView& view) {
    call.follow(view.like, "values");
    const TensorView& y = require_values(call.where("p"), view);
    const Import dy = call.read(grad, "grad");
    Output result = call.output(out, view.like, shape_of(y), y.dtype);
    call.run([&](const auto&... queue) {
      csr_softmax_backward(view.matrix, y, dy.view(), result.view(), queue...);
    });
    return result.finish();
  });
}

CsrAttentionOptions csr_options(const char* op, const std::string& score,
                                std::optional<double> scale, double slope,
                                const std::optional<Import>& bias) {
  CsrAttentionOptions options{.scale = scale, .slope = slope, .bias = view_of(bias)};
  if (score == "gat") {
    options.score = CsrAttentionOptions::Score::gat;
  } else if (score != "dot") {
    throw ValueError(std::string(op) + ": score is '" + score + "', expected 'dot' or 'gat'");
  }
  return options;
}

/// The shapes of o and lse for queries; where these are no such array, the operation says so.
Shape shape_of_csr_o(const TensorView& q, const TensorView& v, bool gat) {
  Shape shape;
  shape.append(q, 0, std::max(q.rank - (gat ? 0 : 1), 0));
  if (v.rank > 0) shape.append(v, v.rank - 1, v.rank);
  return shape;
}
Shape shape_of_csr_lse(const TensorView& q, bool gat) {
  const int leading = q.rank - (gat ? 0 : 1);
  Shape shape;
  if (leading > 2) shape.append(q, 0, leading - 2);
  if (leading > 1) shape.append(q, leading - 1, leading);
  if (leading > 0) shape.append(q, std::max(leading - 2, 0), std::max(leading - 2, 0) + 1);
  return shape;
}

template <class Backend>
py::object csr_attention_binding(Call<Backend>& call, py::handle q, py::handle k, py::handle v,
                                 py::handle pattern, const std::string& score,
                                 std::optional<double> scale, double slope, py::handle bias,
                                 py::handle out, py::handle lse) {
  return with_any_csr<false>(call, "pattern", pattern, [&](const PatternView& view) {
    const Import q_import = call.read(q, "q"), k_import = call.read(k, "k");
    const Import v_import = call.read(v, "v");
    const std::optional<Import> bias_import = call.read_optional(bias, "bias");
    const CsrAttentionOptions options = csr_options(call.op(), score, scale, slope, bias_import);
    const TensorView& queries = q_import.view();
    const bool gat = options.score == CsrAttentionOptions::Score::gat;
    Output o = call.output(out, q, shape_of_csr_o(queries, v_import.view(), gat), queries.dtype);
    Output sums =
        call.output(lse, q, shape_of_csr_lse(queries, gat), lse_type(queries.dtype), "lse");
    call.run([&](const auto&... queue) {
      csr_attention(queries, k_import.view(), v_import.view(), view.matrix, o.view(), sums.view(),
                    options, queue...);
    });
    return py::object(py::make_tuple(o.finish(), sums.finish()));
  });
}

template <class Backend>
py::object csr_attention_backward_binding(Call<Backend>& call, py::handle grad, py::handle q,
                                          py::handle k, py::handle v, py::handle o, py::handle lse,
                                          py::handle pattern, const std::string& score,
                                          std::optional<double> scale, double slope,
                                          py::handle bias, py::handle dlse, const py::tuple& outs) {
  return with_any_csr<false>(call, "pattern", pattern, [&](const PatternView& view) {
    const Import grad_import = call.read(grad, "grad");
    const Import q_import = call.read(q, "q"), k_import = call.read(k, "k");
    const Import v_import = call.read(v, "v"), o_import = call.read(o, "o");
    const Import lse_import = call.read(lse, "lse");
    const std::optional<Import> bias_import = call.read_optional(bias, "bias");
    const std::optional<Import> dlse_import = call.read_optional(dlse, "dlse");
    const CsrAttentionOptions options = csr_options(call.op(), score, scale, slope, bias_import);
    const auto like = [&](py::handle array, const Import& import, int i, const char* name) {
      return call.output(outs[static_cast<std::size_t>(i)], array, shape_of(import.view()),
                         import.view().dtype, name);
    };
    Output dq = like(q, q_import, 0, "dq"), dk = like(k, k_import, 1, "dk");
    Output dv = like(v, v_import, 2, "dv");
    std::optional<Output> dbias;
    if (bias_import) dbias.emplace(like(bias, *bias_import, 3, "dbias"));
    const auto workspace = call.workspace(
        q,
        [](const auto&... operands) { return cuda::csr_attention_backward_workspace(operands...); },
        q_import.view(), view.matrix, options, dbias.has_value());
    call.run(workspace, [&](const auto&... queue) {
      csr_attention_backward(grad_import.view(), q_import.view(), k_import.view(), v_import.view(),
                             o_import.view(), lse_import.view(), view.matrix, dq.view(), dk.view(),
                             dv.view(), dbias ? std::optional(dbias->view()) : std::nullopt,
                             view_of(dlse_import), options, queue...);
    });
    if (!dbias) return py::object(py::make_tuple(dq.finish(), dk.finish(), dv.finish()));
    return py::object(py::make_tuple(dq.finish(), dk.finish(), dv.finish(), dbias->finish()));
  });
}

}  // namespace

template <class Backend>
void bind_csr_attention(py::module_& module) {
  define(module, "csr_softmax", &csr_softmax_binding<Backend>, py::arg("a"), py::arg("out"));
  define(module, "csr_softmax_backward", &csr_softmax_backward_binding<Backend>, py::arg("p"),
         py::arg("grad"), py::arg("out"));
  define(module, "csr_attention", &csr_attention_binding<Backend>, py::arg("q"), py::arg("k"),
         py::arg("v"), py::arg("pattern"), py::arg("score"), py::arg("scale"), py::arg("slope"),
         py::arg("bias"), py::arg("out"), py::arg("lse"));
  define(module, "csr_attention_backward", &csr_attention_backward_binding<Backend>,
         py::arg("grad"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("o"), py::arg("lse"),
         py::arg("pattern"), py::arg("score"), py::arg("scale"), py::arg("slope"), py::arg("bias"),
         py::arg("dlse"), py::arg("outs"));
}

template void bind_csr_attention<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
