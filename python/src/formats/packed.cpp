#include "formats/packed.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/call.h"
#include "base/collected.h"
#include "base/gil.h"
#include "base/tensor.h"
#include "formats/compressed.h"
#include "formats/handle.h"
#include "gossamer/csr.h"
#include "gossamer/detail/format_checks.h"
#include "gossamer/packed.h"
#include "gossamer/packed_tiles.h"

namespace gossamer::python {
namespace {

py::object pack_binding(Call<Cpu>& call, py::handle a, const std::optional<std::int64_t>& n) {
  return with_matrix<Csr>(call, "a", a, [&](const Csr& matrix) {
    return py::cast(call.run([&] { return pack(matrix, {.n = n}); }));
  });
}

py::object update_binding(Call<Cpu>& call, py::handle packed, py::handle values) {
  return with_matrix<Packed, cuda::PackedTiles>(call, "packed", packed, [&](Packed matrix) {
    const Import import = call.read(values, "values");
    call.run([&] { matrix.update(import.view()); });
    return py::none();
  });
}

/// By way of the matrix that was packed.
void write_dense(const Packed& a, const TensorView& out) {
  const DType index = index_type(a.rows(), a.cols(), a.nnz());
  std::vector<std::byte> parts[3];
  const auto part = [&](std::size_t i, std::int64_t count, DType dtype) {
    parts[i].resize(static_cast<std::size_t>(std::max<std::int64_t>(count * size_of(dtype), 1)));
    return make_view(static_cast<void*>(parts[i].data()), dtype, {count});
  };
  const TensorView indptr = part(0, a.rows() + 1, index), indices = part(1, a.nnz(), index),
                   values = part(2, a.nnz(), a.dtype());
  a.unpack(indptr, indices, values);
  const Csr csr(indptr, indices, values, a.rows(), a.cols(), Csr::Check::trust);
  detail::check_csr_to_dense(detail::Checker("Packed.to_dense"), csr, out);
  csr_to_dense(csr, out);
}

py::object to_dense_binding(Call<Cpu>& call, py::handle packed, py::handle out) {
  return with_matrix<Packed, cuda::PackedTiles>(call, "packed", packed, [&](const Packed& matrix) {
    // A packed matrix looks into no array of a framework: without `out`, the result is NumPy's.
    Output dense =
        call.output(out, py::array_t<float>(0), {matrix.rows(), matrix.cols()}, matrix.dtype());
    call.run([&] { write_dense(matrix, dense.view()); });
    return dense.finish();
  });
}

/// New bytes, for whoever holds the reference to write.
py::bytes new_bytes(std::int64_t size) {
  return py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, size));
}

TensorView bytes_view(const py::bytes& bytes, DType dtype) {
  return make_view(static_cast<void*>(PyBytes_AS_STRING(bytes.ptr())), dtype,
                   {PyBytes_GET_SIZE(bytes.ptr()) / size_of(dtype)});
}

/// The matrix that was packed, as bytes: indptr, indices, values. On a GPU, as arrays.
py::tuple to_bytes(const Packed& a) {
  const DType index = index_type(a.rows(), a.cols(), a.nnz());
  const std::int64_t size = size_of(index);
  const py::bytes indptr = new_bytes((a.rows() + 1) * size), indices = new_bytes(a.nnz() * size),
                  values = new_bytes(a.nnz() * size_of(a.dtype()));
  const TensorView views[] = {bytes_view(indptr, index), bytes_view(indices, index),
                              bytes_view(values, a.dtype())};
  {
    const GilRelease unlocked;
    a.unpack(views[0], views[1], views[2]);
  }
  return py::make_tuple(indptr, indices, values);
}

py::object parts_binding(Call<Cpu>& call, py::handle packed) {
  return with_matrix<Packed, cuda::PackedTiles>(
      call, "packed", packed, [&](const Packed& matrix) { return to_bytes(matrix); });
}

