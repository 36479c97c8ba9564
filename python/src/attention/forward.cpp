#include "attention/forward.h"

#include <cstdint>
#include <optional>

#include "attention/options.h"
#include "base/call.h"
#include "cuda/backend.h"
#include "formats/layout.h"
#include "gossamer/attention.h"
#include "gossamer/cuda.h"

namespace gossamer::python {
namespace {

// The operations of CPUs have the same names and are found by the types of their arguments: those
// of GPUs take a workspace and a stream more.
using cuda::attention;

template <class Backend>
py::object attention_binding(Call<Backend>& call, py::handle q, py::handle k, py::handle v,
                             py::handle layout, bool causal, Number before, Number after,
                             Number q_offset, std::optional<double> scale,
                             std::optional<double> softcap, py::handle bias, py::handle sinks,
                             py::handle cu_seqlens, py::handle cu_seqlens_k, py::handle out,
                             py::handle lse) {
  const Import q_import = call.read(q, "q");
  const Import k_import = call.read(k, "k");
  const Import v_import = call.read(v, "v");
  const LayoutHandle& pattern = read_layout(call, layout);
  const OptionArrays<Backend> arrays(call, bias, sinks, cu_seqlens, cu_seqlens_k);
  const AttentionOptions options = arrays.options(causal, before, after, q_offset, scale, softcap);
  const TensorView& view = q_import.view();
  Output o = call.output(out, q, result_shape(view, v_import.view()), view.dtype, "out[0]");
  Output log = call.output(lse, q, lse_shape(view, options.cu_q.has_value()), DType::f32, "out[1]");
  const auto workspace = call.workspace(
      q, [](const auto&... operands) { return cuda::attention_workspace(operands...); },
      pattern.layout);
  call.run(workspace, [&](const auto&... queue) {
    attention(view, k_import.view(), v_import.view(), pattern.layout, options, o.view(), log.view(),
              queue...);
  });
  return py::make_tuple(o.finish(), log.finish());
}

}  // namespace

template <class Backend>
void bind_attention_forward(py::module_& module) {
  define(module, "attention", &attention_binding<Backend>, py::arg("q"), py::arg("k"), py::arg("v"),
         py::arg("layout"), py::arg("causal"), py::arg("before"), py::arg("after"),
         py::arg("q_offset"), py::arg("scale"), py::arg("softcap"), py::arg("bias"),
         py::arg("sinks"), py::arg("cu_seqlens"), py::arg("cu_seqlens_k"), py::arg("out"),
         py::arg("lse"));
}

template void bind_attention_forward<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
