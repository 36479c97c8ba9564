#include "attention/attention.h"

#include <cstdint>
#include <optional>
#include <string>

#include "attention/options.h"
#include "base/call.h"
#include "formats/layout.h"
#include "gossamer/attention.h"
#include "gossamer/error.h"

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

py::object block_pool_binding(Call<Cpu>& call, py::handle x, std::int64_t block,
                              const std::string& mode, py::handle out) {
  PoolMode how = PoolMode::mean;
  if (mode == "max") {
    how = PoolMode::max;
  } else if (mode == "min") {
    how = PoolMode::min;
  } else if (mode != "mean") {
    throw ValueError(call.where("mode").text() + " is '" + mode +
                     "', expected 'mean', 'max' or 'min'");
  }
  const Import import = call.read(x, "x");
  const TensorView& view = import.view();
  Shape shape = shape_of(view);
  // A block without rows is for the operation to refuse.
  const std::int64_t length = view.rank > 1 ? view.shape[1] : 0;
  if (view.rank > 1) shape.extents[1] = block < 1 ? 0 : length / block + (length % block != 0);
  Output pooled = call.output(out, x, shape, DType::f32);
  call.run([&] { attention_block_pool(view, block, how, pooled.view()); });
  return pooled.finish();
}

py::object block_topk_binding(Call<Cpu>& call, py::handle q, py::handle pooled, std::int64_t k,
                              py::handle pooled_min, std::int64_t rows, std::int64_t block,
                              bool causal, std::int64_t q_offset, std::int64_t keep_first,
                              std::int64_t keep_local, py::handle out) {
  const Import q_import = call.read(q, "q");
  const Import pooled_import = call.read(pooled, "pooled");
  const std::optional<Import> min_import = call.read_optional(pooled_min, "pooled_min");
  const TensorView &view = q_import.view(), &keys = pooled_import.view();
  Shape shape;
  shape.append(view, 0, view.rank < 2 ? view.rank : 2);
  shape.push_back(keys.rank > 2 ? keys.shape[2] : 1);
  shape.push_back(k < 0 ? 0 : k);
  Output indices = call.output(out, q, shape, DType::i32);
  call.run([&] {
    attention_block_topk(view, keys, view_of(min_import),
                         {.k = k,
                          .rows = rows,
                          .block = block,
                          .causal = causal,
                          .q_offset = q_offset,
                          .keep_first = keep_first,
                          .keep_local = keep_local},
                         indices.view());
  });
  return indices.finish();
}

}  // namespace

void bind_attention(py::module_& module) {
  define(module, "attention_workspace", &workspace_binding, py::arg("q"), py::arg("k"),
         py::arg("v"), py::arg("layout"), py::arg("cu_seqlens"), py::arg("cu_seqlens_k"));
  define(module, {"attention_block_pool", "block_pool"}, &block_pool_binding, py::arg("x"),
         py::arg("block"), py::arg("mode"), py::arg("out"));
  define(module, {"attention_block_topk", "block_topk"}, &block_topk_binding, py::arg("q"),
         py::arg("pooled"), py::arg("k"), py::arg("pooled_min"), py::arg("rows"), py::arg("block"),
         py::arg("causal"), py::arg("q_offset"), py::arg("keep_first"), py::arg("keep_local"),
         py::arg("out"));
}

}  // namespace gossamer::python
