// spmm and linear: what their arguments must be, and the product that they mean.

#include <algorithm>
#include <string>

#include "gossamer/ops.h"
#include "ops/check.h"
#include "ops/product.h"

namespace gossamer {
namespace {

/// What the checks need to know of the sparse operand, whatever its format.
struct Sparse {
  std::int64_t rows, cols;
  DType dtype;
  Device device;
};

template <class Format>
Sparse describe(const Format& a) {
  return {.rows = a.rows(), .cols = a.cols(), .dtype = a.dtype(), .device = a.device()};
}

kernels::Activate to_kernel(Activation activation) {
  switch (activation) {
    case Activation::none:
      return kernels::Activate::none;
    case Activation::relu:
      return kernels::Activate::relu;
    case Activation::relu6:
      return kernels::Activate::relu6;
    case Activation::gelu:
      return kernels::Activate::gelu;
    case Activation::silu:
      return kernels::Activate::silu;
    case Activation::clamp:
      return kernels::Activate::clamp;
  }
  return kernels::Activate::none;
}

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
    check.value_error("activation is clamp from " + std::to_string(epilogue.lo) + " to " +
                      std::to_string(epilogue.hi) + ", expected lo <= hi");
  }
  product.activation = to_kernel(epilogue.activation);
  product.lo = epilogue.lo;
  product.hi = epilogue.hi;
  product.accumulate = epilogue.accumulate;
}

Product check_spmm(const Sparse& a, const TensorView& b, const TensorView& out, bool transpose_a,
                   const Epilogue& epilogue) {
  const Checker check("spmm");
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

/// Rows and row stride of x [..., width] read as a matrix; ValueError where no one stride fits.
struct Matrix {
  std::int64_t rows, stride;
};

Matrix as_matrix(const Checker& check, const Argument& x) {
  Matrix matrix{.rows = 1, .stride = 0};
  for (int d = x.view.rank - 2; d >= 0; --d) {
    const auto i = static_cast<std::size_t>(d);
    if (x.view.shape[i] == 1) continue;
    if (matrix.rows == 1) {
      matrix.stride = x.view.strides[i];
    } else if (x.view.numel() > 0 && x.view.strides[i] != matrix.stride * matrix.rows) {
      check.value_error(std::string(x.name) + ".strides[" + std::to_string(d) + "] is " +
                        std::to_string(x.view.strides[i]) +
                        ", expected leading axes that form one (make it contiguous)");
    }
    matrix.rows *= x.view.shape[i];
  }
  return matrix;
}

Product check_linear(const TensorView& x, const Sparse& w, const TensorView& out,
                     const Epilogue& epilogue) {
  const Checker check("linear");
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
  const Matrix from = as_matrix(check, {"x", x}), to = as_matrix(check, {"out", out});
  Product product{.b = {x.data, x.dtype, from.stride, true},
                  .out = {out.data, out.dtype, to.stride, true},
                  .m = w.rows,
                  .k = w.cols,
                  .n = from.rows};
  set_epilogue(check, epilogue, w.rows, w.dtype, w.device, out, "w", "w.shape[0]", product);
  return product;
}

/// The result may not lie in the matrix that is being read.
void check_apart(const char* op, const char* sparse, const Csr& a, const TensorView& out) {
  const std::string values = std::string(sparse) + ".values";
  const std::string indices = std::string(sparse) + ".indices";
  const std::string indptr = std::string(sparse) + ".indptr";
  Checker(op).writable(
      {"out", out},
      {{values.c_str(), a.values()}, {indices.c_str(), a.indices()}, {indptr.c_str(), a.indptr()}});
}

}  // namespace

void spmm(const Csr& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue) {
  const Product product = check_spmm(describe(a), b, out, transpose_a, epilogue);
  check_apart("spmm", "a", a, out);
  if (transpose_a) {
    multiply_transposed(rows_view(a), product);
  } else {
    multiply(rows_view(a), product);
  }
}

void spmm(const Packed& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue) {
  const Product product = check_spmm(describe(a), b, out, transpose_a, epilogue);
  multiply(transpose_a ? a.impl().transposed() : a.impl(), product);
}

void linear(const TensorView& x, const Csr& w, const TensorView& out, const Epilogue& epilogue) {
  const Product product = check_linear(x, describe(w), out, epilogue);
  check_apart("linear", "w", w, out);
  multiply(rows_view(w), product);
}

void linear(const TensorView& x, const Packed& w, const TensorView& out, const Epilogue& epilogue) {
  multiply(w.impl(), check_linear(x, describe(w), out, epilogue));
}

}  // namespace gossamer
