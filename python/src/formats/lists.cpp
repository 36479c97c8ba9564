#include "formats/lists.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "base/call.h"
#include "cuda/backend.h"
#include "formats/handle.h"
#include "formats/layout.h"
#include "gossamer/cuda.h"
#include "gossamer/layout.h"

namespace gossamer::python {

namespace {

// The operations of CPUs have the same names and are found by the types of their arguments: those
// of GPUs take a workspace and a stream more.
using cuda::layout_count, cuda::layout_fill, cuda::layout_to_mask, cuda::layout_transpose;

using Sides = std::pair<std::int64_t, std::int64_t>;

LayoutBlock block_of(Sides block) { return {.rows = block.first, .cols = block.second}; }

/// Arrays of a layout that are made.
struct Made {
  Output indptr, indices;
  std::optional<Output> kinds, bits;

  [[nodiscard]] LayoutArrays views() {
    const auto view = [](std::optional<Output>& array) {
      return array ? std::optional(array->view()) : std::nullopt;
    };
    return {.indptr = indptr.view(),
            .indices = indices.view(),
            .kinds = view(kinds),
            .bits = view(bits)};
  }
  [[nodiscard]] py::object finish(const LayoutShape& shape, LayoutBlock block) {
    const auto finished = [](std::optional<Output>& array) {
      return array ? array->finish() : py::none();
    };
    const py::object layout = py::module_::import("gossamer._core").attr("Layout");
    const auto extents = py::make_tuple(shape.batch, shape.heads, shape.rows, shape.cols);
    return layout(indptr.finish(), indices.finish(), finished(kinds), finished(bits), extents,
                  py::make_tuple(block.rows, block.cols), false);
  }
};

/// The layout of what a source keeps, whose arrays are of the framework of `like`.
template <bool Kinds, class Backend, class Source>
py::object build(Call<Backend>& call, py::handle like, const Source& source, LayoutBlock block) {
  // The operation refuses what has no sensible shape.
  const LayoutShape shape = layout_shape(source);
  std::int64_t rows = 0;
  if (std::min({shape.batch, shape.heads, shape.rows}) < 0 ||
      __builtin_mul_overflow(shape.batch, shape.heads, &rows) ||
      __builtin_mul_overflow(rows, shape.rows, &rows) ||
      rows > std::numeric_limits<std::int32_t>::max()) {
    rows = 0;
  }
  Output indptr = call.create("indptr", like, {rows + 1}, DType::i32);
  const auto workspace =
      call.workspace(like, [](const auto& given) { return cuda::layout_workspace(given); }, source);
  const LayoutCount count = call.run(workspace, [&](const auto&... queue) {
    return layout_count(source, indptr.view(), queue...);
  });
  Made made{.indptr = std::move(indptr),
            .indices = call.create("indices", like, {count.blocks}, DType::i32),
            .kinds = std::nullopt,
            .bits = std::nullopt};
  if (Kinds) made.kinds.emplace(call.create("kinds", like, {count.blocks}, DType::u8));
  if (count.bits > 0) {
    made.bits.emplace(
        call.create("bits", like, {count.bits, block.rows, (block.cols + 7) / 8}, DType::u8));
  }
  const LayoutArrays arrays = made.views();
  call.run(workspace, [&](const auto&... queue) { layout_fill(source, arrays, queue...); });
  return made.finish(shape, block);
}

/// The array that results are like where no operand is one: NumPy's, unless one is given.
template <class Backend>
py::object like_or_numpy(Call<Backend>& call, py::handle like) {
  if (like.is_none()) return py::array_t<std::int32_t>(0);
  static_cast<void>(call.read(like, "like"));
  return py::reinterpret_borrow<py::object>(like);
}

template <class Backend>
py::object local_stride(Call<Backend>& call, std::int64_t heads, std::int64_t blocks,
                        std::int64_t local, std::int64_t stride, std::int64_t head_shift,
                        std::int64_t dense_heads, Sides block, py::handle like) {
  return build<true>(call, like_or_numpy(call, like),
                     LocalStride{.heads = heads,
                                 .blocks = blocks,
                                 .local = local,
                                 .stride = stride,
                                 .head_shift = head_shift,
                                 .dense_heads = dense_heads},
                     block_of(block));
}

template <class Backend>
py::object window_global(Call<Backend>& call, std::int64_t heads, Sides blocks, Sides window,
                         const std::vector<std::int64_t>& globals, std::int64_t random,
                         std::uint64_t seed, bool causal, Sides block, py::handle like) {
  return build<true>(call, like_or_numpy(call, like),
                     WindowGlobal{.heads = heads,
                                  .rows = blocks.first,
                                  .cols = blocks.second,
                                  .before = window.first,
                                  .after = window.second,
                                  .globals = globals,
                                  .random = random,
                                  .seed = seed,
                                  .causal = causal},
                     block_of(block));
}

template <class Backend>
py::object from_csr(Call<Backend>& call, py::handle pattern, std::int64_t batch, std::int64_t heads,
                    Sides block) {
  return with_any_csr<false>(call, "pattern", pattern, [&](const PatternView& view) {
    call.follow(view.like, "pattern");
    return build<true>(call, view.like,
                       PatternTiles{.indptr = view.matrix.indptr(),
                                    .indices = view.matrix.indices(),
                                    .columns = view.matrix.cols(),
                                    .batch = batch,
                                    .heads = heads,
                                    .block = block_of(block)},
                       block_of(block));
  });
}

template <class Backend>
py::object vertical_slash(Call<Backend>& call, py::handle columns, py::handle slashes,
                          std::int64_t tokens, Sides block) {
  const Import slash_import = call.read(slashes, "slashes");
  const Import column_import = call.read(columns, "columns");
  py::object blocks =
      build<false>(call, slashes,
                   Slashes{.slashes = of_rank(call.where("slashes"), slash_import.view(), 3),
                           .tokens = tokens,
                           .block = block_of(block)},
                   block_of(block));
  const auto& held = py::cast<const LayoutHandle&>(blocks);
  py::object single =
      build<false>(call, columns,
                   Verticals{.columns = of_rank(call.where("columns"), column_import.view(), 3),
                             .tokens = tokens,
                             .slashes = &held.layout},
                   {.rows = block.first, .cols = 1});
  return py::make_tuple(blocks, single);
}

template <class Backend>
py::object transpose(Call<Backend>& call, py::handle object) {
  const LayoutHandle& held = read_layout(call, object);
  const BlockLayout& layout = held.layout;
  LayoutShape shape = layout.shape();
  std::swap(shape.rows, shape.cols);
  const LayoutBlock block{.rows = layout.block().cols, .cols = layout.block().rows};
  const py::object& like = held.indptr.array;
  call.follow(like, "layout");
  Made made{.indptr = call.create("indptr", like, {shape.all_rows() + 1}, DType::i32),
            .indices = call.create("indices", like, {layout.nblocks()}, DType::i32),
            .kinds = std::nullopt,
            .bits = std::nullopt};
  if (layout.kinds()) {
    made.kinds.emplace(call.create("kinds", like, {layout.nblocks()}, DType::u8));
  }
  if (layout.bits()) {
    made.bits.emplace(call.create(
        "bits", like, {layout.bits()->shape[0], block.rows, (block.cols + 7) / 8}, DType::u8));
  }
  const auto workspace = call.workspace(
      like, [](const auto& given) { return cuda::layout_transpose_workspace(given); }, layout);
  const LayoutArrays arrays = made.views();
  call.run(workspace, [&](const auto&... queue) { layout_transpose(layout, arrays, queue...); });
  return made.finish(shape, block);
}

template <class Backend>
py::object to_mask(Call<Backend>& call, py::handle object, bool elements, py::handle out) {
  const LayoutHandle& held = read_layout(call, object);
  const BlockLayout& layout = held.layout;
  const LayoutShape& shape = layout.shape();
  const LayoutBlock block = elements ? layout.block() : LayoutBlock{.rows = 1, .cols = 1};
  const py::object& like = held.indptr.array;
  call.follow(like, "layout");
  Output mask = call.output(
      out, like, {shape.batch, shape.heads, shape.rows * block.rows, shape.cols * block.cols},
      DType::boolean);
  const auto workspace = call.workspace(
      like, [](const auto& given) { return cuda::layout_to_mask_workspace(given); }, layout);
  call.run(workspace, [&](const auto&... queue) { layout_to_mask(layout, mask.view(), queue...); });
  return mask.finish();
}

template <class Backend>
py::object from_mask_binding(Call<Backend>& call, py::handle mask, Sides block) {
  const Import import = call.read(mask, "mask");
  const TensorView view = of_rank(call.where("mask"), import.view(), 4);
  return build<false>(call, mask, BlockMask{view}, block_of(block));
}

template <class Backend>
py::object from_lists_binding(Call<Backend>& call, py::handle indices, py::handle counts,
                              std::int64_t cols, Sides block) {
  const Import import = call.read(indices, "indices");
  const std::optional<Import> lengths = call.read_optional(counts, "counts");
  std::optional<TensorView> length;
  if (lengths) length = of_rank(call.where("counts"), lengths->view(), 3);
  return build<false>(call, indices,
                      BlockLists{.counts = length,
                                 .indices = of_rank(call.where("indices"), import.view(), 4),
                                 .cols = cols},
                      block_of(block));
}

template <class Backend>
py::object from_topk_binding(Call<Backend>& call, py::handle indices, std::int64_t cols,
                             Sides block) {
  const Import import = call.read(indices, "indices");
  TensorView view = of_rank(call.where("indices"), import.view(), 4);
  std::swap(view.shape[1], view.shape[2]);
  std::swap(view.strides[1], view.strides[2]);
  return build<false>(
      call, indices,
      BlockLists{
          .counts = std::nullopt, .indices = view, .cols = cols, .op = "BlockLayout.from_topk"},
      block_of(block));
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
  define(module, {"layout_local_stride", "BlockLayout.local_stride"}, &local_stride<Backend>,
         py::arg("heads"), py::arg("blocks"), py::arg("local"), py::arg("stride"),
         py::arg("head_shift"), py::arg("dense_heads"), py::arg("block"), py::arg("like"));
  define(module, {"layout_window_global", "BlockLayout.window_global"}, &window_global<Backend>,
         py::arg("heads"), py::arg("blocks"), py::arg("window"), py::arg("globals"),
         py::arg("random"), py::arg("seed"), py::arg("causal"), py::arg("block"), py::arg("like"));
  define(module, {"layout_from_csr", "BlockLayout.from_csr"}, &from_csr<Backend>,
         py::arg("pattern"), py::arg("batch"), py::arg("heads"), py::arg("block"));
  define(module, {"layout_vertical_slash", "BlockLayout.vertical_slash"}, &vertical_slash<Backend>,
         py::arg("columns"), py::arg("slashes"), py::arg("tokens"), py::arg("block"));
  define(module, {"layout_transpose", "BlockLayout.transpose"}, &transpose<Backend>,
         py::arg("layout"));
  define(module, {"layout_to_mask", "BlockLayout.to_mask"}, &to_mask<Backend>, py::arg("layout"),
         py::arg("elements"), py::arg("out"));
}

template void bind_layout_lists<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
