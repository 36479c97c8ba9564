#include <algorithm>
#include <string>

#include "gossamer/detail/graph_checks.h"

namespace gossamer::detail {
namespace {

DType real_type(DType values) { return values == DType::f64 ? DType::f64 : DType::f32; }

/// Throws unless `out` has the shape of the values, or of the entries where there are none, with
/// `size` for the entries, is contiguous, of the type `dtype`, and apart from what is read.
void check_sets(const Checker& check, const CsrPattern& a, const std::optional<TensorView>& values,
                const Argument& out, std::int64_t size, DType dtype) {
  TensorView expected = make_view(static_cast<void*>(nullptr), dtype, {size});
  if (values) {
    a.check_values(*values);
    expected = *values;
    expected.shape[static_cast<std::size_t>(values->rank - 1)] = size;
  }
  check.device({"a.indices", a.indices()}, a.device(), "a");
  if (out.view.dtype != dtype) {
    check.type_error(std::string(out.name) + ".dtype is " + name_of(out.view.dtype) +
                     ", expected " + name_of(dtype));
  }
  check.device(out, a.device(), "a");
  if (out.view.rank != expected.rank ||
      !std::equal(expected.shape.begin(), expected.shape.begin() + expected.rank,
                  out.view.shape.begin())) {
    check.value_error(std::string(out.name) + ".shape is " + shape_string(out.view) +
                      ", expected " + shape_string(expected));
  }
  check.contiguous(out);
  check.writable(out, {{"a.indices", a.indices()}, {"a.indptr", a.indptr()}});
  if (values) check.writable(out, {{"a.values", *values}});
}

void check_factor(const Checker& check, const CsrPattern& a, const Argument& factor,
                  std::int64_t size, const char* axis, DType dtype, const Argument& out) {
  check.rank(factor, {1});
  if (factor.view.dtype != dtype) {
    check.type_error(std::string(factor.name) + ".dtype is " + name_of(factor.view.dtype) +
                     ", expected " + name_of(dtype));
  }
  check.device(factor, a.device(), "a");
  check.extent(factor, 0, size, axis);
  check.layout(factor);
  check.writable(out, {factor});
}

/// `out` [size], of the type `dtype`, apart from what is read.
void check_out(const Checker& check, const Argument& out, DType dtype, std::int64_t size,
               const CsrPattern& a) {
  check.device({"a.indices", a.indices()}, a.device(), "a");
  if (out.view.dtype != dtype) {
    check.type_error(std::string(out.name) + ".dtype is " + name_of(out.view.dtype) +
                     ", expected " + name_of(dtype));
  }
  check.device(out, a.device(), "a");
  check.shape(out, {size});
  check.layout(out);
  check.writable(out, {{"a.indices", a.indices()}, {"a.indptr", a.indptr()}});
}

}  // namespace

void check_edge_score(const Checker& check, const CsrPattern& a, const TensorView& scores) {
  if (a.rows() != a.cols()) {
    check.value_error("a.shape is (" + std::to_string(a.rows()) + ", " + std::to_string(a.cols()) +
                      "), expected a square matrix");
  }
  check_out(check, {"scores", scores}, DType::f32, a.nnz(), a);
}

void check_strength(const Checker& check, const Csr& a, int axis, const TensorView& sums) {
  if (axis != 0 && axis != 1) {
    check.value_error("axis is " + std::to_string(axis) + ", expected 0 or 1");
  }
  check_out(check, {"out", sums}, real_type(a.dtype()), axis == 1 ? a.rows() : a.cols(), a);
  check.writable({"out", sums}, {{"a.values", a.values()}});
}

std::int64_t sets_of(const CsrPattern& a, const std::optional<TensorView>& values) {
  if (!values) return 1;
  std::int64_t sets = 1;
  for (int d = 0; d + 1 < values->rank; ++d) sets *= values->shape[static_cast<std::size_t>(d)];
  return a.rows() == 0 ? 0 : sets;
}

void check_row_sum(const Checker& check, const CsrPattern& a,
                   const std::optional<TensorView>& values, const TensorView& sums) {
  const DType dtype = values ? real_type(values->dtype) : DType::f32;
  check_sets(check, a, values, {"out", sums}, a.rows(), dtype);
}

void check_row_max(const Checker& check, const CsrPattern& a, const TensorView& values,
                   const TensorView& out) {
  check_sets(check, a, values, {"out", out}, a.rows(), real_type(values.dtype));
}

void check_scale_rows_cols(const Checker& check, const CsrPattern& a,
                           const std::optional<TensorView>& values,
                           const std::optional<TensorView>& rows,
                           const std::optional<TensorView>& cols, const TensorView& out) {
  if (!values && !rows && !cols) {
    check.value_error("a.values, rows and cols are None, expected one of them");
  }
  DType dtype = values ? values->dtype : rows ? rows->dtype : cols->dtype;
  if (!values && dtype != DType::f64) dtype = DType::f32;
  check_sets(check, a, values, {"out", out}, a.nnz(), dtype);
  const Argument result{"out", out};
  if (rows)
    check_factor(check, a, {"rows", *rows}, a.rows(), "a.shape[0]", real_type(dtype), result);
  if (cols)
    check_factor(check, a, {"cols", *cols}, a.cols(), "a.shape[1]", real_type(dtype), result);
}

}  // namespace gossamer::detail
