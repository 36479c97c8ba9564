#include <optional>
#include <string>
#include <utility>

#include "formats/compressed.h"
#include "formats/handle.h"
#include "gossamer/error.h"
#include "gossamer/packed.h"

namespace gossamer::python {
namespace {

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
  if (view.device.type != DeviceType::cpu) {
    // Kernels there take no other type, and say so where the entries that are kept are too many.
    const py::tuple parts = on_cuda({"CSR.from_dense", "w"}, view.device, "csr_from_dense")(
        w, mask, name_of(DType::i32));
    return make_handle<Csr>(parts[0], parts[1], parts[2], rows, cols, Csr::Check::trust);
  }
  const DType index = index_type(rows, cols, view.numel());
  Output indptr({"CSR.from_dense", "indptr"}, w, {rows + 1}, index);
  const std::int64_t nnz = [&] {
    const GilRelease unlocked;
    return csr_count(view, kept_view, indptr.view());
  }();
  Output indices({"CSR.from_dense", "indices"}, w, {nnz}, index);
  Output values({"CSR.from_dense", "values"}, w, {nnz}, view.dtype);
  {
    const GilRelease unlocked;
    csr_fill(view, kept_view, indptr.view(), indices.view(), values.view());
  }
  return make_handle<Csr>(indptr.finish(), indices.finish(), values.finish(), rows, cols,
                          Csr::Check::trust);
}

py::object to_dense(const CsrHandle& self, py::handle out) {
  const Csr& a = self.matrix;
  if (a.device().type != DeviceType::cpu) {
    return on_cuda({"CSR.to_dense", "a"}, a.device(), "csr_to_dense")(py::cast(&self), out);
  }
  Output dense("CSR.to_dense", out, self.values, {a.rows(), a.cols()}, a.dtype());
  {
    const GilRelease unlocked;
    csr_to_dense(a, dense.view());
  }
  return dense.finish();
}

/// The transpose, and the permutation or None.
std::pair<CsrHandle, py::object> transpose(const CsrHandle& self, bool with_permutation) {
  const Csr& a = self.matrix;
  if (a.device().type != DeviceType::cpu) {
    const py::tuple parts = on_cuda({"CSR.transpose", "a"}, a.device(), "csr_transpose")(
        py::cast(&self), with_permutation);
    return {make_handle<Csr>(parts[0], parts[1], parts[2], a.cols(), a.rows(), Csr::Check::trust),
            parts[3]};
  }
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
    const GilRelease unlocked;
    csr_transpose(a, indptr.view(), indices.view(), values.view(),
                  permutation ? std::optional(permutation->view()) : std::nullopt);
  }
  return {make_handle<Csr>(indptr.finish(), indices.finish(), values.finish(), a.cols(), a.rows(),
                           Csr::Check::trust),
          permutation ? permutation->finish() : py::none()};
}

Packed pack_csr(const CsrHandle& a, const std::optional<std::int64_t>& n) {
  const GilRelease unlocked;
  return pack(a.matrix, {.n = n});
}

}  // namespace

void bind_formats(py::module_& module) {
  bind_compressed<Csr>(module, "Csr")
      .def_static("from_dense", &from_dense, py::arg("w"), py::arg("mask"))
      .def("to_dense", &to_dense, py::arg("out"))
      .def("transpose", &transpose, py::arg("with_permutation"));

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
