#include "prune/diagnostics.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "base/call.h"
#include "formats/handle.h"
#include "gossamer/error.h"
#include "gossamer/prune/diagnostics.h"

namespace gossamer::python {
using namespace prune;
namespace {

py::object mean_binding(Call<Cpu>& call, const py::list& matrices) {
  std::vector<Csr> views;
  for (const py::handle matrix : matrices) {
    views.push_back(py::cast<const CsrHandle&>(matrix).matrix);
    call.settle("matrices", views.back().device());
  }
  if (views.empty()) {
    throw ValueError("mean_same_pattern: matrices is empty, expected at least one");
  }
  const py::object& like = py::cast<const CsrHandle&>(matrices[0]).values.array;
  Output values = call.create("values", like, {views[0].nnz()}, views[0].dtype());
  call.run([&] { mean_same_pattern(views, values.view()); });
  return values.finish();
}

std::int64_t coverage_binding(Call<Cpu>& call, py::handle fired, py::handle mask) {
  const Import fired_import = call.write(fired, "fired");
  const Import mask_import = call.read(mask, "mask");
  return call.run([&] { return coverage_or_(fired_import.view(), mask_import.view()); });
}

/// Counts in blocks of rows x cols of an array [height, width] or a matrix, in the framework of
/// `like`; 0 stands for the whole extent.
template <class Count>
py::object count_blocks(Call<Cpu>& call, py::handle like, std::int64_t height, std::int64_t width,
                        std::int64_t rows, std::int64_t cols, Count&& count) {
  const auto blocks = [](std::int64_t extent, std::int64_t block) {
    return block == 0 ? std::int64_t{1} : (extent + block - 1) / block;
  };
  if (rows < 0 || cols < 0) {
    throw ValueError("nnz_stats: block is (" + std::to_string(rows) + ", " + std::to_string(cols) +
                     "), expected at least 1 each");
  }
  Shape shape;
  if (rows != 0) shape.push_back(blocks(height, rows));
  if (cols != 0) shape.push_back(blocks(width, cols));
  Output out = call.create("counts", like, shape, DType::i64);
  const TensorView counts =
      make_view(out.view().data, DType::i64, {blocks(height, rows), blocks(width, cols)});
  call.run([&] {
    if (height == 0 || width == 0) {
      std::fill_n(static_cast<std::int64_t*>(counts.data), counts.numel(), 0);
    } else {
      count(rows == 0 ? height : rows, cols == 0 ? width : cols, counts);
    }
  });
  return out.finish();
}

/// `x` is a sparse matrix or an array.
py::object nnz_stats_binding(Call<Cpu>& call, py::handle x, std::int64_t rows, std::int64_t cols) {
  if (as<Csr>(x) != nullptr || as<Bsr>(x) != nullptr) {
    return with_held<Csr, Bsr>(call, "x", x, [&](const auto& held) {
      const auto& matrix = held.matrix;
      return count_blocks(call, held.values.array, matrix.rows(), matrix.cols(), rows, cols,
                          [&](std::int64_t r, std::int64_t c, const TensorView& counts) {
                            nnz_stats(matrix, r, c, counts);
                          });
    });
  }
  const Import import = call.read(x, "x");
  const TensorView& view = import.view();
  if (view.rank != 2) {
    throw ValueError("nnz_stats: x.ndim is " + std::to_string(view.rank) + ", expected 2");
  }
  return count_blocks(call, x, view.shape[0], view.shape[1], rows, cols,
                      [&](std::int64_t r, std::int64_t c, const TensorView& counts) {
                        nnz_stats(view, r, c, counts);
                      });
}

}  // namespace

void bind_diagnostics(py::module_& module) {
  define(module, "mean_same_pattern", &mean_binding, py::arg("matrices"));
  define(module, "coverage_or_", &coverage_binding, py::arg("fired"), py::arg("mask"));
  define(module, "nnz_stats", &nnz_stats_binding, py::arg("x"), py::arg("rows"), py::arg("cols"));
}

}  // namespace gossamer::python
