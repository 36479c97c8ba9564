#include "gossamer/graph.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "base/cut.h"
#include "base/floats.h"
#include "base/scratch.h"
#include "gossamer/detail/graph_checks.h"
#include "graph/kernels.h"

namespace gossamer::graph {
using namespace detail;
namespace {

RowPointers pointers(const CsrPattern& a) {
  return {.data = a.indptr().data, .wide = a.index_dtype() == DType::i64};
}

/// Calls body(row0, row1) for ranges of rows of about kTaskElements entries.
template <class F>
void for_rows(const CsrPattern& a, F&& body) {
  const std::int64_t work = a.nnz() + a.rows();
  const RowCut cut{.pieces = ceil_div(work, kTaskElements), .row_cost = 1};
  for_ranges(cut_rows(pointers(a), a.rows(), cut), static_cast<double>(work), body);
}

/// Calls body(set, row0, row1) for each of `sets` sets of values and ranges of rows.
template <class F>
void for_sets(const CsrPattern& a, std::int64_t sets, F&& body) {
  const std::int64_t work = a.nnz() + a.rows();
  const RowRanges ranges =
      cut_rows(pointers(a), a.rows(), {.pieces = ceil_div(work, kTaskElements), .row_cost = 1});
  for_tasks(sets * ranges.count(), static_cast<double>(sets) * static_cast<double>(work),
            [&](std::int64_t task) {
              const std::int64_t range = task % ranges.count();
              body(task / ranges.count(), ranges.begin(range), ranges.end(range));
            });
}

std::byte* at(const TensorView& view, std::int64_t element) {
  return static_cast<std::byte*>(view.data) + element * size_of(view.dtype);
}

void reduce(const CsrPattern& a, const TensorView& values, const TensorView& out, bool largest) {
  for_sets(a, sets_of(a, values), [&](std::int64_t set, std::int64_t row0, std::int64_t row1) {
    graph_kernels().row_reduce({.wide = a.index_dtype() == DType::i64,
                                .indptr = a.indptr().data,
                                .values = at(values, set * a.nnz()),
                                .type = values.dtype,
                                .row0 = row0,
                                .row1 = row1,
                                .largest = largest,
                                .out = at(out, set * a.rows())});
  });
}

template <class T>
void raise(T* sums, std::int64_t n, double power) {
  const auto exponent = static_cast<T>(power);
  for (std::int64_t i = 0; i < n; ++i) {
    sums[i] = power < 0 && sums[i] == 0 ? T{0} : std::pow(sums[i], exponent);
  }
}

}  // namespace

void edge_score(const CsrPattern& a, const TensorView& scores) {
  const FloatEnvironment floats;
  check_edge_score(Checker("edge_score"), a, scores);
  const std::int64_t n = a.rows();
  const Scratch roots(n * 4);
  const Scratch sums(n * 4);
  auto* root = roots.as<float>();
  const RowPointers indptr = pointers(a);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t degree = indptr[i + 1] - indptr[i];
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
  const FloatEnvironment floats;
  check_strength(Checker("strength"), a, axis, sums);
  const bool f64 = a.dtype() == DType::f64;
  const std::int64_t size = axis == 1 ? a.rows() : a.cols();
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

void row_sum(const CsrPattern& a, const std::optional<TensorView>& values, const TensorView& sums,
             double power) {
  const FloatEnvironment floats;
  check_row_sum(Checker("row_sum"), a, values, sums);
  if (values) {
    reduce(a, *values, sums, false);
  } else {
    const RowPointers indptr = pointers(a);
    for (std::int64_t i = 0; i < a.rows(); ++i) {
      static_cast<float*>(sums.data)[i] = static_cast<float>(indptr[i + 1] - indptr[i]);
    }
  }
  if (power == 1.0) return;
  if (sums.dtype == DType::f64) {
    raise(static_cast<double*>(sums.data), sums.numel(), power);
  } else {
    raise(static_cast<float*>(sums.data), sums.numel(), power);
  }
}

void row_max(const CsrPattern& a, const TensorView& values, const TensorView& out) {
  const FloatEnvironment floats;
  check_row_max(Checker("row_max"), a, values, out);
  reduce(a, values, out, true);
}

void scale_rows_cols(const CsrPattern& a, const std::optional<TensorView>& values,
                     const std::optional<TensorView>& rows, const std::optional<TensorView>& cols,
                     const TensorView& out) {
  const FloatEnvironment floats;
  check_scale_rows_cols(Checker("scale_rows_cols"), a, values, rows, cols, out);
  for_sets(a, sets_of(a, values), [&](std::int64_t set, std::int64_t row0, std::int64_t row1) {
    graph_kernels().scale_entries({.wide = a.index_dtype() == DType::i64,
                                   .indptr = a.indptr().data,
                                   .indices = a.indices().data,
                                   .values = values ? at(*values, set * a.nnz()) : nullptr,
                                   .type = out.dtype,
                                   .row0 = row0,
                                   .row1 = row1,
                                   .rows = rows ? rows->data : nullptr,
                                   .cols = cols ? cols->data : nullptr,
                                   .out = at(out, set * a.nnz())});
  });
}

}  // namespace gossamer::graph
