#include <algorithm>
#include <array>
#include <cstddef>
#include <string>

#include "gossamer/detail/product_checks.h"
#include "gossamer/detail/shown.h"

namespace gossamer::detail {
namespace {

void set_epilogue(const Checker& check, const Epilogue& epilogue, std::int64_t m, DType dtype,
                  Device device, const TensorView& out, const char* sparse, const char* rows,
                  Product& product) {
  if (epilogue.bias.has_value()) {
    const Argument bias{"bias", *epilogue.bias};
    check.rank(bias, {1});
    check.dtype(bias, dtype, sparse);
    check.device(bias, device, sparse);
    check.extent(bias, 0, m, rows);
    check.layout(bias);
    check.writable({"out", out}, {bias});
    product.bias = epilogue.bias->data;
  }
  if (epilogue.activation == Activation::clamp && !(epilogue.lo <= epilogue.hi)) {
    check.value_error("activation is clamp from " + shown(epilogue.lo) + " to " +
                      shown(epilogue.hi) + ", expected lo <= hi");
  }
  product.activation = epilogue.activation;
  product.lo = epilogue.lo;
  product.hi = epilogue.hi;
  product.accumulate = epilogue.accumulate;
}

template <class Format>
void check_apart(const Checker& check, const char* sparse, const Format& a, const Argument& values,
                 const Argument& out) {
  const std::string name = std::string(sparse) + "." + values.name;
  const std::string indices = std::string(sparse) + ".indices";
  const std::string indptr = std::string(sparse) + ".indptr";
  check.writable(
      out,
      {{name.c_str(), values.view}, {indices.c_str(), a.indices()}, {indptr.c_str(), a.indptr()}});
}

/// The gradients that a backward is asked for, by the name of the dense one: apart from each other,
/// and from what is read.
void check_gradients(const Checker& check, const Argument& dy, const Argument& operand,
                     bool has_operand, const char* dense, const char* sparse,
                     const Argument& values, std::int64_t m, const char* rows,
                     const Gradients& gradients) {
  const auto check_output = [&](const Argument& out) {
    check.dtype(out, values.view.dtype, sparse);
    check.device(out, values.view.device, sparse);
    check.writable(out, {dy});
    if (has_operand) check.writable(out, {operand});
  };
  if (gradients.dense) {
    check_output({dense, *gradients.dense});
    check.layout({dense, *gradients.dense});
  }
  if (gradients.values) {
    const Argument out{"dvalues", *gradients.values};
    if (!has_operand) {
      check.value_error(std::string(operand.name) +
                        " is None, expected an array where dvalues are computed");
    }
    check_output(out);
    check.same_shape(out, {(std::string(sparse) + "." + values.name).c_str(), values.view});
    check.contiguous(out);
    if (gradients.dense) check.writable(out, {{dense, *gradients.dense}});
  }
  if (gradients.bias) {
    const Argument out{"dbias", *gradients.bias};
    check_output(out);
    check.rank(out, {1});
    check.extent(out, 0, m, rows);
    check.contiguous(out);
    if (gradients.dense) check.writable(out, {{dense, *gradients.dense}});
    if (gradients.values) check.writable(out, {{"dvalues", *gradients.values}});
  }
}

/// `operand` has the leading axes of `dy` and then `width` elements.
void check_leading(const Checker& check, const Argument& operand, const TensorView& dy,
                   std::int64_t width) {
  TensorView expected = dy;
  expected.shape[static_cast<std::size_t>(dy.rank - 1)] = width;
  if (operand.view.rank != dy.rank ||
      !std::equal(expected.shape.begin(), expected.shape.begin() + dy.rank,
                  operand.view.shape.begin())) {
    check.value_error(std::string(operand.name) + ".shape is " + shape_string(operand.view) +
                      ", expected " + shape_string(expected));
  }
}

/// A matrix, or a vector as a single column, which is stored as one.
DenseView columns_view(const TensorView& x) {
  if (x.rank == 1) return {x.data, x.dtype, 1, true};
  return {x.data, x.dtype, x.strides[0], false};
}

template <class Format>
void check_sddmm(const Checker& check, const TensorView& a, const TensorView& b,
                 const Format& pattern, const TensorView& out,
                 std::initializer_list<std::int64_t> shape) {
  check.rank({"a", a}, {2});
  check.rank({"b", b}, {2});
  check.floating({"a", a});
  check.dtype({"b", b}, a.dtype, "a");
  check.device({"a", a}, pattern.device(), "pattern");
  check.device({"b", b}, pattern.device(), "pattern");
  check.extent({"a", a}, 0, pattern.rows(), "pattern.shape[0]");
  check.extent({"b", b}, 0, pattern.cols(), "pattern.shape[1]");
  check.extent({"b", b}, 1, a.shape[1], "a.shape[1]");
  check.layout({"a", a});
  check.layout({"b", b});
  check.dtype({"out", out}, a.dtype, "a");
  check.device({"out", out}, pattern.device(), "pattern");
  check.shape({"out", out}, shape);
  check.contiguous({"out", out});
  check.writable({"out", out}, {{"a", a},
                                {"b", b},
                                {"pattern.indices", pattern.indices()},
                                {"pattern.indptr", pattern.indptr()}});
}

/// Makes one axis of the leading axes of x and out, which have the same extents, as far as both lie
/// in memory as one axis. If that leaves several axes, the longest becomes the columns of each
/// product, and the others count the products.
void cut_batch(const TensorView& x, const TensorView& out, Product& product) {
  struct Axis {
    std::int64_t size, x, out;  // strides in elements
  };
  std::array<Axis, kMaxRank> axes;
  std::size_t count = 0;
  for (auto d = static_cast<std::size_t>(x.rank - 1); d-- > 0;) {
    if (x.shape[d] == 1) continue;
    if (x.shape[d] == 0) {
      product.n = 0;
      return;
    }
    if (count > 0) {
      Axis& inner = axes[count - 1];
      if (x.strides[d] == inner.x * inner.size && out.strides[d] == inner.out * inner.size) {
        inner.size *= x.shape[d];
        continue;
      }
    }
    axes[count++] = {x.shape[d], x.strides[d], out.strides[d]};
  }
  if (count == 0) return;
  const auto end = axes.begin() + static_cast<std::ptrdiff_t>(count);
  const auto longest = std::max_element(
      axes.begin(), end, [](const Axis& a, const Axis& b) { return a.size < b.size; });
  product.n = longest->size;
  product.b.stride = longest->x;
  product.out.stride = longest->out;
  if (count == 1) return;
  const auto bytes = static_cast<std::int64_t>(size_of(x.dtype));
  product.parts = {{0, 0}};
  for (auto axis = axes.begin(); axis != end; ++axis) {
    if (axis == longest) continue;
    const std::size_t parts = product.parts.size();
    product.parts.reserve(parts * static_cast<std::size_t>(axis->size));
    for (std::int64_t i = 1; i < axis->size; ++i) {
      for (std::size_t p = 0; p < parts; ++p) {
        const auto [from, to] = product.parts[p];
        product.parts.emplace_back(from + i * axis->x * bytes, to + i * axis->out * bytes);
      }
    }
  }
}

}  // namespace

Product check_spmm(const Checker& check, const SparseInfo& a, const TensorView& b,
                   const TensorView& out, bool transpose_a, const Epilogue& epilogue) {
  const std::int64_t m = transpose_a ? a.cols : a.rows, k = transpose_a ? a.rows : a.cols;
  const char* rows = transpose_a ? "a.shape[1]" : "a.shape[0]";
  check.rank({"b", b}, {1, 2});
  check.dtype({"b", b}, a.dtype, "a");
  check.device({"b", b}, a.device, "a");
  check.extent({"b", b}, 0, k, transpose_a ? "a.shape[0]" : "a.shape[1]");
  check.layout({"b", b});
  check.dtype({"out", out}, a.dtype, "a");
  check.device({"out", out}, a.device, "a");
  if (b.rank == 1) {
    check.shape({"out", out}, {m});
  } else {
    check.shape({"out", out}, {m, b.shape[1]});
  }
  check.layout({"out", out});
  check.writable({"out", out}, {{"b", b}});
  Product product{.b = {b.data, b.dtype, 1, true},
                  .out = {out.data, out.dtype, 1, true},
                  .m = m,
                  .k = k,
                  .n = b.rank == 1 ? 1 : b.shape[1]};
  // A vector is one column, stored as one: that is, transposed.
  if (b.rank == 2) {
    product.b = {b.data, b.dtype, b.strides[0], false};
    product.out = {out.data, out.dtype, out.strides[0], false};
  }
  set_epilogue(check, epilogue, m, a.dtype, a.device, out, "a", rows, product);
  return product;
}

Product check_linear(const Checker& check, const TensorView& x, const SparseInfo& w,
                     const TensorView& out, const Epilogue& epilogue) {
  if (x.rank < 1) check.value_error("x.ndim is 0, expected at least 1");
  const int last = x.rank - 1;
  check.dtype({"x", x}, w.dtype, "w");
  check.device({"x", x}, w.device, "w");
  check.extent({"x", x}, last, w.cols, "w.shape[1]");
  check.layout({"x", x});
  check.dtype({"out", out}, w.dtype, "w");
  check.device({"out", out}, w.device, "w");
  TensorView expected = x;
  expected.shape[static_cast<std::size_t>(last)] = w.rows;
  if (out.rank != x.rank ||
      !std::equal(expected.shape.begin(), expected.shape.begin() + x.rank, out.shape.begin())) {
    check.value_error("out.shape is " + shape_string(out) + ", expected " + shape_string(expected));
  }
  check.layout({"out", out});
  check.writable({"out", out}, {{"x", x}});
  Product product{.b = {x.data, x.dtype, w.cols, true},
                  .out = {out.data, out.dtype, w.rows, true},
                  .m = w.rows,
                  .k = w.cols,
                  .n = 1};
  cut_batch(x, out, product);
  set_epilogue(check, epilogue, w.rows, w.dtype, w.device, out, "w", "w.shape[0]", product);
  return product;
}

void check_apart(const Checker& check, const char* sparse, const Csr& a, const TensorView& out,
                 const char* name) {
  check_apart(check, sparse, a, {"values", a.values()}, Argument{name, out});
}

void check_apart(const Checker& check, const char* sparse, const Bsr& a, const TensorView& out,
                 const char* name) {
  check_apart(check, sparse, a, {"blocks", a.blocks()}, Argument{name, out});
}

void check_apart(const Checker& check, const char* sparse, const Nm& a, const TensorView& out,
                 const char* name) {
  const std::string values = std::string(sparse) + ".values";
  const std::string indices = std::string(sparse) + ".indices";
  check.writable({name, out}, {{values.c_str(), a.values()}, {indices.c_str(), a.indices()}});
}

void check_apart(const Checker& check, const char* sparse, const GroupQuant& a,
                 const TensorView& out, const char* label) {
  const std::string name = sparse;
  const std::string names[] = {name + ".indptr", name + ".indices", name + ".codes",
                               name + ".scales", name + ".zeros"};
  check.writable({label, out}, {{names[0].c_str(), a.indptr()},
                                {names[1].c_str(), a.indices()},
                                {names[2].c_str(), a.codes()},
                                {names[3].c_str(), a.scales()},
                                {names[4].c_str(), a.zeros()}});
}

BackwardProduct check_linear_backward(const Checker& check, const TensorView& dy,
                                      const std::optional<TensorView>& x, const SparseInfo& w,
                                      const Argument& values, const Gradients& gradients) {
  if (dy.rank < 1) check.value_error("dy.ndim is 0, expected at least 1");
  check.dtype({"dy", dy}, w.dtype, "w");
  check.device({"dy", dy}, w.device, "w");
  check.extent({"dy", dy}, dy.rank - 1, w.rows, "w.shape[0]");
  check.layout({"dy", dy});
  const TensorView operand = x.value_or(TensorView{});
  if (x) {
    check.dtype({"x", *x}, w.dtype, "w");
    check.device({"x", *x}, w.device, "w");
    check_leading(check, {"x", *x}, dy, w.cols);
    check.layout({"x", *x});
  }
  if (gradients.dense) check_leading(check, {"dx", *gradients.dense}, dy, w.cols);
  check_gradients(check, {"dy", dy}, {"x", operand}, x.has_value(), "dx", "w", values, w.rows,
                  "w.shape[0]", gradients);
  const auto rows_view = [&](const char* name, const TensorView& view) {
    const TensorView rows = check.tokens({name, view});
    return DenseView{view.data, view.dtype, rows.strides[0], true};
  };
  const TensorView rows = check.tokens({"dy", dy});
  BackwardProduct product{
      .dy = rows_view("dy", dy), .b = {}, .db = {}, .m = w.rows, .k = w.cols, .n = rows.shape[0]};
  if (x) product.b = rows_view("x", *x);
  if (gradients.dense) product.db = rows_view("dx", *gradients.dense);
  return product;
}

BackwardProduct check_spmm_backward(const Checker& check, const TensorView& dy, const SparseInfo& a,
                                    const std::optional<TensorView>& b, const Argument& values,
                                    bool transpose_a, const Gradients& gradients) {
  const std::int64_t m = transpose_a ? a.cols : a.rows, k = transpose_a ? a.rows : a.cols;
  const char* rows = transpose_a ? "a.shape[1]" : "a.shape[0]";
  check.rank({"dy", dy}, {1, 2});
  check.dtype({"dy", dy}, a.dtype, "a");
  check.device({"dy", dy}, a.device, "a");
  check.extent({"dy", dy}, 0, m, rows);
  check.layout({"dy", dy});
  const auto check_shape = [&](const Argument& argument) {
    if (dy.rank == 1) {
      check.shape(argument, {k});
    } else {
      check.shape(argument, {k, dy.shape[1]});
    }
  };
  const TensorView operand = b.value_or(TensorView{});
  if (b) {
    check.dtype({"b", *b}, a.dtype, "a");
    check.device({"b", *b}, a.device, "a");
    check_shape({"b", *b});
    check.layout({"b", *b});
  }
  if (gradients.dense) check_shape({"db", *gradients.dense});
  check_gradients(check, {"dy", dy}, {"b", operand}, b.has_value(), "db", "a", values, m, rows,
                  gradients);
  return {.dy = columns_view(dy),
          .b = b ? columns_view(*b) : DenseView{},
          .db = gradients.dense ? columns_view(*gradients.dense) : DenseView{},
          .m = m,
          .k = k,
          .n = dy.rank == 1 ? 1 : dy.shape[1]};
}

void check_sddmm(const Checker& check, const TensorView& a, const TensorView& b, const Csr& pattern,
                 const TensorView& out) {
  check_sddmm(check, a, b, pattern, out, {pattern.nnz()});
}

void check_sddmm(const Checker& check, const TensorView& a, const TensorView& b, const Bsr& pattern,
                 const TensorView& out) {
  check_sddmm(check, a, b, pattern, out,
              {pattern.nblocks(), pattern.block_rows(), pattern.block_cols()});
}

}  // namespace gossamer::detail
