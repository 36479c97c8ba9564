#include <pybind11/numpy.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "cuda/bind.h"
#include "cuda/launch.h"
#include "formats/handle.h"
#include "gossamer/cuda.h"

namespace gossamer::python {
namespace {

/// The arrays of the matrix that `w` [M, K] makes: (indptr, indices, values).
py::tuple from_dense(py::handle w, py::handle mask, const std::string& index_dtype) {
  constexpr const char* op = "CSR.from_dense";
  const DType index = dtype_named(index_dtype);
  const Launch launch(w, {op, "w"});
  const Import dense = launch.read(w, {op, "w"});
  const std::optional<Import> kept = launch.read_optional(mask, {op, "mask"});
  const std::optional<TensorView> kept_view = view_of(kept);
  const TensorView& view = dense.view();
  Output indptr({op, "indptr"}, w, {view.shape[0] + 1}, index);
  const Workspace workspace(w, cuda::csr_count_workspace(view));
  std::int64_t nnz = 0;
  launch.run(view.device, [&] {
    nnz = cuda::csr_count(view, kept_view, indptr.view(), workspace.view(), launch.stream());
  });
  Output indices({op, "indices"}, w, {nnz}, index);
  Output values({op, "values"}, w, {nnz}, view.dtype);
  launch.run(view.device, [&] {
    cuda::csr_fill(view, kept_view, indptr.view(), indices.view(), values.view(), launch.stream());
  });
  return py::make_tuple(indptr.finish(), indices.finish(), values.finish());
}

py::object to_dense(const CsrHandle& a, py::handle out) {
  constexpr const char* op = "CSR.to_dense";
  const Launch launch(a.values, {op, "values"});
  Output dense =
      launch.output(op, out, a.values, {a.matrix.rows(), a.matrix.cols()}, a.matrix.dtype());
  launch.run(a.matrix.device(),
             [&] { cuda::csr_to_dense(a.matrix, dense.view(), launch.stream()); });
  return dense.finish();
}

/// (indptr, indices, values, permutation or None).
py::tuple transpose(const CsrHandle& self, bool with_permutation) {
  constexpr const char* op = "CSR.transpose";
  const Csr& a = self.matrix;
  const DType index = a.index_dtype();
  const py::object& like = self.structure->indptr;
  const Launch launch(self.values, {op, "values"});
  Output indptr({op, "indptr"}, like, {a.cols() + 1}, index);
  Output indices({op, "indices"}, like, {a.nnz()}, index);
  Output values({op, "values"}, self.values, {a.nnz()}, a.dtype());
  std::optional<Output> permutation;
  if (with_permutation) permutation.emplace(Where{op, "permutation"}, like, Shape{a.nnz()}, index);
  const Workspace workspace(self.values, cuda::csr_transpose_workspace(a));
  launch.run(a.device(), [&] {
    cuda::csr_transpose(a, indptr.view(), indices.view(), values.view(),
                        permutation ? std::optional(permutation->view()) : std::nullopt,
                        workspace.view(), launch.stream());
  });
  return py::make_tuple(indptr.finish(), indices.finish(), values.finish(),
                        permutation ? permutation->finish() : py::none());
}

/// The arrays of the matrix of blocks that `w` [M, K] makes: (indptr, indices, blocks).
py::tuple bsr_from_dense(py::handle w, std::int64_t block_rows, std::int64_t block_cols,
                         py::handle mask, const std::string& index_dtype) {
  constexpr const char* op = "BSR.from_dense";
  const DType index = dtype_named(index_dtype);
  const Launch launch(w, {op, "w"});
  const Import dense = launch.read(w, {op, "w"});
  const std::optional<Import> kept = launch.read_optional(mask, {op, "mask"});
  const std::optional<TensorView> kept_view = view_of(kept);
  const TensorView& view = dense.view();
  // A block without rows is for the library to refuse.
  const std::int64_t rows = view.shape[0] / std::max<std::int64_t>(block_rows, 1);
  const std::int64_t cols = view.shape[1] / std::max<std::int64_t>(block_cols, 1);
  Output indptr({op, "indptr"}, w, {rows + 1}, index);
  const Output found({op, "kept"}, w, {rows, cols}, DType::boolean);
  const Workspace workspace(w, cuda::bsr_count_workspace(view, block_rows, block_cols));
  std::int64_t nblocks = 0;
  launch.run(view.device, [&] {
    nblocks = cuda::bsr_count(view, kept_view, block_rows, block_cols, found.view(), indptr.view(),
                              workspace.view(), launch.stream());
  });
  Output indices({op, "indices"}, w, {nblocks}, index);
  Output blocks({op, "blocks"}, w, {nblocks, block_rows, block_cols}, view.dtype);
  launch.run(view.device, [&] {
    cuda::bsr_fill(view, kept_view, found.view(), indptr.view(), indices.view(), blocks.view(),
                   launch.stream());
  });
  return py::make_tuple(indptr.finish(), indices.finish(), blocks.finish());
}

py::object bsr_to_dense(const BsrHandle& a, py::handle out) {
  constexpr const char* op = "BSR.to_dense";
  const Launch launch(a.values, {op, "blocks"});
  Output dense =
      launch.output(op, out, a.values, {a.matrix.rows(), a.matrix.cols()}, a.matrix.dtype());
  launch.run(a.matrix.device(),
             [&] { cuda::bsr_to_dense(a.matrix, dense.view(), launch.stream()); });
  return dense.finish();
}

/// (indptr, indices, blocks, permutation).
py::tuple bsr_transpose(const BsrHandle& self) {
  constexpr const char* op = "BSR.transpose";
  const Bsr& a = self.matrix;
  const DType index = a.index_dtype();
  const py::object& like = self.structure->indptr;
  const Launch launch(self.values, {op, "blocks"});
  Output indptr({op, "indptr"}, like, {a.cols() / a.block_cols() + 1}, index);
  Output indices({op, "indices"}, like, {a.nblocks()}, index);
  Output blocks({op, "blocks"}, self.values, {a.nblocks(), a.block_cols(), a.block_rows()},
                a.dtype());
  Output permutation({op, "permutation"}, like, {a.nblocks()}, index);
  const Workspace workspace(self.values, cuda::bsr_transpose_workspace(a));
  launch.run(a.device(), [&] {
    cuda::bsr_transpose(a, indptr.view(), indices.view(), blocks.view(), permutation.view(),
                        workspace.view(), launch.stream());
  });
  return py::make_tuple(indptr.finish(), indices.finish(), blocks.finish(), permutation.finish());
}

py::object convert(py::handle array, const std::string& dtype) {
  constexpr Where where{"CSR", "indices"};
  const Launch launch(array, where);
  const Import from = launch.read(array, where);
  Output to(where, array, {from.view().shape[0]}, dtype_named(dtype));
  launch.run(from.view().device,
             [&] { cuda::convert_indices(from.view(), to.view(), launch.stream()); });
  return to.finish();
}

/// A NumPy copy of an array of one axis. Waits for it.
py::array to_host(py::handle array) {
  constexpr Where where{"CSR", "indices"};
  const Launch launch(array, where);
  const Import from = launch.read(array, where);
  const TensorView& view = from.view();
  py::array host(py::dtype(name_of(view.dtype)), std::vector<py::ssize_t>{view.shape[0]});
  void* data = host.mutable_data();
  launch.run(view.device, [&] { cuda::copy_to_host(view, data, launch.stream()); });
  return host;
}

}  // namespace

void bind_cuda_formats(py::module_& module) {
  module.def("csr_from_dense", &from_dense, py::arg("w"), py::arg("mask"), py::arg("index_dtype"));
  module.def("csr_to_dense", &to_dense, py::arg("a"), py::arg("out"));
  module.def("csr_transpose", &transpose, py::arg("a"), py::arg("with_permutation"));
  module.def("bsr_from_dense", &bsr_from_dense, py::arg("w"), py::arg("block_rows"),
             py::arg("block_cols"), py::arg("mask"), py::arg("index_dtype"));
  module.def("bsr_to_dense", &bsr_to_dense, py::arg("a"), py::arg("out"));
  module.def("bsr_transpose", &bsr_transpose, py::arg("a"));
  module.def("convert_indices", &convert, py::arg("array"), py::arg("dtype"));
  module.def("to_host", &to_host, py::arg("array"));
}

}  // namespace gossamer::python
