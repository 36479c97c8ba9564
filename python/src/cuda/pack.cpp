#include "cuda/pack.h"

#include <cstdint>
#include <optional>
#include <utility>

#include "base/call.h"
#include "cuda/backend.h"
#include "formats/handle.h"
#include "gossamer/cuda.h"

namespace gossamer::python {
namespace {

py::object pack_binding(Call<Cuda>& call, py::handle a, const std::optional<std::int64_t>& n) {
  return with_held<Csr>(call, "a", a, [&](const CsrHandle& held) {
    const Csr& matrix = held.matrix;
    const py::object &like = held.values.array, &index_like = held.indptr.array;
    call.follow(like, "values");
    const cuda::TileLayout layout = cuda::choose_tiles(matrix, {.n = n});
    const bool bitmap = layout != cuda::TileLayout::deltas;
    const std::int64_t tiles = cuda::tile_count(matrix.rows(), matrix.cols());
    Output marks = call.create("marks", index_like, {32 * tiles}, DType::i32);
    Output starts = call.create("starts", index_like, {tiles + 1}, DType::i32);
    const std::int64_t units = call.run([&](const auto&... queue) {
      return cuda::pack_count(matrix, layout, marks.view(), starts.view(), queue...);
    });
    Output values = call.create("values", like, {8 * units}, matrix.dtype());
    std::optional<Output> deltas;
    if (!bitmap) deltas.emplace(call.create("deltas", like, {8 * units}, DType::u8));
    const cuda::PackedTiles made(layout, values.view(), bitmap ? marks.view() : deltas->view(),
                                 starts.view(), matrix.indptr(), matrix.rows(), matrix.cols(),
                                 matrix.nnz());
    call.run([&](const auto&... queue) {
      cuda::pack_fill(marks.view(), matrix.values(), made, queue...);
    });
    constexpr Where kWhere{"pack", "a"};
    Component v(values.finish(), kWhere), p(bitmap ? marks.finish() : deltas->finish(), kWhere),
        s(starts.finish(), kWhere);
    // A framework may have moved what it finished.
    const cuda::PackedTiles kept(layout, v.view(), p.view(), s.view(), matrix.indptr(),
                                 matrix.rows(), matrix.cols(), matrix.nnz());
    return py::cast(PackedTilesHandle{std::move(v), std::move(p), std::move(s), held.indptr, kept,
                                      n, cuda::columns_before_dense(kept)});
  });
}

py::object update_binding(Call<Cuda>& call, py::handle packed, py::handle values) {
  return with_matrix<cuda::PackedTiles>(call, "packed", packed, [&](const auto& matrix) {
    const Import import = call.read(values, "values");
    const auto workspace = call.workspace(
        values, [](const auto&... operands) { return cuda::packed_update_workspace(operands...); },
        matrix);
    call.run(workspace,
             [&](const auto&... queue) { cuda::packed_update(matrix, import.view(), queue...); });
    return py::none();
  });
}

py::object to_dense_binding(Call<Cuda>& call, py::handle packed, py::handle out) {
  return with_held<cuda::PackedTiles>(call, "packed", packed, [&](const PackedTilesHandle& held) {
    const cuda::PackedTiles& matrix = held.matrix;
    const py::object& like = held.values.array;
    call.follow(like, "values");
    Output dense = call.output(out, like, {matrix.rows(), matrix.cols()}, matrix.dtype());
    call.run([&](const auto&... queue) { cuda::packed_to_dense(matrix, dense.view(), queue...); });
    return dense.finish();
  });
}

/// The arrays of the matrix that was packed.
py::object parts_binding(Call<Cuda>& call, py::handle packed) {
  return with_held<cuda::PackedTiles>(call, "packed", packed, [&](const PackedTilesHandle& held) {
    const cuda::PackedTiles& matrix = held.matrix;
    call.follow(held.values.array, "values");
    Output indices = call.create("indices", held.indptr.array, {matrix.nnz()}, DType::i32);
    Output values = call.create("values", held.values.array, {matrix.nnz()}, matrix.dtype());
    const auto workspace = call.workspace(
        held.values.array,
        [](const auto&... operands) { return cuda::packed_update_workspace(operands...); }, matrix);
    call.run(workspace, [&](const auto&... queue) {
      cuda::packed_to_csr(matrix, indices.view(), values.view(), queue...);
    });
    return py::make_tuple(held.indptr.array, indices.finish(), values.finish());
  });
}

}  // namespace

void bind_pack(py::module_& module) {
  define(module, "pack", &pack_binding, py::arg("a"), py::arg("n"));
  define(module, {"packed_update", "Packed.update"}, &update_binding, py::arg("packed"),
         py::arg("values"));
  define(module, {"packed_to_dense", "Packed.to_dense"}, &to_dense_binding, py::arg("packed"),
         py::arg("out"));
  define(module, "packed_parts", &parts_binding, py::arg("packed"));
}

}  // namespace gossamer::python
