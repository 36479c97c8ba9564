#include "formats/csr.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "formats/compressed.h"
#include "formats/convert.h"

namespace gossamer::python {
namespace {

std::optional<Component> read_values(const CsrPattern& matrix, py::object values, Where where) {
  if (values.is_none()) return std::nullopt;
  Component component(std::move(values), where);
  matrix.check_values(component.view());
  return component;
}

PatternHandle make_pattern(py::object indptr, py::object indices, py::object values,
                           std::int64_t rows, std::int64_t cols, std::optional<bool> check,
                           const std::optional<std::string>& index_dtype) {
  const Csr::Check level = check.value_or(true) ? Csr::Check::structure : Csr::Check::trust;
  const Import indptr_import = Import::to_read(indptr, {"CSR", "indptr"});
  const Import indices_import = Import::to_read(indices, {"CSR", "indices"});
  const TensorView &p = indptr_import.view(), &i = indices_import.view();
  if (convertible(p, i)) {
    const TensorView unread = make_view(&p, DType::f32, {i.shape[0]});
    if (p.device.type != DeviceType::cpu && check.value_or(false) && i.device == p.device) {
      HostIndices("CSR", indptr, indices, p.device).check<Csr>(unread, rows, cols);
    }
    // Corrupt structure is reported in its own words, before an index is said not to fit.
    if (p.dtype == i.dtype) static_cast<void>(CsrPattern(p, i, rows, cols, level));
    const DType type =
        choose_index_type("CSR", index_dtype, p.dtype, i.dtype, index_type(rows, cols, i.shape[0]));
    indptr = converted(indptr, indptr_import, type);
    indices = converted(indices, indices_import, type);
  }
  const bool checked = convertible(p, i) && p.dtype == i.dtype;
  Component own_indptr(std::move(indptr), {"CSR", "indptr"});
  Component own_indices(std::move(indices), {"CSR", "indices"});
  const CsrPattern matrix(own_indptr.view(), own_indices.view(), rows, cols,
                          checked ? Csr::Check::trust : level);
  std::optional<Component> own_values = read_values(matrix, std::move(values), {"CSR", "values"});
  return {std::move(own_indptr), std::move(own_indices), std::move(own_values), matrix};
}

/// The same, of the constructor's options as they were given.
PatternHandle construct_pattern(py::object indptr, py::object indices, py::object values,
                                std::int64_t rows, std::int64_t cols, py::handle check,
                                py::handle index_dtype) {
  return make_pattern(
      std::move(indptr), std::move(indices), std::move(values), rows, cols,
      read_parameter<std::optional<bool>>({"CSR", "check"}, check),
      read_parameter<std::optional<std::string>>({"CSR", "index_dtype"}, index_dtype));
}

/// A matrix of the same structure: with one value an entry a Csr, else a CsrPattern.
template <class Held>
py::object with_any_values(const Held& self, py::object values) {
  if (!values.is_none()) {
    Component component(values, {"with_values", "values"});
    if (component.view().rank == 1) {
      const Csr matrix = CsrPattern(self.matrix).with_values(component.view());
      return py::cast(
          CsrHandle{self.indptr, self.indices, std::move(component), matrix, self.structure});
    }
  }
  const CsrPattern matrix(self.matrix);
  return py::cast(PatternHandle{self.indptr, self.indices,
                                read_values(matrix, std::move(values), {"with_values", "values"}),
                                matrix, self.structure});
}

/// The structure of the transpose, and the permutation.
py::object transposed_pattern(Call<Cpu>& call, py::handle a) {
  return with_any_csr<false>(call, "a", a, [&](const PatternView& view) -> py::object {
    const CsrPattern& matrix = view.matrix;
    const DType index = matrix.index_dtype();
    Output indptr = call.create("indptr", view.like, {matrix.cols() + 1}, index);
    Output indices = call.create("indices", view.like, {matrix.nnz()}, index);
    Output permutation = call.create("permutation", view.like, {matrix.nnz()}, index);
    call.run([&] { csr_transpose(matrix, indptr.view(), indices.view(), permutation.view()); });
    py::object pattern =
        py::cast(make_pattern(indptr.finish(), indices.finish(), py::none(), matrix.cols(),
                              matrix.rows(), false, std::string(name_of(index))));
    return py::make_tuple(std::move(pattern), permutation.finish());
  });
}

py::object csr_from_coo_binding(Call<Cpu>& call, py::handle row, py::handle col, py::handle values,
                                std::pair<std::int64_t, std::int64_t> shape,
                                const std::string& duplicates) {
  if (duplicates != "sum" && duplicates != "refuse") {
    throw ValueError(std::string(call.op()) + ": duplicates is '" + duplicates +
                     "', expected 'sum' or 'refuse'");
  }
  const Import row_import = call.read(row, "row");
  const Import col_import = call.read(col, "col");
  const std::optional<Import> values_import = call.read_optional(values, "values");
  const TensorView &r = row_import.view(), &c = col_import.view();
  const std::int64_t n = r.rank == 1 ? r.shape[0] : 0;
  const auto [rows, cols] = shape;
  constexpr std::int64_t kMost = std::int64_t{1} << 62;  // the operation refuses more
  const DType index = index_type(rows, cols, n);
  Output order = call.create("order", row, {n}, DType::i64);
  Output indptr = call.create("indptr", row, {std::clamp<std::int64_t>(rows, 0, kMost) + 1}, index);
  const std::int64_t nnz = call.run([&] {
    return csr_from_coo_count(r, c, rows, cols,
                              duplicates == "sum" ? Duplicates::sum : Duplicates::refuse,
                              order.view(), indptr.view());
  });
  Output indices = call.create("indices", row, {nnz}, index);
  std::optional<Output> sums;
  if (values_import) {
    sums.emplace(call.create("values", values, {nnz}, values_import->view().dtype));
  }
  call.run([&] {
    csr_from_coo_fill(r, c, view_of(values_import), order.view(), indptr.view(), indices.view(),
                      sums ? std::optional(sums->view()) : std::nullopt);
  });
  // The caller's places may have changed since they were counted: the result is checked.
  if (!sums) {
    return py::cast(make_pattern(indptr.finish(), indices.finish(), py::none(), rows, cols, true,
                                 std::string(name_of(index))));
  }
  return py::cast(make_handle<Csr>(indptr.finish(), indices.finish(), sums->finish(), rows, cols,
                                   Csr::Check::structure));
}

}  // namespace

void bind_csr(py::module_& module) {
  auto csr = bind_compressed<Csr>(module, "Csr");
  csr.def("with_values", &with_any_values<CsrHandle>, py::arg("values"));

  using H = PatternHandle;
  py::class_<H>(module, "CsrPattern", py::is_final(), collected<H>())
      .def(py::init(&construct_pattern), py::arg("indptr"), py::arg("indices"), py::arg("values"),
           py::arg("rows"), py::arg("cols"), py::arg("check"), py::arg("index_dtype"))
      .def("with_values", &with_any_values<H>, py::arg("values"))
      .def_property_readonly("indptr", [](const H& a) { return a.indptr.array; })
      .def_property_readonly("indices", [](const H& a) { return a.indices.array; })
      .def_property_readonly("values",
                             [](const H& a) { return a.values ? a.values->array : py::none(); })
      .def_property_readonly("shape",
                             [](const H& a) { return std::pair(a.matrix.rows(), a.matrix.cols()); })
      .def_property_readonly("nnz", [](const H& a) { return a.matrix.nnz(); })
      .def_property_readonly("dtype",
                             [](const H& a) -> py::object {
                               if (!a.values) return py::none();
                               return py::str(name_of(a.values->view().dtype));
                             })
      .def_property_readonly("index_dtype",
                             [](const H& a) { return name_of(a.matrix.index_dtype()); })
      .def_property_readonly("device", [](const H& a) { return to_string(a.matrix.device()); })
      .def_property_readonly("batch", [](const H& a) {
        py::list axes;
        for (int d = 0; a.values && d + 1 < a.values->view().rank; ++d) {
          axes.append(a.values->view().shape[static_cast<std::size_t>(d)]);
        }
        return py::tuple(axes);
      });
  define(module, {"csr_transpose_pattern", "CSR.transpose"}, &transposed_pattern, py::arg("a"));
  define(module, {"csr_from_coo", "CSR.from_coo"}, &csr_from_coo_binding, py::arg("row"),
         py::arg("col"), py::arg("values"), py::arg("shape"), py::arg("duplicates"));
}

}  // namespace gossamer::python
