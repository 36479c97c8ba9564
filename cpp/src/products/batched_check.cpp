// What sddmm and spmm for several sets of operands ask of these.

#include <algorithm>
#include <cstddef>
#include <string>

#include "gossamer/detail/product_checks.h"

namespace gossamer::detail {
namespace {

std::size_t index(int axis) { return static_cast<std::size_t>(axis); }

std::int64_t product_of(const TensorView& view, int axes) {
  std::int64_t n = 1;
  for (int d = 0; d < axes; ++d) n *= view.shape[index(d)];
  return n;
}

void check_shape(const Checker& check, const Argument& array, const TensorView& expected) {
  const TensorView& view = array.view;
  if (view.rank == expected.rank &&
      std::equal(view.shape.begin(), view.shape.begin() + view.rank, expected.shape.begin())) {
    return;
  }
  check.value_error(std::string(array.name) + ".shape is " + shape_string(view) + ", expected " +
                    shape_string(expected));
}

/// The first `axes` axes of a view, to which others are added.
TensorView leading_of(const TensorView& view, int axes) {
  TensorView leading = view;
  leading.rank = axes;
  return leading;
}

void add_axis(TensorView& shape, std::int64_t extent) { shape.shape[index(shape.rank++)] = extent; }

}  // namespace

TensorView matrix_of(const TensorView& view, std::int64_t set) {
  TensorView matrix = view;
  std::int64_t offset = 0;
  for (int d = view.rank - 3; d >= 0; --d) {
    const std::int64_t extent = view.shape[index(d)];
    offset += set % extent * view.strides[index(d)];
    set /= extent;
  }
  matrix.data = static_cast<std::byte*>(view.data) + offset * size_of(view.dtype);
  matrix.rank = 2;
  for (int d = 0; d < 2; ++d) {
    matrix.shape[index(d)] = view.shape[index(view.rank - 2 + d)];
    matrix.strides[index(d)] = view.strides[index(view.rank - 2 + d)];
  }
  return matrix;
}

MatrixSets check_sddmm(const Checker& check, const TensorView& a, const TensorView& b,
                       const CsrPattern& pattern, const TensorView& out) {
  check.floating({"a", a});
  check.dtype({"b", b}, a.dtype, "a");
  check.device({"a", a}, pattern.device(), "pattern");
  check.device({"b", b}, pattern.device(), "pattern");
  if (a.rank < 2) check.value_error("a.ndim is " + text(a.rank) + ", expected at least 2");
  check.rank({"b", b}, {a.rank});
  const int leading = a.rank - 2;
  for (int d = 0; d < leading; ++d) {
    check.extent({"b", b}, d, a.shape[index(d)], "a's");
  }
  const std::int64_t rows = a.shape[index(leading)], depth = a.shape[index(leading + 1)];
  check.extent({"b", b}, leading, pattern.cols(), "pattern.shape[1]");
  check.extent({"b", b}, leading + 1, depth, "a's last");
  check.layout({"a", a});
  check.layout({"b", b});
  const std::int64_t sets = product_of(a, leading);
  // How many sets lie one below the other in the pattern: the last axis, or all of them.
  std::int64_t stacks = 1;
  int stacked = 0;  // axes
  if (pattern.rows() != rows) {
    for (const int axes : {leading, 1}) {
      const std::int64_t n = axes == leading ? sets : leading > 0 ? a.shape[index(leading - 1)] : 0;
      std::int64_t all = 0;
      if (leading >= axes && axes > 0 && !__builtin_mul_overflow(n, rows, &all) &&
          all == pattern.rows()) {
        stacks = n;
        stacked = axes;
        break;
      }
    }
    if (stacked == 0) {
      check.value_error("pattern.shape[0] is " + text(pattern.rows()) + ", expected " + text(rows) +
                        ", or as many for each of a's matrices");
    }
  }
  const bool wide_result = out.dtype == DType::f32 && size_of(a.dtype) == 2;
  if (!wide_result) check.dtype({"out", out}, a.dtype, "a");
  check.device({"out", out}, pattern.device(), "pattern");
  TensorView expected = leading_of(a, leading - stacked);
  add_axis(expected, pattern.nnz());
  check_shape(check, {"out", out}, expected);
  check.contiguous({"out", out});
  check.writable({"out", out}, {{"a", a},
                                {"b", b},
                                {"pattern.indices", pattern.indices()},
                                {"pattern.indptr", pattern.indptr()}});
  return {.sets = sets, .stacks = stacks, .rows = rows, .leading = leading};
}

MatrixSets check_spmm(const Checker& check, const CsrPattern& a, const TensorView& values,
                      const TensorView& b, const TensorView& out, bool transpose_a, bool stacked,
                      const Epilogue& epilogue) {
  a.check_values(values);
  check.dtype({"b", b}, values.dtype, "a");
  check.device({"b", b}, a.device(), "a");
  if (b.rank < 2) check.value_error("b.ndim is " + text(b.rank) + ", expected at least 2");
  const int of_values = values.rank - 1, of_b = b.rank - 2;
  const bool same_b = of_b == 0 && of_values > 0 && !stacked;
  const int leading = same_b ? of_values : of_b;
  const TensorView& axes = same_b ? values : b;
  const std::int64_t sets = product_of(axes, leading);
  if (stacked && of_b == 0) {
    check.value_error("b.ndim is 2, expected a leading axis for the matrices of a stacked a");
  }
  // A stacked A has its matrices for the last leading axis, or for all where it has one set.
  const int stacked_axes = !stacked ? 0 : of_values == 0 ? leading : 1;
  const std::int64_t stacks = !stacked                  ? 1
                              : stacked_axes == leading ? sets
                                                        : b.shape[index(leading - 1)];
  const int wanted = of_values == 0 ? 0 : leading - stacked_axes;
  TensorView expected_values = leading_of(axes, wanted);
  add_axis(expected_values, a.nnz());
  check_shape(check, {"a.values", values}, expected_values);
  if (stacked && (stacks == 0 || a.rows() % stacks != 0)) {
    check.value_error("a.shape[0] is " + text(a.rows()) + ", expected a multiple of the " +
                      text(stacks) + " matrices of b");
  }
  const std::int64_t rows = a.rows() / stacks;
  const std::int64_t m = transpose_a ? a.cols() : rows, k = transpose_a ? rows : a.cols();
  check.extent({"b", b}, of_b, k, transpose_a ? "the rows of a" : "a.shape[1]");
  check.layout({"b", b});
  check.dtype({"out", out}, values.dtype, "a");
  check.device({"out", out}, a.device(), "a");
  TensorView expected = leading_of(axes, leading);
  add_axis(expected, m);
  add_axis(expected, b.shape[index(b.rank - 1)]);
  check_shape(check, {"out", out}, expected);
  check.layout({"out", out});
  check.writable(
      {"out", out},
      {{"a.values", values}, {"b", b}, {"a.indices", a.indices()}, {"a.indptr", a.indptr()}});
  if (epilogue.bias) check.writable({"out", out}, {{"bias", *epilogue.bias}});
  return {.sets = sets, .stacks = stacks, .rows = rows, .leading = leading, .same_b = same_b};
}

}  // namespace gossamer::detail
