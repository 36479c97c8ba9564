#include "formats.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "gossamer/error.h"
#include "gossamer/packed.h"
#include "output.h"
#include "tensor.h"

namespace gossamer::python {
namespace {

constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();

CsrHandle make_handle(py::object indptr, py::object indices, py::object values, std::int64_t rows,
                      std::int64_t cols, Csr::Check check) {
  Import indptr_import = Import::to_read(indptr, {"CSR", "indptr"});
  Import indices_import = Import::to_read(indices, {"CSR", "indices"});
  Import values_import = Import::to_read(values, {"CSR", "values"});
  const Csr csr = [&] {
    const py::gil_scoped_release unlocked;
    return Csr(indptr_import.view(), indices_import.view(), values_import.view(), rows, cols,
               check);
  }();
  auto structure = std::make_shared<CsrStructure>(CsrStructure{
      std::move(indptr), std::move(indices), std::move(indptr_import), std::move(indices_import)});
  return {std::move(structure), std::move(values), std::move(values_import), csr};
}

bool is_index(DType dtype) { return dtype == DType::i32 || dtype == DType::i64; }

// The narrowest index type for a matrix of this size.
DType index_type(std::int64_t rows, std::int64_t cols, std::int64_t nnz) {
  return std::max({rows, cols, nnz}) <= kMaxInt32 ? DType::i32 : DType::i64;
}

// The index type that a CSR gets from arrays of these types.
DType choose_index_type(const std::optional<std::string>& wanted, DType indptr, DType indices,
                        DType narrowest) {
  if (wanted) {
    if (*wanted == "int32") return DType::i32;
    if (*wanted == "int64") return DType::i64;
    throw ValueError("CSR: index_dtype is '" + *wanted + "', expected 'int32', 'int64' or None");
  }
  if (indptr == DType::i32 && indices == DType::i32) return DType::i32;
  return narrowest;
}

py::object convert(const py::object& array, const Import& from, DType to, Where where) {
  if (from.view().dtype == to) return array;
  Output out(where, array, {from.view().shape[0]}, to);
  {
    const py::gil_scoped_release unlocked;
    convert_indices(from.view(), out.view());
  }
  return out.finish();
}

CsrHandle make_csr(py::object indptr, py::object indices, py::object values, std::int64_t rows,
                   std::int64_t cols, bool check, const std::optional<std::string>& index_dtype) {
  const Csr::Check level = check ? Csr::Check::structure : Csr::Check::trust;
  const Where indptr_where{"CSR", "indptr"};
  const Where indices_where{"CSR", "indices"};
  const Import indptr_import = Import::to_read(indptr, indptr_where);
  const Import indices_import = Import::to_read(indices, indices_where);
  const TensorView& p = indptr_import.view();
  const TensorView& i = indices_import.view();
  const bool convertible = is_index(p.dtype) && is_index(i.dtype) && p.rank == 1 && i.rank == 1 &&
                           is_contiguous(p) && is_contiguous(i);
  const DType type =
      choose_index_type(index_dtype, p.dtype, i.dtype, index_type(rows, cols, i.shape[0]));
  if (!convertible || (p.dtype == type && i.dtype == type)) {
    return make_handle(std::move(indptr), std::move(indices), std::move(values), rows, cols, level);
  }
  // Corrupt structure is reported in its own words, before an index is said not to fit.
  const bool same = p.dtype == i.dtype;
  if (same) static_cast<void>(make_handle(indptr, indices, values, rows, cols, level));
  return make_handle(convert(indptr, indptr_import, type, indptr_where),
                     convert(indices, indices_import, type, indices_where), std::move(values), rows,
                     cols, same ? Csr::Check::trust : level);
}

CsrHandle with_values(const CsrHandle& self, py::object values) {
  Import import = Import::to_read(values, {"with_values", "values"});
  const Csr csr = self.csr.with_values(import.view());
  return {self.structure, std::move(values), std::move(import), csr};
}

CsrHandle from_dense(py::handle w, py::handle mask) {
  const Import dense = Import::to_read(w, {"CSR.from_dense", "w"});
  const std::optional<Import> kept = read_optional(mask, {"CSR.from_dense", "mask"});
  const std::optional<TensorView> kept_view = view_of(kept);
  const TensorView& view = dense.view();
  if (view.rank != 2) {
    throw ValueError("CSR.from_dense: w.ndim is " + std::to_string(view.rank) + ", expected 2");
  }
  const std::int64_t rows = view.shape[0];
  const std::int64_t cols = view.shape[1];
  const DType index = index_type(rows, cols, view.numel());
  Output indptr({"CSR.from_dense", "indptr"}, w, {rows + 1}, index);
  const std::int64_t nnz = [&] {
    const py::gil_scoped_release unlocked;
    return csr_count(view, kept_view, indptr.view());
  }();
  Output indices({"CSR.from_dense", "indices"}, w, {nnz}, index);
  Output values({"CSR.from_dense", "values"}, w, {nnz}, view.dtype);
  {
    const py::gil_scoped_release unlocked;
    csr_fill(view, kept_view, indptr.view(), indices.view(), values.view());
  }
  return make_csr(indptr.finish(), indices.finish(), values.finish(), rows, cols, false,
                  std::nullopt);
}

py::object to_dense(const CsrHandle& self, py::handle out) {
  const Csr& a = self.csr;
  Output dense("CSR.to_dense", out, self.values, {a.rows(), a.cols()}, a.dtype());
  {
    const py::gil_scoped_release unlocked;
    csr_to_dense(a, dense.view());
  }
  return dense.finish();
}

/// The transpose, and the permutation or None.
std::pair<CsrHandle, py::object> transpose(const CsrHandle& self, bool with_permutation) {
  const Csr& a = self.csr;
  const DType index = a.index_dtype();
  const py::object& like = self.structure->indptr;
  Output indptr({"CSR.transpose", "indptr"}, like, {a.cols() + 1}, index);
  Output indices({"CSR.transpose", "indices"}, like, {a.nnz()}, index);
  Output values({"CSR.transpose", "values"}, self.values, {a.nnz()}, a.dtype());
  std::optional<Output> permutation;
  if (with_permutation) {
    permutation.emplace(Where{"CSR.transpose", "permutation"}, like, Shape{a.nnz()}, index);
  }
  {
    const py::gil_scoped_release unlocked;
    csr_transpose(a, indptr.view(), indices.view(), values.view(),
                  permutation ? std::optional(permutation->view()) : std::nullopt);
  }
  return {make_handle(indptr.finish(), indices.finish(), values.finish(), a.cols(), a.rows(),
                      Csr::Check::trust),
          permutation ? permutation->finish() : py::none()};
}

Packed pack_csr(const CsrHandle& a, const std::optional<std::int64_t>& n) {
  const py::gil_scoped_release unlocked;
  return pack(a.csr, {.n = n});
}

template <class Format>
std::pair<std::int64_t, std::int64_t> shape_of(const Format& a) {
  return {a.rows(), a.cols()};
}

}  // namespace

void bind_formats(py::module_& module) {
  py::class_<CsrHandle>(module, "Csr", py::is_final())
      .def(py::init(&make_csr), py::arg("indptr"), py::arg("indices"), py::arg("values"),
           py::arg("rows"), py::arg("cols"), py::arg("check"), py::arg("index_dtype"))
      .def_static("from_dense", &from_dense, py::arg("w"), py::arg("mask"))
      .def("with_values", &with_values, py::arg("values"))
      .def("to_dense", &to_dense, py::arg("out"))
      .def("transpose", &transpose, py::arg("with_permutation"))
      .def_property_readonly("indptr", [](const CsrHandle& a) { return a.structure->indptr; })
      .def_property_readonly("indices", [](const CsrHandle& a) { return a.structure->indices; })
      .def_property_readonly("values", [](const CsrHandle& a) { return a.values; })
      .def_property_readonly("shape", [](const CsrHandle& a) { return shape_of(a.csr); })
      .def_property_readonly("nnz", [](const CsrHandle& a) { return a.csr.nnz(); })
      .def_property_readonly("dtype", [](const CsrHandle& a) { return name_of(a.csr.dtype()); })
      .def_property_readonly("index_dtype",
                             [](const CsrHandle& a) { return name_of(a.csr.index_dtype()); })
      .def_property_readonly("device",
                             [](const CsrHandle& a) { return to_string(a.csr.device()); });

  py::class_<Packed>(module, "Packed", py::is_final())
      .def(py::init(&pack_csr), py::arg("a"), py::arg("n"))
      .def_property_readonly("shape", &shape_of<Packed>)
      .def_property_readonly("nnz", &Packed::nnz)
      .def_property_readonly("dtype", [](const Packed& a) { return name_of(a.dtype()); })
      .def_property_readonly("device", [](const Packed& a) { return to_string(a.device()); })
      .def_property_readonly("nbytes", &Packed::nbytes)
      .def_property_readonly("layouts", &Packed::layouts);
}

}  // namespace gossamer::python
