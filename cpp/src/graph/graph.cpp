#include "gossamer/graph.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/check.h"
#include "graph/kernels.h"

namespace gossamer::graph {
using namespace detail;
namespace {

std::int64_t pointer(const Csr& a, std::int64_t row) {
  return a.index_dtype() == DType::i64 ? static_cast<const std::int64_t*>(a.indptr().data)[row]
                                       : static_cast<const std::int32_t*>(a.indptr().data)[row];
}

/// Row bounds of pieces of about kTaskElements entries: row i ends a piece.
std::vector<std::int64_t> row_pieces(const Csr& a) {
  std::vector<std::int64_t> bounds{0};
  std::int64_t last = 0;
  for (std::int64_t row = 1; row <= a.rows(); ++row) {
    const std::int64_t load = pointer(a, row) + row;
    if (load - last >= kTaskElements || row == a.rows()) {
      bounds.push_back(row);
      last = load;
    }
  }
  return bounds;
}

template <class F>
void for_rows(const Csr& a, F&& body) {
  const auto bounds = row_pieces(a);
  const double work = static_cast<double>(a.nnz() + a.rows());
  for_tasks(static_cast<std::int64_t>(bounds.size()) - 1, work, [&](std::int64_t task) {
    const auto i = static_cast<std::size_t>(task);
    body(bounds[i], bounds[i + 1]);
  });
}

void check_out(const Checker& check, const Argument& out, DType dtype, std::int64_t size,
               const Csr& a) {
  if (out.view.dtype != dtype) {
    check.type_error(std::string(out.name) + ".dtype is " + name_of(out.view.dtype) +
                     ", expected " + name_of(dtype));
  }
  check.device(out, a.device(), "a");
  check.shape(out, {size});
  check.layout(out);
  check.writable(out,
                 {{"a.values", a.values()}, {"a.indices", a.indices()}, {"a.indptr", a.indptr()}});
}

}  // namespace

void edge_score(const Csr& a, const TensorView& scores) {
  const Checker check("edge_score");
  if (a.rows() != a.cols()) {
    check.value_error("a.shape is (" + std::to_string(a.rows()) + ", " + std::to_string(a.cols()) +
                      "), expected a square matrix");
  }
  check_out(check, {"scores", scores}, DType::f32, a.nnz(), a);
  const std::int64_t n = a.rows();
  const Scratch roots(n * 4);
  const Scratch sums(n * 4);
  auto* root = roots.as<float>();
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t degree = pointer(a, i + 1) - pointer(a, i);
    root[i] = degree > 0 ? 1.0f / std::sqrt(static_cast<float>(degree)) : 0.0f;
  }
  for (float* out : {static_cast<float*>(nullptr), static_cast<float*>(scores.data)}) {
    for_rows(a, [&](std::int64_t row0, std::int64_t row1) {
      graph_kernels().edge_score({.wide = a.index_dtype() == DType::i64,
                                  .indptr = a.indptr().data,
                                  .indices = a.indices().data,
                                  .row0 = row0,
                                  .row1 = row1,
                                  .root = root,
                                  .near = sums.as<float>(),
                                  .scores = out});
    });
    if (a.nnz() == 0) return;
  }
}

void strength(const Csr& a, int axis, const TensorView& sums) {
  const Checker check("strength");
  if (axis != 0 && axis != 1) {
    check.value_error("axis is " + std::to_string(axis) + ", expected 0 or 1");
  }
  const bool f64 = a.dtype() == DType::f64;
  const std::int64_t size = axis == 1 ? a.rows() : a.cols();
  check_out(check, {"out", sums}, f64 ? DType::f64 : DType::f32, size, a);
  const bool wide = a.index_dtype() == DType::i64;
  // Columns: each of a few pieces of the entries, as many as the sums are few, has sums of its own.
  const std::int64_t pieces =
      axis == 1 ? 1
                : std::clamp<std::int64_t>(a.nnz() / std::max<std::int64_t>(4 * size, 1), 1, 16);
  const Scratch scratch(pieces * size * 8);
  auto* parts = scratch.as<double>();
  if (axis == 1) {
    for_rows(a, [&](std::int64_t row0, std::int64_t row1) {
      graph_kernels().row_strength({.wide = wide,
                                    .indptr = a.indptr().data,
                                    .values = a.values().data,
                                    .type = a.dtype(),
                                    .row0 = row0,
                                    .row1 = row1,
                                    .sums = parts});
    });
  } else {
    for_tasks(pieces, static_cast<double>(a.nnz()), [&](std::int64_t piece) {
      std::fill_n(parts + piece * size, size, 0.0);
      graph_kernels().column_strength({.wide = wide,
                                       .indices = a.indices().data,
                                       .values = a.values().data,
                                       .type = a.dtype(),
                                       .begin = a.nnz() * piece / pieces,
                                       .end = a.nnz() * (piece + 1) / pieces,
                                       .sums = parts + piece * size});
    });
  }
  for (std::int64_t i = 0; i < size; ++i) {
    double sum = 0;
    for (std::int64_t piece = 0; piece < pieces; ++piece) sum += parts[piece * size + i];
    if (f64) {
      static_cast<double*>(sums.data)[i] = sum;
    } else {
      static_cast<float*>(sums.data)[i] = static_cast<float>(sum);
    }
  }
}

}  // namespace gossamer::graph
