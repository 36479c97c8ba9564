// sddmm and spmm for several sets of operands on one CSR pattern, or on patterns that lie one below
// the other: the products of one set, in a loop.

#include <algorithm>
#include <cstddef>
#include <string>

#include "base/cut.h"
#include "base/floats.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/products.h"

namespace gossamer {
using namespace detail;
namespace {

std::size_t index(int axis) { return static_cast<std::size_t>(axis); }

std::string text(std::int64_t n) { return std::to_string(n); }

std::int64_t product_of(const TensorView& view, int axes) {
  std::int64_t n = 1;
  for (int d = 0; d < axes; ++d) n *= view.shape[index(d)];
  return n;
}

/// Matrix `set` of a view [..., rows, cols], counted over the leading axes in row-major order.
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

/// Set `set` of values [..., nnz].
TensorView set_of(const TensorView& values, std::int64_t set, std::int64_t nnz, std::int64_t first,
                  std::int64_t n) {
  return make_view(static_cast<void*>(static_cast<std::byte*>(values.data) +
                                      (set * nnz + first) * size_of(values.dtype)),
                   values.dtype, {n}, values.device);
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

/// Rows [stack·rows, (stack+1)·rows) of a pattern as one of its own.
class PatternPart {
 public:
  PatternPart(const CsrPattern& all, std::int64_t stack, std::int64_t rows)
      : whole_(rows == all.rows()),
        item_(size_of(all.index_dtype())),
        indptr_(whole_ ? 0 : (rows + 1) * item_),
        pattern_(whole_ ? all : part(all, stack * rows, rows)) {}

  [[nodiscard]] const CsrPattern& pattern() const { return pattern_; }
  [[nodiscard]] std::int64_t first() const { return first_; }

 private:
  CsrPattern part(const CsrPattern& all, std::int64_t row0, std::int64_t rows) {
    const DType type = all.index_dtype();
    std::int64_t nnz = 0;
    with_index_type(type, [&](auto zero) {
      using I = decltype(zero);
      const auto* from = static_cast<const I*>(all.indptr().data) + row0;
      auto* to = indptr_.as<I>();
      for (std::int64_t i = 0; i <= rows; ++i) to[i] = static_cast<I>(from[i] - from[0]);
      first_ = from[0];
      nnz = to[rows];
    });
    auto* indices = static_cast<std::byte*>(all.indices().data) + first_ * item_;
    return {make_view(static_cast<void*>(indptr_.data()), type, {rows + 1}, all.device()),
            make_view(static_cast<void*>(indices), type, {nnz}, all.device()), rows, all.cols(),
            Csr::Check::trust};
  }

  bool whole_;
  std::int64_t item_;
  Scratch indptr_;
  std::int64_t first_ = 0;
  CsrPattern pattern_;
};

/// body(set) for each of `sets`, side by side where there are enough for all threads.
template <class F>
void for_each_set(std::int64_t sets, F&& body) {
  if (sets >= std::int64_t{2} * num_threads()) {
    parallel_for(sets, body);
  } else {
    for (std::int64_t set = 0; set < sets; ++set) body(set);
  }
}

template <class T>
void scale_by(T* values, std::int64_t n, double scale) {
  const auto factor = static_cast<T>(scale);
  for (std::int64_t p = 0; p < n; ++p) values[p] *= factor;
}

/// A matrix in the type of sums; the same where it has that type.
class RealMatrix {
 public:
  explicit RealMatrix(const TensorView& x)
      : copy_(size_of(x.dtype) == 2 ? x.numel() * 4 : 0), view_(x) {
    if (size_of(x.dtype) != 2) return;
    widen_rows(x, copy_.data());
    view_ =
        make_view(static_cast<void*>(copy_.data()), DType::f32, {x.shape[0], x.shape[1]}, x.device);
  }
  [[nodiscard]] const TensorView& view() const { return view_; }

 private:
  Scratch copy_;
  TensorView view_;
};

}  // namespace

void sddmm(const TensorView& a, const TensorView& b, const CsrPattern& pattern,
           const TensorView& out, const SddmmOptions& options) {
  const FloatEnvironment floats;
  const Checker check("sddmm");
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
  if (out.numel() == 0) return;
  const std::int64_t nnz = pattern.nnz();
  for_each_set(sets, [&](std::int64_t set) {
    const std::int64_t stack = stacks == 1 ? 0 : set % stacks;
    const PatternPart part(pattern, stack, rows);
    const std::int64_t n = part.pattern().nnz();
    const TensorView result = set_of(out, stacks == 1 ? set : set / stacks, nnz, part.first(), n);
    // Values of the pattern are not read: any memory of their size stands for them.
    const Csr matrix = part.pattern().with_values(result);
    const TensorView x = matrix_of(a, set), y = matrix_of(b, set);
    if (options.scale == 1.0 && !wide_result) {
      return sddmm(x, y, matrix, result, options.accumulate);
    }
    const RealMatrix left(x), right(y);
    const bool f64 = a.dtype == DType::f64;
    const Scratch sums(n * (f64 ? 8 : 4));
    const TensorView real = make_view(static_cast<void*>(sums.data()), left.view().dtype, {n});
    sddmm(left.view(), right.view(), matrix, real);
    if (f64) {
      scale_by(sums.as<double>(), n, options.scale);
    } else {
      scale_by(sums.as<float>(), n, options.scale);
    }
    narrow(sums.data(), n, result.data, result.dtype, options.accumulate);
  });
}

void spmm(const CsrPattern& a, const TensorView& values, const TensorView& b, const TensorView& out,
          bool transpose_a, bool stacked, const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Checker check("spmm");
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
  if (out.numel() == 0) return;
  for_each_set(sets, [&](std::int64_t set) {
    const PatternPart part(a, stacks == 1 ? 0 : set % stacks, rows);
    const std::int64_t n = part.pattern().nnz();
    const std::int64_t value_set = of_values == 0 ? 0 : set / stacks;
    const Csr matrix =
        part.pattern().with_values(set_of(values, value_set, a.nnz(), part.first(), n));
    spmm(matrix, same_b ? b : matrix_of(b, set), matrix_of(out, set), transpose_a, epilogue);
  });
}

}  // namespace gossamer
