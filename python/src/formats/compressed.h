#pragma once

// What the bindings of the compressed formats, CSR and BSR, share.

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "base/collected.h"
#include "base/gil.h"
#include "base/output.h"
#include "formats/handle.h"

namespace gossamer::python {

/// A format's name and that of its values.
template <class Format>
struct Words;
template <>
struct Words<Csr> {
  static constexpr const char* name = "CSR";
  static constexpr const char* values = "values";
};
template <>
struct Words<Bsr> {
  static constexpr const char* name = "BSR";
  static constexpr const char* values = "blocks";
};

/// The narrowest index type for a matrix of this size.
DType index_type(std::int64_t rows, std::int64_t cols, std::int64_t entries);

/// The index type that a matrix of the format `name` gets from arrays of these types.
DType choose_index_type(const char* name, const std::optional<std::string>& wanted, DType indptr,
                        DType indices, DType narrowest);

/// Throws for a shape that int32 indices cannot count.
void check_int32_extents(const char* name, std::int64_t rows, std::int64_t cols);

/// Are these arrays that may be converted to another index type before the format checks them?
bool convertible(const TensorView& indptr, const TensorView& indices);

/// `array`, whose import is `from`, or a copy of it of the type `to`.
py::object converted(const py::object& array, const Import& from, DType to);

/// A copy of an array on a GPU for the CPU to read.
Import host_copy(Where where, const Component& part);

/// Copies of the index arrays of a matrix on a GPU, whose structure the CPU checks.
class HostIndices {
 public:
  HostIndices(const char* format, const py::object& indptr, const py::object& indices,
              Device device);

  /// Throws what the constructor of a matrix of the CPU with values like `values` would.
  template <class Format>
  void check(const TensorView& values, std::int64_t rows, std::int64_t cols) const {
    TensorView unread = values;
    unread.device = {};
    static_cast<void>(Format(indptr_.view(), indices_.view(), unread, rows, cols));
  }

 private:
  HostIndices(const py::object& to_host, const char* format, const py::object& indptr,
              const py::object& indices);

  Import indptr_, indices_;
};

template <class Format>
Handle<Format> make_handle(py::object indptr, py::object indices, py::object values,
                           std::int64_t rows, std::int64_t cols, Csr::Check check) {
  using W = Words<Format>;
  Component p(std::move(indptr), {W::name, "indptr"});
  Component i(std::move(indices), {W::name, "indices"});
  Component v(std::move(values), {W::name, W::values});
  const Format matrix = [&] {
    const GilRelease unlocked;
    return Format(p.view(), i.view(), v.view(), rows, cols, check);
  }();
  return {std::move(p), std::move(i), std::move(v), matrix};
}

template <class Format>
Handle<Format> make_matrix(py::object indptr, py::object indices, py::object values,
                           std::int64_t rows, std::int64_t cols, std::optional<bool> check,
                           const std::optional<std::string>& index_dtype) {
  const Csr::Check level = check.value_or(true) ? Csr::Check::structure : Csr::Check::trust;
  const Import indptr_import = Import::to_read(indptr, {Words<Format>::name, "indptr"});
  const Import indices_import = Import::to_read(indices, {Words<Format>::name, "indices"});
  const TensorView& p = indptr_import.view();
  const TensorView& i = indices_import.view();
  if (p.device.type != DeviceType::cpu && check.value_or(false) && convertible(p, i) &&
      i.device == p.device) {
    const Import unread = Import::to_read(values, {Words<Format>::name, Words<Format>::values});
    HostIndices(Words<Format>::name, indptr, indices, p.device)
        .template check<Format>(unread.view(), rows, cols);
  }
  const DType type = choose_index_type(Words<Format>::name, index_dtype, p.dtype, i.dtype,
                                       index_type(rows, cols, i.shape[0]));
  if (!convertible(p, i) || (p.dtype == type && i.dtype == type)) {
    return make_handle<Format>(std::move(indptr), std::move(indices), std::move(values), rows, cols,
                               level);
  }
  // Corrupt structure is reported in its own words, before an index is said not to fit.
  const bool same = p.dtype == i.dtype && type == DType::i32;
  if (same) {
    static_cast<void>(make_handle<Format>(indptr, indices, values, rows, cols, level));
    check_int32_extents(Words<Format>::name, rows, cols);
  }
  return make_handle<Format>(converted(indptr, indptr_import, type),
                             converted(indices, indices_import, type), std::move(values), rows,
                             cols, same ? Csr::Check::trust : level);
}

/// The same, of the constructor's options as they were given.
template <class Format>
Handle<Format> construct_matrix(py::object indptr, py::object indices, py::object values,
                                std::int64_t rows, std::int64_t cols, py::handle check,
                                py::handle index_dtype) {
  constexpr const char* kName = Words<Format>::name;
  return make_matrix<Format>(
      std::move(indptr), std::move(indices), std::move(values), rows, cols,
      read_parameter<std::optional<bool>>({kName, "check"}, check),
      read_parameter<std::optional<std::string>>({kName, "index_dtype"}, index_dtype));
}

template <class Format>
Handle<Format> with_values(const Handle<Format>& self, py::object values) {
  Component component(std::move(values), {"with_values", Words<Format>::values});
  const Format matrix = self.matrix.with_values(component.view());
  return {self.indptr, self.indices, std::move(component), matrix, self.structure};
}

/// A Python class of a format, with what all of them have.
template <class Format>
py::class_<Handle<Format>> bind_compressed(py::module_& module, const char* name) {
  using H = Handle<Format>;
  py::class_<H> format(module, name, py::is_final(), collected<H>());
  format
      .def(py::init(&construct_matrix<Format>), py::arg("indptr"), py::arg("indices"),
           py::arg(Words<Format>::values), py::arg("rows"), py::arg("cols"), py::arg("check"),
           py::arg("index_dtype"))
      .def_property_readonly("indptr", [](const H& a) { return a.indptr.array; })
      .def_property_readonly("indices", [](const H& a) { return a.indices.array; })
      .def_property_readonly(Words<Format>::values, [](const H& a) { return a.values.array; })
      .def_property_readonly("shape",
                             [](const H& a) { return std::pair(a.matrix.rows(), a.matrix.cols()); })
      .def_property_readonly("nnz", [](const H& a) { return a.matrix.nnz(); })
      .def_property_readonly("dtype", [](const H& a) { return name_of(a.matrix.dtype()); })
      .def_property_readonly("index_dtype",
                             [](const H& a) { return name_of(a.matrix.index_dtype()); })
      .def_property_readonly("device", [](const H& a) { return to_string(a.matrix.device()); });
  return format;
}

}  // namespace gossamer::python
