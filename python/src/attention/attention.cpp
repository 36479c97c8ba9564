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

}  // namespace

void bind_attention(py::module_& module) {
  define(module, "attention", &attention_binding, py::arg("q"), py::arg("k"), py::arg("v"),
         py::arg("layout"), py::arg("causal"), py::arg("before"), py::arg("after"),
         py::arg("q_offset"), py::arg("scale"), py::arg("softcap"), py::arg("bias"),
         py::arg("sinks"), py::arg("cu_seqlens"), py::arg("cu_seqlens_k"), py::arg("out"),
         py::arg("lse"));
}

}  // namespace gossamer::python
