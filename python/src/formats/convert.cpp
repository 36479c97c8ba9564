#include "formats/convert.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/tensor.h"
#include "cuda/backend.h"
#include "formats/compressed.h"
#include "formats/handle.h"
#include "gossamer/cuda.h"

namespace gossamer::python {
namespace {

// Those of CPUs, which take neither workspace nor stream, are found beside them.
using cuda::bsr_count, cuda::bsr_fill, cuda::bsr_to_dense, cuda::bsr_transpose;
using cuda::convert_indices, cuda::csr_count, cuda::csr_fill, cuda::csr_to_dense,
    cuda::csr_transpose;
using cuda::nm_pack, cuda::nm_to_dense, cuda::quant_to_dense;

/// The index type of a matrix that is made: kernels of GPUs take no other than int32, and say so
/// where the entries that are kept are too many.
template <class Backend>
DType new_index_type(std::int64_t rows, std::int64_t cols, std::int64_t entries) {
  if constexpr (Backend::kDevice == DeviceType::cpu) return index_type(rows, cols, entries);
  return DType::i32;
}

/// A matrix over arrays whose structure is known to be right. Only _core has the formats'
/// constructors.
template <class Format, class Backend>
py::object trusted(py::object indptr, py::object indices, py::object values, std::int64_t rows,
                   std::int64_t cols, DType index) {
  if constexpr (Backend::kDevice == DeviceType::cpu) {
    return py::cast(make_handle<Format>(std::move(indptr), std::move(indices), std::move(values),
                                        rows, cols, Csr::Check::trust));
  } else {
    return py::type::of<Handle<Format>>()(indptr, indices, values, rows, cols, false,
                                          name_of(index));
  }
}

void require_matrix(Where where, const TensorView& view) {
  if (view.rank == 2) return;
  throw ValueError(where.text() + ".ndim is " + std::to_string(view.rank) + ", expected 2");
}

template <class Backend>
py::object csr_from_dense(Call<Backend>& call, py::handle w, py::handle mask) {
  const Import dense = call.read(w, "w");
  const std::optional<Import> kept = call.read_optional(mask, "mask");
  const std::optional<TensorView> kept_view = view_of(kept);
  const TensorView& view = dense.view();
  require_matrix(call.where("w"), view);
  const std::int64_t rows = view.shape[0], cols = view.shape[1];
  const DType index = new_index_type<Backend>(rows, cols, view.numel());
  Output indptr = call.create("indptr", w, {rows + 1}, index);
  const auto workspace = call.workspace(
      w, [](const auto&... operands) { return cuda::csr_count_workspace(operands...); }, view);
  const std::int64_t nnz = call.run(workspace, [&](const auto&... queue) {
    return csr_count(view, kept_view, indptr.view(), queue...);
  });
  Output indices = call.create("indices", w, {nnz}, index);
  Output values = call.create("values", w, {nnz}, view.dtype);
  call.run([&](const auto&... queue) {
    csr_fill(view, kept_view, indptr.view(), indices.view(), values.view(), queue...);
  });
  return trusted<Csr, Backend>(indptr.finish(), indices.finish(), values.finish(), rows, cols,
                               index);
}

/// The array that a dense result is like, and its name.
template <class Handle>
std::pair<const py::object&, const char*> elements(const Handle& held) {
  if constexpr (std::is_same_v<Handle, QuantHandle>) {
    return {held.codes.array, "codes"};
  } else {
    return {held.values.array, std::is_same_v<Handle, BsrHandle> ? "blocks" : "values"};
  }
}

template <class Matrix, class... Rest>
void write_dense(const Matrix& matrix, const Rest&... rest) {
  if constexpr (std::is_same_v<Matrix, Csr>) csr_to_dense(matrix, rest...);
  if constexpr (std::is_same_v<Matrix, Bsr>) bsr_to_dense(matrix, rest...);
  if constexpr (std::is_same_v<Matrix, Nm>) nm_to_dense(matrix, rest...);
  if constexpr (std::is_same_v<Matrix, GroupQuant>) quant_to_dense(matrix, rest...);
}

template <class Matrix, class Backend>
py::object to_dense(Call<Backend>& call, py::handle a, py::handle out) {
  return with_held<Matrix>(call, "a", a, [&](const auto& held) {
    const Matrix& matrix = held.matrix;
    const auto [array, name] = elements(held);
    call.follow(array, name);
    Output dense = call.output(out, array, {matrix.rows(), matrix.cols()}, matrix.dtype());
    call.run([&](const auto&... queue) { write_dense(matrix, dense.view(), queue...); });
    return dense.finish();
  });
}

/// The transpose, and the permutation or None.
template <class Backend>
py::object csr_transpose_binding(Call<Backend>& call, py::handle a, bool with_permutation) {
  return with_held<Csr>(call, "a", a, [&](const CsrHandle& held) {
    const Csr& matrix = held.matrix;
    const DType index = matrix.index_dtype();
    const py::object& like = held.indptr.array;
    call.follow(held.values.array, "values");
    Output indptr = call.create("indptr", like, {matrix.cols() + 1}, index);
    Output indices = call.create("indices", like, {matrix.nnz()}, index);
    Output values = call.create("values", held.values.array, {matrix.nnz()}, matrix.dtype());
    std::optional<Output> permutation;
    if (with_permutation) {
      permutation.emplace(call.create("permutation", like, {matrix.nnz()}, index));
    }
    const auto workspace = call.workspace(
        held.values.array,
        [](const auto&... operands) { return cuda::csr_transpose_workspace(operands...); }, matrix);
    call.run(workspace, [&](const auto&... queue) {
      csr_transpose(matrix, indptr.view(), indices.view(), std::optional(values.view()),
                    permutation ? std::optional(permutation->view()) : std::nullopt, queue...);
    });
    return py::make_tuple(trusted<Csr, Backend>(indptr.finish(), indices.finish(), values.finish(),
                                                matrix.cols(), matrix.rows(), index),
                          permutation ? permutation->finish() : py::none());
  });
}

template <class Backend>
py::object bsr_from_dense(Call<Backend>& call, py::handle w, std::int64_t block_rows,
                          std::int64_t block_cols, py::handle mask) {
  const Import dense = call.read(w, "w");
  const std::optional<Import> kept = call.read_optional(mask, "mask");
  const std::optional<TensorView> kept_view = view_of(kept);
  const TensorView& view = dense.view();
  require_matrix(call.where("w"), view);
  const std::int64_t rows = view.shape[0], cols = view.shape[1];
  const DType index = new_index_type<Backend>(rows, cols, view.numel());
  // A block without rows is for the library to refuse.
  const std::int64_t grid_rows = rows / std::max<std::int64_t>(block_rows, 1);
  const std::int64_t grid_cols = cols / std::max<std::int64_t>(block_cols, 1);
  Output indptr = call.create("indptr", w, {grid_rows + 1}, index);
  // On a GPU, which blocks are kept: its two passes share that.
  std::optional<Output> found;
  if (Backend::kDevice != DeviceType::cpu) {
    found.emplace(call.create("kept", w, {grid_rows, grid_cols}, DType::boolean));
  }
  const auto workspace = call.workspace(
      w, [](const auto&... operands) { return cuda::bsr_count_workspace(operands...); }, view,
      block_rows, block_cols);
  const std::int64_t nblocks = call.run(workspace, [&](const auto&... queue) {
    if constexpr (sizeof...(queue) == 0) {
      return bsr_count(view, kept_view, block_rows, block_cols, indptr.view());
    } else {
      return bsr_count(view, kept_view, block_rows, block_cols, found->view(), indptr.view(),
                       queue...);
    }
  });
  Output indices = call.create("indices", w, {nblocks}, index);
  Output blocks = call.create("blocks", w, {nblocks, block_rows, block_cols}, view.dtype);
  call.run([&](const auto&... queue) {
    if constexpr (sizeof...(queue) == 0) {
      bsr_fill(view, kept_view, indptr.view(), indices.view(), blocks.view());
    } else {
      bsr_fill(view, kept_view, found->view(), indptr.view(), indices.view(), blocks.view(),
               queue...);
    }
  });
  return trusted<Bsr, Backend>(indptr.finish(), indices.finish(), blocks.finish(), rows, cols,
                               index);
}

/// The transpose and the permutation of the blocks.
template <class Backend>
py::object bsr_transpose_binding(Call<Backend>& call, py::handle a) {
  return with_held<Bsr>(call, "a", a, [&](const BsrHandle& held) {
    const Bsr& matrix = held.matrix;
    const DType index = matrix.index_dtype();
    const py::object& like = held.indptr.array;
    call.follow(held.values.array, "blocks");
    Output indptr = call.create("indptr", like, {matrix.cols() / matrix.block_cols() + 1}, index);
    Output indices = call.create("indices", like, {matrix.nblocks()}, index);
    Output blocks =
        call.create("blocks", held.values.array,
                    {matrix.nblocks(), matrix.block_cols(), matrix.block_rows()}, matrix.dtype());
    Output permutation = call.create("permutation", like, {matrix.nblocks()}, index);
    const auto workspace = call.workspace(
        held.values.array,
        [](const auto&... operands) { return cuda::bsr_transpose_workspace(operands...); }, matrix);
    call.run(workspace, [&](const auto&... queue) {
      bsr_transpose(matrix, indptr.view(), indices.view(), std::optional(blocks.view()),
                    permutation.view(), queue...);
    });
    return py::make_tuple(trusted<Bsr, Backend>(indptr.finish(), indices.finish(), blocks.finish(),
                                                matrix.cols(), matrix.rows(), index),
                          permutation.finish());
  });
}

template <class Backend>
py::object nm_from_dense(Call<Backend>& call, py::handle w, std::int64_t n, std::int64_t m,
                         int axis, py::handle mask) {
  const Import dense = call.read(w, "w");
  const std::optional<Import> kept = call.read_optional(mask, "mask");
  const std::optional<TensorView> kept_view = view_of(kept);
  const TensorView& view = dense.view();
  require_matrix(call.where("w"), view);
  const std::int64_t rows = view.shape[0], cols = view.shape[1];
  const NmShape shape = nm_shape(rows, cols, n, m, axis);
  Output values = call.create("values", w, {shape.lines, shape.slots}, view.dtype);
  Output indices = call.create("indices", w, {shape.lines, shape.index_bytes}, DType::u8);
  const auto workspace = call.workspace(
      w, [](const auto&... operands) { return cuda::nm_pack_workspace(operands...); }, view);
  call.run(workspace, [&](const auto&... queue) {
    nm_pack(view, kept_view, n, m, axis, values.view(), indices.view(), queue...);
  });
  return py::type::of<NmHandle>()(values.finish(), indices.finish(), rows, cols, n, m, axis, false);
}

}  // namespace

template <class Backend>
py::object convert_indices_binding(Call<Backend>& call, py::handle array,
                                   const std::string& dtype) {
  const Import from = call.read(array, "indices");
  Output to = call.create("indices", array, {from.view().shape[0]}, dtype_named(dtype));
  call.run([&](const auto&... queue) { convert_indices(from.view(), to.view(), queue...); });
  return to.finish();
}

template <class Backend>
void bind_conversions(py::module_& module) {
  define(module, {"csr_from_dense", "CSR.from_dense"}, &csr_from_dense<Backend>, py::arg("w"),
         py::arg("mask"));
  define(module, {"csr_to_dense", "CSR.to_dense"}, &to_dense<Csr, Backend>, py::arg("a"),
         py::arg("out"));
  define(module, {"csr_transpose", "CSR.transpose"}, &csr_transpose_binding<Backend>, py::arg("a"),
         py::arg("with_permutation"));
  define(module, {"bsr_from_dense", "BSR.from_dense"}, &bsr_from_dense<Backend>, py::arg("w"),
         py::arg("block_rows"), py::arg("block_cols"), py::arg("mask"));
  define(module, {"bsr_to_dense", "BSR.to_dense"}, &to_dense<Bsr, Backend>, py::arg("a"),
         py::arg("out"));
  define(module, {"bsr_transpose", "BSR.transpose"}, &bsr_transpose_binding<Backend>, py::arg("a"));
  define(module, {"nm_from_dense", "NM.from_dense"}, &nm_from_dense<Backend>, py::arg("w"),
         py::arg("n"), py::arg("m"), py::arg("axis"), py::arg("mask"));
  define(module, {"nm_to_dense", "NM.to_dense"}, &to_dense<Nm, Backend>, py::arg("a"),
         py::arg("out"));
  define(module, {"quant_to_dense", "GroupQuant.to_dense"}, &to_dense<GroupQuant, Backend>,
         py::arg("a"), py::arg("out"));
  define(module, kConvertIndices, &convert_indices_binding<Backend>, py::arg("array"),
         py::arg("dtype"));
}

template py::object convert_indices_binding<GOSSAMER_BACKEND>(Call<GOSSAMER_BACKEND>& call,
                                                              py::handle array,
                                                              const std::string& dtype);
template void bind_conversions<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
