#include "attention/attention.h"

#include <cstdint>
#include <optional>

#include "base/call.h"
#include "formats/layout.h"
#include "gossamer/attention.h"

namespace gossamer::python {
namespace {

using Number = std::optional<std::int64_t>;

/// The arrays of AttentionOptions, which live as long as the call.
struct OptionArrays {
  OptionArrays(Call<Cpu>& call, py::handle bias_array, py::handle sinks_array, py::handle starts,
               py::handle key_starts)
      : bias(call.read_optional(bias_array, "bias")),
        sinks(call.read_optional(sinks_array, "sinks")),
        cu_q(call.read_optional(starts, "cu_seqlens")),
        cu_k(call.read_optional(key_starts, "cu_seqlens_k")) {}

  [[nodiscard]] AttentionOptions options(bool causal, Number before, Number after, Number q_offset,
                                         std::optional<double> scale,
                                         std::optional<double> softcap) const {
    return {.causal = causal,
            .before = before,
            .after = after,
            .q_offset = q_offset,
            .scale = scale,
            .softcap = softcap,
            .bias = view_of(bias),
            .sinks = view_of(sinks),
            .cu_q = view_of(cu_q),
            .cu_k = view_of(cu_k)};
  }

  std::optional<Import> bias, sinks, cu_q, cu_k;
};

/// The shapes of o and lse. Where q or v has another number of axes, the operation says so.
Shape result_shape(const TensorView& q, const TensorView& v) {
  Shape shape;
  shape.append(q, 0, q.rank > 0 ? q.rank - 1 : 0);
  shape.push_back(v.rank > 0 ? v.shape[static_cast<std::size_t>(v.rank) - 1] : 1);
  return shape;
}

Shape lse_shape(const TensorView& q, bool packed) {
  const auto& s = q.shape;
  if (packed) return {q.rank > 1 ? s[1] : 1, q.rank > 0 ? s[0] : 1};
  return {s[0], q.rank > 2 ? s[2] : 1, q.rank > 1 ? s[1] : 1};
}

py::object attention_binding(Call<Cpu>& call, py::handle q, py::handle k, py::handle v,
                             py::handle layout, bool causal, Number before, Number after,
                             Number q_offset, std::optional<double> scale,
                             std::optional<double> softcap, py::handle bias, py::handle sinks,
                             py::handle cu_seqlens, py::handle cu_seqlens_k, py::handle out,
                             py::handle lse) {
  const Import q_import = call.read(q, "q");
  const Import k_import = call.read(k, "k");
  const Import v_import = call.read(v, "v");
  const LayoutHandle& pattern = read_layout(call, layout);
  const OptionArrays arrays(call, bias, sinks, cu_seqlens, cu_seqlens_k);
  const AttentionOptions options = arrays.options(causal, before, after, q_offset, scale, softcap);
  const TensorView& view = q_import.view();
  Output o = call.output(out, q, result_shape(view, v_import.view()), view.dtype, "out[0]");
  Output log = call.output(lse, q, lse_shape(view, options.cu_q.has_value()), DType::f32, "out[1]");
  call.run([&] {
    attention(view, k_import.view(), v_import.view(), pattern.layout, options, o.view(),
              log.view());
  });
  return py::make_tuple(o.finish(), log.finish());
}

/// dq, dk, dv and, where they are wanted or there are sinks, dbias and dsinks.
py::object backward_binding(Call<Cpu>& call, py::handle d_o, py::handle q, py::handle k,
                            py::handle v, py::handle o, py::handle lse, py::handle layout,
                            bool causal, Number before, Number after, Number q_offset,
                            std::optional<double> scale, std::optional<double> softcap,
                            py::handle bias, py::handle sinks, py::handle cu_seqlens,
                            py::handle cu_seqlens_k, py::handle d_lse, bool want_dbias,
                            py::handle dq, py::handle dk, py::handle dv) {
  const Import d_o_import = call.read(d_o, "do");
  const Import q_import = call.read(q, "q");
  const Import k_import = call.read(k, "k");
  const Import v_import = call.read(v, "v");
  const Import o_import = call.read(o, "o");
  const Import lse_import = call.read(lse, "lse");
  const std::optional<Import> d_lse_import = call.read_optional(d_lse, "dlse");
  const LayoutHandle& pattern = read_layout(call, layout);
  const OptionArrays arrays(call, bias, sinks, cu_seqlens, cu_seqlens_k);
  const AttentionOptions options = arrays.options(causal, before, after, q_offset, scale, softcap);
  const auto like = [&](py::handle out, py::handle array, const Import& import, const char* name) {
    return call.output(out, array, shape_of(import.view()), import.view().dtype, name);
  };
  Output q_slope = like(dq, q, q_import, "dq");
  Output k_slope = like(dk, k, k_import, "dk");
  Output v_slope = like(dv, v, v_import, "dv");
  std::optional<Output> bias_slope, sink_slope;
  if (want_dbias && arrays.bias) {
    bias_slope.emplace(call.create("dbias", bias, shape_of(arrays.bias->view()), DType::f32));
  }
  if (arrays.sinks) {
    sink_slope.emplace(call.create("dsinks", sinks, shape_of(arrays.sinks->view()), DType::f32));
  }
  const auto view = [](std::optional<Output>& array) {
    return array ? std::optional(array->view()) : std::nullopt;
  };
  call.run([&] {
    attention_backward({.d_o = d_o_import.view(),
                        .o = o_import.view(),
                        .lse = lse_import.view(),
                        .d_lse = view_of(d_lse_import)},
                       q_import.view(), k_import.view(), v_import.view(), pattern.layout, options,
                       {.dq = q_slope.view(),
                        .dk = k_slope.view(),
                        .dv = v_slope.view(),
                        .dbias = view(bias_slope),
                        .dsinks = view(sink_slope)});
  });
  const auto finished = [](std::optional<Output>& array) {
    return array ? array->finish() : py::none();
  };
  return py::make_tuple(q_slope.finish(), k_slope.finish(), v_slope.finish(), finished(bias_slope),
                        finished(sink_slope));
}

}  // namespace

void bind_attention(py::module_& module) {
  define(module, "attention", &attention_binding, py::arg("q"), py::arg("k"), py::arg("v"),
         py::arg("layout"), py::arg("causal"), py::arg("before"), py::arg("after"),
         py::arg("q_offset"), py::arg("scale"), py::arg("softcap"), py::arg("bias"),
         py::arg("sinks"), py::arg("cu_seqlens"), py::arg("cu_seqlens_k"), py::arg("out"),
         py::arg("lse"));
  define(module, "attention_backward", &backward_binding, py::arg("do"), py::arg("q"), py::arg("k"),
         py::arg("v"), py::arg("o"), py::arg("lse"), py::arg("layout"), py::arg("causal"),
         py::arg("before"), py::arg("after"), py::arg("q_offset"), py::arg("scale"),
         py::arg("softcap"), py::arg("bias"), py::arg("sinks"), py::arg("cu_seqlens"),
         py::arg("cu_seqlens_k"), py::arg("dlse"), py::arg("with_dbias"), py::arg("dq"),
         py::arg("dk"), py::arg("dv"));
}

}  // namespace gossamer::python
