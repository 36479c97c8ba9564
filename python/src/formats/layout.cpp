#include "formats/layout.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/collected.h"
#include "base/gil.h"
#include "formats/compressed.h"
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
}

}  // namespace gossamer::python
