#include "formats/bsr.h"

#include "formats/compressed.h"
#include "gossamer/error.h"

namespace gossamer::python {
namespace {

BsrHandle from_dense(py::handle w, std::int64_t block_rows, std::int64_t block_cols,
                     py::handle mask) {
  constexpr const char* op = "BSR.from_dense";
  const Import dense = Import::to_read(w, {op, "w"});
  const std::optional<Import> kept = read_optional(mask, {op, "mask"});
  const std::optional<TensorView> kept_view = view_of(kept);
  const TensorView& view = dense.view();
  if (view.rank != 2) {
    throw ValueError("BSR.from_dense: w.ndim is " + std::to_string(view.rank) + ", expected 2");
  }
  const std::int64_t rows = view.shape[0];
  const std::int64_t cols = view.shape[1];
  if (view.device.type != DeviceType::cpu) {
    // Kernels there take no other type, and say so where the blocks that are kept are too many.
    const py::tuple parts = on_cuda({op, "w"}, view.device, "bsr_from_dense")(
        w, block_rows, block_cols, mask, name_of(DType::i32));
    return make_handle<Bsr>(parts[0], parts[1], parts[2], rows, cols, Csr::Check::trust);
  }
  const DType index = index_type(rows, cols, view.numel());
  // A block without rows is for the library to refuse.
  Output indptr({op, "indptr"}, w, {rows / std::max<std::int64_t>(block_rows, 1) + 1}, index);
  const std::int64_t blocks = [&] {
    const GilRelease unlocked;
    return bsr_count(view, kept_view, block_rows, block_cols, indptr.view());
  }();
  Output indices({op, "indices"}, w, {blocks}, index);
  Output values({op, "blocks"}, w, {blocks, block_rows, block_cols}, view.dtype);
  {
    const GilRelease unlocked;
    bsr_fill(view, kept_view, indptr.view(), indices.view(), values.view());
  }
  return make_handle<Bsr>(indptr.finish(), indices.finish(), values.finish(), rows, cols,
                          Csr::Check::trust);
}

py::object to_dense(const BsrHandle& self, py::handle out) {
  const Bsr& a = self.matrix;
  if (a.device().type != DeviceType::cpu) {
    return on_cuda({"BSR.to_dense", "a"}, a.device(), "bsr_to_dense")(py::cast(&self), out);
  }
  Output dense("BSR.to_dense", out, self.values, {a.rows(), a.cols()}, a.dtype());
  {
    const GilRelease unlocked;
    bsr_to_dense(a, dense.view());
  }
  return dense.finish();
}

/// The transpose and the permutation of the blocks.
std::pair<BsrHandle, py::object> transpose(const BsrHandle& self) {
  const Bsr& a = self.matrix;
  constexpr const char* op = "BSR.transpose";
  if (a.device().type != DeviceType::cpu) {
    const py::tuple parts = on_cuda({op, "a"}, a.device(), "bsr_transpose")(py::cast(&self));
    return {make_handle<Bsr>(parts[0], parts[1], parts[2], a.cols(), a.rows(), Csr::Check::trust),
            parts[3]};
  }
  const DType index = a.index_dtype();
  const py::object& like = self.structure->indptr;
  Output indptr({op, "indptr"}, like, {a.cols() / a.block_cols() + 1}, index);
  Output indices({op, "indices"}, like, {a.nblocks()}, index);
  Output blocks({op, "blocks"}, self.values, {a.nblocks(), a.block_cols(), a.block_rows()},
                a.dtype());
  Output permutation({op, "permutation"}, like, {a.nblocks()}, index);
  {
    const GilRelease unlocked;
    bsr_transpose(a, indptr.view(), indices.view(), blocks.view(), permutation.view());
  }
  return {make_handle<Bsr>(indptr.finish(), indices.finish(), blocks.finish(), a.cols(), a.rows(),
                           Csr::Check::trust),
          permutation.finish()};
}

}  // namespace

void bind_bsr(py::module_& module) {
  bind_compressed<Bsr>(module, "Bsr")
      .def_static("from_dense", &from_dense, py::arg("w"), py::arg("block_rows"),
                  py::arg("block_cols"), py::arg("mask"))
      .def("to_dense", &to_dense, py::arg("out"))
      .def("transpose", &transpose)
      .def_property_readonly("nblocks", [](const BsrHandle& a) { return a.matrix.nblocks(); })
      .def_property_readonly("block", [](const BsrHandle& a) {
        return std::pair(a.matrix.block_rows(), a.matrix.block_cols());
      });
}

}  // namespace gossamer::python
