#include "formats/lists.h"

#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "base/call.h"
#include "cuda/backend.h"
#include "gossamer/cuda.h"
#include "gossamer/layout.h"

namespace gossamer::python {

namespace {

using Sides = std::pair<std::int64_t, std::int64_t>;

/// The layout of what a source keeps, whose arrays are of the framework of `like`.
template <class Backend, class Source>
py::object build_lists(Call<Backend>& call, py::handle like, const Source& source,
                       const LayoutShape& shape, Sides block) {
  // The operation refuses what has no sensible shape.
  std::int64_t rows = 0;
  if (__builtin_mul_overflow(shape.batch, shape.heads, &rows) ||
      __builtin_mul_overflow(rows, shape.rows, &rows) ||
      rows > std::numeric_limits<std::int32_t>::max()) {
    rows = 0;
  }
  Output indptr = call.create("indptr", like, {rows + 1}, DType::i32);
  const auto workspace = call.workspace(like, [] { return cuda::layout_count_workspace(); });
  const std::int64_t blocks = call.run(workspace, [&](const auto&... queue) {
    if constexpr (sizeof...(queue) == 0) {
      return layout_count(source, indptr.view()).blocks;
    } else {
      return cuda::layout_count(source, indptr.view(), queue...);
    }
  });
  Output indices = call.create("indices", like, {blocks}, DType::i32);
  call.run([&](const auto&... queue) {
    if constexpr (sizeof...(queue) == 0) {
      layout_fill(source, {.indptr = indptr.view(), .indices = indices.view()});
    } else {
      cuda::layout_fill(source, indptr.view(), indices.view(), queue...);
    }
  });
  const py::object layout = py::module_::import("gossamer._core").attr("Layout");
  const auto extents = py::make_tuple(shape.batch, shape.heads, shape.rows, shape.cols);
  return layout(indptr.finish(), indices.finish(), py::none(), py::none(), extents,
                py::make_tuple(block.first, block.second), false);
}

template <class Backend>
py::object from_mask_binding(Call<Backend>& call, py::handle mask, Sides block) {
  const Import import = call.read(mask, "mask");
  const TensorView view = of_rank(call.where("mask"), import.view(), 4);
  const auto& s = view.shape;
  return build_lists(call, mask, BlockMask{view},
                     {.batch = s[0], .heads = s[1], .rows = s[2], .cols = s[3]}, block);
}

template <class Backend>
py::object lists_layout(Call<Backend>& call, py::handle like, const BlockLists& source,
                        Sides block) {
  const auto& s = source.indices.shape;
  return build_lists(call, like, source,
                     {.batch = s[0], .heads = s[1], .rows = s[2], .cols = source.cols}, block);
}

template <class Backend>
py::object from_lists_binding(Call<Backend>& call, py::handle indices, py::handle counts,
                              std::int64_t cols, Sides block) {
  const Import import = call.read(indices, "indices");
  const std::optional<Import> lengths = call.read_optional(counts, "counts");
  std::optional<TensorView> length;
  if (lengths) length = of_rank(call.where("counts"), lengths->view(), 3);
  return lists_layout(call, indices,
                      BlockLists{.counts = length,
                                 .indices = of_rank(call.where("indices"), import.view(), 4),
                                 .cols = cols},
                      block);
}

template <class Backend>
py::object from_topk_binding(Call<Backend>& call, py::handle indices, std::int64_t cols,
                             Sides block) {
  const Import import = call.read(indices, "indices");
  TensorView view = of_rank(call.where("indices"), import.view(), 4);
  std::swap(view.shape[1], view.shape[2]);
  std::swap(view.strides[1], view.strides[2]);
  return lists_layout(
      call, indices,
      BlockLists{
          .counts = std::nullopt, .indices = view, .cols = cols, .op = "BlockLayout.from_topk"},
      block);
}

}  // namespace

template <class Backend>
void bind_layout_lists(py::module_& module) {
  define(module, {"layout_from_mask", "BlockLayout.from_mask"}, &from_mask_binding<Backend>,
         py::arg("mask"), py::arg("block"));
  define(module, {"layout_from_lists", "BlockLayout.from_lists"}, &from_lists_binding<Backend>,
         py::arg("indices"), py::arg("counts"), py::arg("cols"), py::arg("block"));
  define(module, {"layout_from_topk", "BlockLayout.from_topk"}, &from_topk_binding<Backend>,
         py::arg("indices"), py::arg("cols"), py::arg("block"));
}

template void bind_layout_lists<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
