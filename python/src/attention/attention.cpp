#include "attention/attention.h"

#include <cstdint>
#include <optional>

#include "attention/options.h"
#include "base/call.h"
#include "formats/layout.h"
#include "gossamer/attention.h"

namespace gossamer::python {
namespace {

std::int64_t workspace_binding(Call<Cpu>& call, py::handle q, py::handle k, py::handle v,
                               py::handle layout, py::handle cu_seqlens, py::handle cu_seqlens_k) {
  const Import q_import = call.read(q, "q");
  const Import k_import = call.read(k, "k");
  const Import v_import = call.read(v, "v");
  const LayoutHandle& pattern = read_layout(call, layout);
  const std::optional<Import> cu_q = call.read_optional(cu_seqlens, "cu_seqlens");
  const std::optional<Import> cu_k = call.read_optional(cu_seqlens_k, "cu_seqlens_k");
  std::int64_t bytes = 0;
  call.run([&] {
    bytes = attention_workspace(q_import.view(), k_import.view(), v_import.view(), pattern.layout,
                                {.cu_q = view_of(cu_q), .cu_k = view_of(cu_k)});
  });
  return bytes;
}

}  // namespace

void bind_attention(py::module_& module) {
  define(module, "attention_workspace", &workspace_binding, py::arg("q"), py::arg("k"),
         py::arg("v"), py::arg("layout"), py::arg("cu_seqlens"), py::arg("cu_seqlens_k"));
}

}  // namespace gossamer::python
