#include "gossamer/graph.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/check.h"
#include "graph/kernels.h"
#include "prune/proximal/kernels.h"
#include "prune/rows.h"

namespace gossamer {
using namespace detail;
namespace {

std::int64_t pieces_of(std::int64_t n) { return (n + kTaskElements - 1) / kTaskElements; }

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

void mean_same_pattern(std::span<const Csr> matrices, const TensorView& values) {
  const Checker check("mean_same_pattern");
  if (matrices.empty()) check.value_error("matrices is empty, expected at least one");
  const Csr& first = matrices.front();
  std::vector<const void*> inputs;
  for (std::size_t k = 0; k < matrices.size(); ++k) {
    const Csr& a = matrices[k];
    const std::string name = "matrices[" + std::to_string(k) + "]";
    if (a.dtype() != first.dtype()) {
      check.type_error(name + ".dtype is " + name_of(a.dtype()) +
                       ", expected matrices[0].dtype = " + name_of(first.dtype()));
    }
    const auto equal = [&](const TensorView& x, const TensorView& y) {
      if (x.dtype != y.dtype || x.shape[0] != y.shape[0]) return false;
      const auto size = static_cast<std::size_t>(x.shape[0] * size_of(x.dtype));
      return x.data == y.data || size == 0 || std::memcmp(x.data, y.data, size) == 0;
    };
    if (a.rows() != first.rows() || a.cols() != first.cols() || a.nnz() != first.nnz() ||
        !equal(a.indptr(), first.indptr()) || !equal(a.indices(), first.indices())) {
      check.value_error(name + " has a pattern of its own, expected that of matrices[0]");
    }
    inputs.push_back(a.values().data);
  }
  check.dtype({"values", values}, first.dtype(), "matrices[0]");
  check.shape({"values", values}, {first.nnz()});
  check.layout({"values", values});
  for (const Csr& a : matrices) {
    check.writable({"values", values}, {{"a matrix", a.values()}, {"a matrix", a.indices()}});
  }
  const std::int64_t nnz = first.nnz();
  for_tasks(pieces_of(nnz), 0.3 * static_cast<double>(nnz), [&](std::int64_t piece) {
    proximal_kernels().mean({.inputs = inputs.data(),
                             .count = static_cast<std::int64_t>(inputs.size()),
                             .type = first.dtype(),
                             .begin = piece * kTaskElements,
                             .end = std::min(nnz, (piece + 1) * kTaskElements),
                             .out = values.data});
  });
}

std::int64_t coverage_or_(const TensorView& fired, const TensorView& mask) {
  const Checker check("coverage_or_");
  check_mask(check, {"fired", fired}, {"fired", fired});
  check_mask(check, {"mask", mask}, {"fired", fired});
  for (const Argument& argument : {Argument{"fired", fired}, Argument{"mask", mask}}) {
    if (!is_contiguous(argument.view)) {
      check.value_error(std::string(argument.name) + " is not contiguous, expected it to be");
    }
  }
  check.writable({"fired", fired}, {{"mask", mask}});
  const std::int64_t n = fired.numel(), pieces = pieces_of(n);
  const Scratch counts(pieces * 8);
  auto* count = counts.as<std::int64_t>();
  for_tasks(pieces, 0.1 * static_cast<double>(n), [&](std::int64_t piece) {
    const std::int64_t begin = piece * kTaskElements;
    graph_kernels().cover({.fired = static_cast<std::uint8_t*>(fired.data) + begin,
                           .mask = static_cast<const std::uint8_t*>(mask.data) + begin,
                           .size = std::min(kTaskElements, n - begin),
                           .count = count + piece});
  });
  std::int64_t total = 0;
  for (std::int64_t piece = 0; piece < pieces; ++piece) total += count[piece];
  return total;
}

void count_nonzero(const TensorView& x, std::int64_t rows, std::int64_t cols,
                   const TensorView& counts) {
  const Checker check("nnz_stats");
  check.rank({"x", x}, {2});
  if (!is_floating(x.dtype) && x.dtype != DType::boolean && x.dtype != DType::u8) {
    check.type_error(std::string("x.dtype is ") + name_of(x.dtype) +
                     ", expected a floating type, bool or uint8");
  }
  check.device({"x", x}, {}, "the CPU");
  check.layout({"x", x});
  if (rows < 1 || cols < 1) {
    check.value_error("block is (" + std::to_string(rows) + ", " + std::to_string(cols) +
                      "), expected at least 1 each");
  }
  const std::int64_t height = x.shape[0], width = x.shape[1];
  const std::int64_t down = (height + rows - 1) / rows, across = (width + cols - 1) / cols;
  if (counts.dtype != DType::i64) {
    check.type_error(std::string("counts.dtype is ") + name_of(counts.dtype) + ", expected int64");
  }
  check.shape({"counts", counts}, {down, across});
  check.layout({"counts", counts});
  check.writable({"counts", counts}, {{"x", x}});
  // Few tall blocks are cut along their columns.
  const std::int64_t strips = std::clamp<std::int64_t>(across, 1, down < 64 ? 64 : 1);
  const double work = 0.1 * static_cast<double>(x.numel());
  for_tasks(down * strips, work, [&](std::int64_t task) {
    const std::int64_t block = task / strips, strip = task % strips;
    const std::int64_t first = across * strip / strips, last = across * (strip + 1) / strips;
    auto* out = static_cast<std::int64_t*>(counts.data) + block * counts.strides[0] + first;
    std::fill_n(out, last - first, std::int64_t{0});
    if (first == last) return;
    const std::int64_t row = block * rows, col = first * cols;
    graph_kernels().count_nonzero(
        {.x = static_cast<const std::byte*>(x.data) + (row * x.strides[0] + col) * size_of(x.dtype),
         .type = x.dtype,
         .stride = x.strides[0],
         .rows = std::min(rows, height - row),
         .cols = std::min(last * cols, width) - col,
         .run = cols,
         .counts = out});
  });
}

}  // namespace gossamer
