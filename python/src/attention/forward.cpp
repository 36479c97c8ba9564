#include "attention/forward.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attention/options.h"
#include "base/call.h"
#include "cuda/backend.h"
#include "formats/layout.h"
#include "gossamer/attention.h"
#include "gossamer/cuda.h"
#include "gossamer/error.h"

namespace gossamer::python {
namespace {

// The operations of CPUs have the same names and are found by the types of their arguments: those
// of GPUs take a workspace and a stream more.
using cuda::attention, cuda::attention_backward, cuda::attention_block_pool,
    cuda::attention_block_topk, cuda::attention_decode, cuda::merge_attention;

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

/// dq, dk, dv and, where they are wanted or there are sinks, dbias and dsinks.
template <class Backend>
py::object backward_binding(Call<Backend>& call, py::handle d_o, py::handle q, py::handle k,
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
  const OptionArrays<Backend> arrays(call, bias, sinks, cu_seqlens, cu_seqlens_k);
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
  const AttentionGradient gradient{.d_o = d_o_import.view(),
                                   .o = o_import.view(),
                                   .lse = lse_import.view(),
                                   .d_lse = view_of(d_lse_import)};
  const auto workspace = call.workspace(
      q, [](const auto&... operands) { return cuda::attention_backward_workspace(operands...); },
      gradient, pattern.layout);
  call.run(workspace, [&](const auto&... queue) {
    attention_backward(gradient, q_import.view(), k_import.view(), v_import.view(), pattern.layout,
                       options,
                       {.dq = q_slope.view(),
                        .dk = k_slope.view(),
                        .dv = v_slope.view(),
                        .dbias = view(bias_slope),
                        .dsinks = view(sink_slope)},
                       queue...);
  });
  const auto finished = [](std::optional<Output>& array) {
    return array ? array->finish() : py::none();
  };
  return py::make_tuple(q_slope.finish(), k_slope.finish(), v_slope.finish(), finished(bias_slope),
                        finished(sink_slope));
}

template <class Backend>
py::object decode_binding(Call<Backend>& call, py::handle q, py::handle k_cache, py::handle v_cache,
                          py::handle indptr, py::handle indices, py::handle lengths, bool causal,
                          std::optional<double> scale, std::optional<double> softcap,
                          py::handle sinks, py::handle out, py::handle lse) {
  const Import q_import = call.read(q, "q");
  const Import k_import = call.read(k_cache, "k_cache");
  const Import v_import = call.read(v_cache, "v_cache");
  const Import indptr_import = call.read(indptr, "indptr");
  const Import indices_import = call.read(indices, "indices");
  const std::optional<Import> lengths_import = call.read_optional(lengths, "lengths");
  const std::optional<Import> sinks_import = call.read_optional(sinks, "sinks");
  const TensorView& view = q_import.view();
  Output o = call.output(out, q, result_shape(view, v_import.view()), view.dtype, "out[0]");
  Output log = call.output(lse, q, lse_shape(view, false), DType::f32, "out[1]");
  AttentionOptions options;
  options.causal = causal;
  options.scale = scale;
  options.softcap = softcap;
  options.sinks = view_of(sinks_import);
  const DecodeKeys keys{.indptr = indptr_import.view(),
                        .indices = indices_import.view(),
                        .lengths = view_of(lengths_import)};
  const auto workspace = call.workspace(
      q, [](const auto&... operands) { return cuda::attention_decode_workspace(operands...); },
      view, k_import.view(), v_import.view(), keys);
  call.run(workspace, [&](const auto&... queue) {
    attention_decode(view, k_import.view(), v_import.view(), keys, options, o.view(), log.view(),
                     queue...);
  });
  return py::make_tuple(o.finish(), log.finish());
}

template <class Backend>
py::object merge_binding(Call<Backend>& call, py::sequence o_parts, py::sequence lse_parts,
                         py::handle out, py::handle lse) {
  std::vector<Import> imports;
  std::vector<TensorView> o_views, lse_views;
  for (const auto& part : o_parts) {
    imports.push_back(call.read(part, "o"));
    o_views.push_back(imports.back().view());
  }
  for (const auto& part : lse_parts) {
    imports.push_back(call.read(part, "lse"));
    lse_views.push_back(imports.back().view());
  }
  if (o_views.empty() || lse_views.empty()) {
    throw ValueError(std::string(call.op()) + ": there are no parts, expected at least one");
  }
  const py::object like = o_parts[0], log_like = lse_parts[0];
  Output o = call.output(out, like, shape_of(o_views[0]), o_views[0].dtype, "out[0]");
  Output log = call.output(lse, log_like, shape_of(lse_views[0]), DType::f32, "out[1]");
  const auto workspace = call.workspace(
      like, [](const auto&... operands) { return cuda::merge_attention_workspace(operands...); },
      o_views, lse_views);
  call.run(workspace, [&](const auto&... queue) {
    merge_attention(o_views, lse_views, o.view(), log.view(), queue...);
  });
  return py::make_tuple(o.finish(), log.finish());
}

template <class Backend>
py::object block_pool_binding(Call<Backend>& call, py::handle x, std::int64_t block,
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
  call.run([&](const auto&... queue) {
    attention_block_pool(view, block, how, pooled.view(), queue...);
  });
  return pooled.finish();
}

template <class Backend>
py::object block_topk_binding(Call<Backend>& call, py::handle q, py::handle pooled, std::int64_t k,
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
  const BlockTopkOptions options{.k = k,
                                 .rows = rows,
                                 .block = block,
                                 .causal = causal,
                                 .q_offset = q_offset,
                                 .keep_first = keep_first,
                                 .keep_local = keep_local};
  const auto workspace = call.workspace(
      q, [](const auto&... operands) { return cuda::attention_block_topk_workspace(operands...); },
      view, keys, view_of(min_import));
  call.run(workspace, [&](const auto&... queue) {
    attention_block_topk(view, keys, view_of(min_import), options, indices.view(), queue...);
  });
  return indices.finish();
}

}  // namespace

template <class Backend>
void bind_attention_forward(py::module_& module) {
  define(module, "attention", &attention_binding<Backend>, py::arg("q"), py::arg("k"), py::arg("v"),
         py::arg("layout"), py::arg("causal"), py::arg("before"), py::arg("after"),
         py::arg("q_offset"), py::arg("scale"), py::arg("softcap"), py::arg("bias"),
         py::arg("sinks"), py::arg("cu_seqlens"), py::arg("cu_seqlens_k"), py::arg("out"),
         py::arg("lse"));
  define(module, "attention_backward", &backward_binding<Backend>, py::arg("do"), py::arg("q"),
         py::arg("k"), py::arg("v"), py::arg("o"), py::arg("lse"), py::arg("layout"),
         py::arg("causal"), py::arg("before"), py::arg("after"), py::arg("q_offset"),
         py::arg("scale"), py::arg("softcap"), py::arg("bias"), py::arg("sinks"),
         py::arg("cu_seqlens"), py::arg("cu_seqlens_k"), py::arg("dlse"), py::arg("with_dbias"),
         py::arg("dq"), py::arg("dk"), py::arg("dv"));
  define(module, "attention_decode", &decode_binding<Backend>, py::arg("q"), py::arg("k_cache"),
         py::arg("v_cache"), py::arg("indptr"), py::arg("indices"), py::arg("lengths"),
         py::arg("causal"), py::arg("scale"), py::arg("softcap"), py::arg("sinks"), py::arg("out"),
         py::arg("lse"));
  define(module, "merge_attention", &merge_binding<Backend>, py::arg("o"), py::arg("lse"),
         py::arg("out"), py::arg("out_lse"));
  define(module, {"attention_block_pool", "block_pool"}, &block_pool_binding<Backend>, py::arg("x"),
         py::arg("block"), py::arg("mode"), py::arg("out"));
  define(module, {"attention_block_topk", "block_topk"}, &block_topk_binding<Backend>, py::arg("q"),
         py::arg("pooled"), py::arg("k"), py::arg("pooled_min"), py::arg("rows"), py::arg("block"),
         py::arg("causal"), py::arg("q_offset"), py::arg("keep_first"), py::arg("keep_local"),
         py::arg("out"));
}

template void bind_attention_forward<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
