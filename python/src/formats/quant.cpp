#include "formats/quant.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "base/call.h"
#include "base/collected.h"
#include "base/gil.h"
#include "base/tensor.h"
#include "formats/compressed.h"
#include "formats/handle.h"
#include "gossamer/group_quant.h"

namespace gossamer::python {
namespace {

QuantHandle make_quant(py::object indptr, py::object indices, py::object codes, py::object scales,
                       py::object zeros, std::int64_t rows, std::int64_t cols, std::int64_t group,
                       std::int64_t bits, const std::string& dtype, std::optional<bool> check) {
  constexpr const char* kName = "GroupQuant";
  Component p(std::move(indptr), {kName, "indptr"});
  Component i(std::move(indices), {kName, "indices"});
  Component c(std::move(codes), {kName, "codes"});
  Component s(std::move(scales), {kName, "scales"});
  Component z(std::move(zeros), {kName, "zeros"});
  const DType type = dtype_named(dtype, "GroupQuant: dtype");
  const GroupQuant::Form form{
      .rows = rows, .cols = cols, .group = group, .bits = bits, .dtype = type};
  const GroupQuant matrix = [&] {
    const GilRelease unlocked;
    return GroupQuant(p.view(), i.view(), c.view(), s.view(), z.view(), form,
                      check.value_or(true) ? Csr::Check::structure : Csr::Check::trust);
  }();
  if (matrix.device().type != DeviceType::cpu && check.value_or(false)) {
    // The CPU looks at copies; codes need no check.
    const Import indptr_copy = host_copy({kName, "indptr"}, p);
    const Import indices_copy = host_copy({kName, "indices"}, i);
    const Import scales_copy = host_copy({kName, "scales"}, s);
    const Import zeros_copy = host_copy({kName, "zeros"}, z);
    TensorView unread = c.view();
    unread.device = {};
    static_cast<void>(GroupQuant(indptr_copy.view(), indices_copy.view(), unread,
                                 scales_copy.view(), zeros_copy.view(), form));
  }
  return {std::move(p), std::move(i), std::move(c), std::move(s), std::move(z), matrix};
}

/// The same, of the constructor's options as they were given.
QuantHandle construct_quant(py::object indptr, py::object indices, py::object codes,
                            py::object scales, py::object zeros, std::int64_t rows,
                            std::int64_t cols, py::handle group, py::handle bits, py::handle dtype,
                            py::handle check) {
  return make_quant(std::move(indptr), std::move(indices), std::move(codes), std::move(scales),
                    std::move(zeros), rows, cols, read_integer({"GroupQuant", "group"}, group),
                    read_integer({"GroupQuant", "bits"}, bits),
                    read_text({"GroupQuant", "dtype"}, dtype),
                    read_parameter<std::optional<bool>>({"GroupQuant", "check"}, check));
}

void require_matrix(Where where, const TensorView& view) {
  if (view.rank == 2) return;
  throw ValueError(where.text() + ".ndim is " + std::to_string(view.rank) + ", expected 2");
}

/// Groups of a row of `w`; a group that is none is for the library to refuse.
std::int64_t across(const TensorView& w, std::int64_t group) {
  if (group < 1) return 0;
  return w.shape[1] / group + (w.shape[1] % group != 0 ? 1 : 0);
}

py::object quant_norms_binding(Call<Cpu>& call, py::handle w, std::int64_t group) {
  const Import dense = call.read(w, "w");
  const TensorView& view = dense.view();
  require_matrix(call.where("w"), view);
  Output norms = call.create("norms", w, {view.shape[0], across(view, group)}, DType::f32);
  call.run([&] { quant_norms(view, group, norms.view()); });
  return norms.finish();
}

py::object quant_from_dense(Call<Cpu>& call, py::handle w, py::handle mask, std::int64_t group,
                            std::int64_t bits) {
  const Import dense = call.read(w, "w");
  const std::optional<Import> kept = call.read_optional(mask, "mask");
  const std::optional<TensorView> kept_view = view_of(kept);
  const TensorView& view = dense.view();
  require_matrix(call.where("w"), view);
  if (bits != 4 && bits != 8) {
    throw ValueError(call.where("bits").text() + " is " + std::to_string(bits) +
                     ", expected 4 or 8");
  }
  const std::int64_t rows = view.shape[0], cols = view.shape[1];
  Output indptr = call.create("indptr", w, {rows + 1}, DType::i32);
  const std::int64_t groups =
      call.run([&] { return quant_count(view, kept_view, group, indptr.view()); });
  Output indices = call.create("indices", w, {groups}, DType::u16);
  Output codes = call.create("codes", w, {groups, group * bits / 8}, DType::u8);
  Output scales = call.create("scales", w, {groups}, DType::f16);
  Output zeros = call.create("zeros", w, {groups}, DType::u8);
  call.run([&] {
    quant_fill(view, kept_view, bits, indptr.view(), indices.view(), codes.view(), scales.view(),
               zeros.view());
  });
  return py::cast(make_quant(indptr.finish(), indices.finish(), codes.finish(), scales.finish(),
                             zeros.finish(), rows, cols, group, bits, name_of(view.dtype),
                             std::nullopt));
}

}  // namespace

void bind_quant(py::module_& module) {
  using H = QuantHandle;
  py::class_<H>(module, "GroupQuant", py::is_final(), collected<H>())
      .def(py::init(&construct_quant), py::arg("indptr"), py::arg("indices"), py::arg("codes"),
           py::arg("scales"), py::arg("zeros"), py::arg("rows"), py::arg("cols"), py::arg("group"),
           py::arg("bits"), py::arg("dtype"), py::arg("check"))
      .def_property_readonly("indptr", [](const H& a) { return a.indptr.array; })
      .def_property_readonly("indices", [](const H& a) { return a.indices.array; })
      .def_property_readonly("codes", [](const H& a) { return a.codes.array; })
      .def_property_readonly("scales", [](const H& a) { return a.scales.array; })
      .def_property_readonly("zeros", [](const H& a) { return a.zeros.array; })
      .def_property_readonly("shape",
                             [](const H& a) { return std::pair(a.matrix.rows(), a.matrix.cols()); })
      .def_property_readonly("groups", [](const H& a) { return a.matrix.groups(); })
      .def_property_readonly("nnz", [](const H& a) { return a.matrix.nnz(); })
      .def_property_readonly("group", [](const H& a) { return a.matrix.group(); })
      .def_property_readonly("bits", [](const H& a) { return a.matrix.bits(); })
      .def_property_readonly("nbytes", [](const H& a) { return a.matrix.nbytes(); })
      .def_property_readonly("dtype", [](const H& a) { return name_of(a.matrix.dtype()); })
      .def_property_readonly("device", [](const H& a) { return to_string(a.matrix.device()); });
  define(module, {"quant_norms", "GroupQuant.from_dense"}, &quant_norms_binding, py::arg("w"),
         py::arg("group"));
  define(module, {"quant_from_dense", "GroupQuant.from_dense"}, &quant_from_dense, py::arg("w"),
         py::arg("mask"), py::arg("group"), py::arg("bits"));
}

}  // namespace gossamer::python
