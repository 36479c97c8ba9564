#include "formats/layout.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/collected.h"
#include "base/gil.h"
#include "formats/compressed.h"
#include "formats/lists.h"
#include "gossamer/error.h"

namespace gossamer::python {
namespace {

using Extents = std::pair<std::int64_t, std::int64_t>;

LayoutBlock block_of(Extents block) { return {.rows = block.first, .cols = block.second}; }

LayoutHandle make_layout(py::object indptr, py::object indices, std::optional<py::object> kinds,
                         std::optional<py::object> bits, LayoutShape shape, LayoutBlock block,
                         BlockLayout::Check check) {
  Component p(std::move(indptr), {"BlockLayout", "indptr"});
  Component i(std::move(indices), {"BlockLayout", "indices"});
  std::optional<Component> k, b;
  if (kinds) k.emplace(std::move(*kinds), Where{"BlockLayout", "kinds"});
  if (bits) b.emplace(std::move(*bits), Where{"BlockLayout", "bits"});
  const BlockLayout layout = [&] {
    const GilRelease unlocked;
    return BlockLayout(p.view(), i.view(), k ? std::optional(k->view()) : std::nullopt,
                       b ? std::optional(b->view()) : std::nullopt, shape, block, check);
  }();
  return {std::move(p), std::move(i), std::move(k), std::move(b), layout};
}

LayoutHandle construct(py::object indptr, py::object indices, const py::object& kinds,
                       const py::object& bits, py::handle given_shape, py::handle given_block,
                       py::handle given_check) {
  const auto shape =
      read_parameter<std::vector<std::int64_t>>({"BlockLayout", "shape"}, given_shape);
  if (shape.size() != 4) {
    throw ValueError("BlockLayout: len(shape) is " + std::to_string(shape.size()) + ", expected 4");
  }
  const auto block = read_parameter<Extents>({"BlockLayout", "block"}, given_block);
  const auto check = read_parameter<std::optional<bool>>({"BlockLayout", "check"}, given_check);
  const Import p = Import::to_read(indptr, {"BlockLayout", "indptr"});
  const Import i = Import::to_read(indices, {"BlockLayout", "indices"});
  if (convertible(p.view(), i.view())) {
    indptr = converted(indptr, p, DType::i32);
    indices = converted(indices, i, DType::i32);
  }
  const auto given = [](const py::object& array) {
    return array.is_none() ? std::nullopt : std::optional(array);
  };
  return make_layout(
      std::move(indptr), std::move(indices), given(kinds), given(bits),
      {.batch = shape[0], .heads = shape[1], .rows = shape[2], .cols = shape[3]}, block_of(block),
      check.value_or(true) ? BlockLayout::Check::structure : BlockLayout::Check::trust);
}

/// Counts and fills what a source keeps, in new arrays of the framework of `like`.
template <bool Kinds, class Source>
py::object build(Call<Cpu>& call, py::handle like, const Source& source, LayoutBlock block) {
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
  const LayoutCount count = call.run([&] { return layout_count(source, indptr.view()); });
  Output indices = call.create("indices", like, {count.blocks}, DType::i32);
  std::optional<Output> kinds, bits;
  if (Kinds) kinds.emplace(call.create("kinds", like, {count.blocks}, DType::u8));
  if (count.bits > 0) {
    bits.emplace(
        call.create("bits", like, {count.bits, block.rows, (block.cols + 7) / 8}, DType::u8));
  }
  const auto view = [](std::optional<Output>& array) {
    return array ? std::optional(array->view()) : std::nullopt;
  };
  call.run([&] {
    layout_fill(source, {.indptr = indptr.view(),
                         .indices = indices.view(),
                         .kinds = view(kinds),
                         .bits = view(bits)});
  });
  const auto finished = [](std::optional<Output>& array) {
    return array ? std::optional(array->finish()) : std::nullopt;
  };
  return py::cast(make_layout(indptr.finish(), indices.finish(), finished(kinds), finished(bits),
                              shape, block, BlockLayout::Check::trust));
}

/// What results have the framework of where no operand is an array.
py::object numpy_array() { return py::array_t<std::int32_t>(0); }

py::object local_stride(Call<Cpu>& call, std::int64_t heads, std::int64_t blocks,
                        std::int64_t local, std::int64_t stride, std::int64_t head_shift,
                        std::int64_t dense_heads, Extents block) {
  return build<true>(call, numpy_array(),
                     LocalStride{.heads = heads,
                                 .blocks = blocks,
                                 .local = local,
                                 .stride = stride,
                                 .head_shift = head_shift,
                                 .dense_heads = dense_heads},
                     block_of(block));
}

py::object window_global(Call<Cpu>& call, std::int64_t heads, Extents blocks, Extents window,
                         const std::vector<std::int64_t>& globals, std::int64_t random,
                         std::uint64_t seed, bool causal, Extents block) {
  return build<true>(call, numpy_array(),
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

py::object from_csr(Call<Cpu>& call, py::handle pattern, std::int64_t batch, std::int64_t heads,
                    Extents block) {
  return with_any_csr<false>(call, "pattern", pattern, [&](const PatternView& view) {
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

py::object vertical_slash(Call<Cpu>& call, py::handle columns, py::handle slashes,
                          std::int64_t tokens, Extents block) {
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

py::object transpose(Call<Cpu>& call, py::handle object) {
  const LayoutHandle& held = read_layout(call, object);
  const BlockLayout& layout = held.layout;
  LayoutShape shape = layout.shape();
  std::swap(shape.rows, shape.cols);
  const LayoutBlock block{.rows = layout.block().cols, .cols = layout.block().rows};
  const py::object& like = held.indptr.array;
  Output indptr = call.create("indptr", like, {shape.all_rows() + 1}, DType::i32);
  Output indices = call.create("indices", like, {layout.nblocks()}, DType::i32);
  std::optional<Output> kinds, bits;
  if (layout.kinds()) kinds.emplace(call.create("kinds", like, {layout.nblocks()}, DType::u8));
  if (layout.bits()) {
    bits.emplace(call.create(
        "bits", like, {layout.bits()->shape[0], block.rows, (block.cols + 7) / 8}, DType::u8));
  }
  const auto view = [](std::optional<Output>& array) {
    return array ? std::optional(array->view()) : std::nullopt;
  };
  call.run([&] {
    layout_transpose(layout, {.indptr = indptr.view(),
                              .indices = indices.view(),
                              .kinds = view(kinds),
                              .bits = view(bits)});
  });
  const auto finished = [](std::optional<Output>& array) {
    return array ? std::optional(array->finish()) : std::nullopt;
  };
  return py::cast(make_layout(indptr.finish(), indices.finish(), finished(kinds), finished(bits),
                              shape, block, BlockLayout::Check::trust));
}

py::object to_mask(Call<Cpu>& call, py::handle object, bool elements, py::handle out) {
  const LayoutHandle& held = read_layout(call, object);
  const BlockLayout& layout = held.layout;
  const LayoutShape& shape = layout.shape();
  const LayoutBlock block = elements ? layout.block() : LayoutBlock{.rows = 1, .cols = 1};
  Output mask = call.output(
      out, held.indptr.array,
      {shape.batch, shape.heads, shape.rows * block.rows, shape.cols * block.cols}, DType::boolean);
  call.run([&] { layout_to_mask(layout, mask.view()); });
  return mask.finish();
}

py::object array_of(const std::optional<Component>& part) {
  return part ? part->array : py::none();
}

}  // namespace

void bind_layout(py::module_& module) {
  using H = LayoutHandle;
  py::class_<H>(module, "Layout", py::is_final(), collected<H>())
      .def(py::init(&construct), py::arg("indptr"), py::arg("indices"), py::arg("kinds"),
           py::arg("bits"), py::arg("shape"), py::arg("block"), py::arg("check"))
      .def_property_readonly("indptr", [](const H& a) { return a.indptr.array; })
      .def_property_readonly("indices", [](const H& a) { return a.indices.array; })
      .def_property_readonly("kinds", [](const H& a) { return array_of(a.kinds); })
      .def_property_readonly("bits", [](const H& a) { return array_of(a.bits); })
      .def_property_readonly("shape",
                             [](const H& a) {
                               const LayoutShape& s = a.layout.shape();
                               return py::make_tuple(s.batch, s.heads, s.rows, s.cols);
                             })
      .def_property_readonly(
          "block",
          [](const H& a) { return py::make_tuple(a.layout.block().rows, a.layout.block().cols); })
      .def_property_readonly("nblocks", [](const H& a) { return a.layout.nblocks(); })
      .def_property_readonly("device", [](const H& a) { return to_string(a.layout.device()); });
  define(module, {"layout_local_stride", "BlockLayout.local_stride"}, &local_stride,
         py::arg("heads"), py::arg("blocks"), py::arg("local"), py::arg("stride"),
         py::arg("head_shift"), py::arg("dense_heads"), py::arg("block"));
  define(module, {"layout_window_global", "BlockLayout.window_global"}, &window_global,
         py::arg("heads"), py::arg("blocks"), py::arg("window"), py::arg("globals"),
         py::arg("random"), py::arg("seed"), py::arg("causal"), py::arg("block"));
  define(module, {"layout_from_csr", "BlockLayout.from_csr"}, &from_csr, py::arg("pattern"),
         py::arg("batch"), py::arg("heads"), py::arg("block"));
  define(module, {"layout_vertical_slash", "BlockLayout.vertical_slash"}, &vertical_slash,
         py::arg("columns"), py::arg("slashes"), py::arg("tokens"), py::arg("block"));
  define(module, {"layout_transpose", "BlockLayout.transpose"}, &transpose, py::arg("layout"));
  define(module, {"layout_to_mask", "BlockLayout.to_mask"}, &to_mask, py::arg("layout"),
         py::arg("elements"), py::arg("out"));
}

}  // namespace gossamer::python