/// Packs what `to_bytes` gave, which is checked like any CSR matrix.
Packed from_bytes(const py::bytes& indptr, const py::bytes& indices, const py::bytes& values,
                  std::int64_t rows, std::int64_t cols, const std::string& dtype,
                  std::optional<std::int64_t> n) {
  const DType type = dtype_named(dtype);
  const bool wide = PyBytes_GET_SIZE(indptr.ptr()) / 8 > rows;
  const DType index = wide ? DType::i64 : DType::i32;
  const TensorView views[] = {bytes_view(indptr, index), bytes_view(indices, index),
                              bytes_view(values, type)};
  const GilRelease unlocked;
  return pack(Csr(views[0], views[1], views[2], rows, cols), {.n = n});
}

const char* layout_of(const PackedTilesHandle& a) {
  switch (a.matrix.layout()) {
    case cuda::TileLayout::bitmap:
      return "bitmap";
    case cuda::TileLayout::lanes:
      return "lanes";
    case cuda::TileLayout::deltas:
      break;
  }
  return "deltas";
}

std::string why_tiles(const PackedTilesHandle& a) {
  const auto area = static_cast<double>(a.matrix.rows()) * static_cast<double>(a.matrix.cols());
  char density[16];
  std::snprintf(density, sizeof density, "%.3g",
                area > 0 ? static_cast<double>(a.matrix.nnz()) / area : 0.0);
  std::string why =
      std::string("tiles of 16 by 64, ") +
      (a.matrix.layout() == cuda::TileLayout::deltas ? "a byte an entry" : "a bit an element") +
      "; density " + density;
  const std::int64_t n = a.width.value_or(std::numeric_limits<std::int64_t>::max());
  const bool floats = a.matrix.dtype() == DType::f32;
  const auto beyond = [&](std::int64_t columns, const char* what) {
    if (n > columns) why += "; more than " + std::to_string(columns) + " columns: " + what;
  };
  const auto dense = [&] {
    if (a.before_dense) beyond(*a.before_dense, "a dense product is predicted to be faster");
  };
  if (floats) dense();
  beyond(floats ? cuda::kNarrowFloatColumns : cuda::kNarrowColumns, "expanded in shared memory");
  if (!floats) dense();
  return why;
}

}  // namespace

void bind_packed(py::module_& module) {
  py::class_<Packed>(module, "Packed", py::is_final())
      .def_property_readonly("shape", [](const Packed& a) { return std::pair(a.rows(), a.cols()); })
      .def_property_readonly("nnz", &Packed::nnz)
      .def_property_readonly("dtype", [](const Packed& a) { return name_of(a.dtype()); })
      .def_property_readonly("device", [](const Packed& a) { return to_string(a.device()); })
      .def_property_readonly("n", &Packed::width)
      .def_property_readonly("nbytes", &Packed::nbytes)
      .def_property_readonly("layouts", &Packed::layouts)
      .def_property_readonly("why", &Packed::why);
  using Tiles = PackedTilesHandle;
  py::class_<Tiles>(module, "PackedTiles", py::is_final(), collected<Tiles>())
      .def_property_readonly(
          "shape", [](const Tiles& a) { return std::pair(a.matrix.rows(), a.matrix.cols()); })
      .def_property_readonly("nnz", [](const Tiles& a) { return a.matrix.nnz(); })
      .def_property_readonly("dtype", [](const Tiles& a) { return name_of(a.matrix.dtype()); })
      .def_property_readonly("device", [](const Tiles& a) { return to_string(a.matrix.device()); })
      .def_property_readonly("n", [](const Tiles& a) { return a.width; })
      .def_property_readonly("nbytes", [](const Tiles& a) { return a.matrix.nbytes(); })
      .def_property_readonly("layouts", &layout_of)
      .def_property_readonly("why", &why_tiles);
  define(module, "pack", &pack_binding, py::arg("a"), py::arg("n"));
  define(module, {"packed_update", "Packed.update"}, &update_binding, py::arg("packed"),
         py::arg("values"));
  define(module, {"packed_to_dense", "Packed.to_dense"}, &to_dense_binding, py::arg("packed"),
         py::arg("out"));
  define(module, "packed_parts", &parts_binding, py::arg("packed"));
  module.def("packed_from_bytes", &from_bytes, py::arg("indptr"), py::arg("indices"),
             py::arg("values"), py::arg("rows"), py::arg("cols"), py::arg("dtype"), py::arg("n"));
}

}  // namespace gossamer::python
