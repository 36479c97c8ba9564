// What the operations ask of their arguments, on whatever device.

#include "gossamer/detail/check.h"

#include <algorithm>
#include <limits>
#include <string>

namespace gossamer::detail {
namespace {

std::string text(std::int64_t n) { return std::to_string(n); }

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
  product.activation = epilogue.activation;
  product.lo = epilogue.lo;
  product.hi = epilogue.hi;
  product.accumulate = epilogue.accumulate;
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

void check_floating(const Checker& check, const Argument& argument) {
  if (is_floating(argument.view.dtype)) return;
  check.type_error(std::string(argument.name) + ".dtype is " + name_of(argument.view.dtype) +
                   ", expected float32, float64, float16 or bfloat16");
}

void check_index(const Checker& check, const Argument& argument) {
  if (argument.view.dtype == DType::i32 || argument.view.dtype == DType::i64) return;
  check.type_error(std::string(argument.name) + ".dtype is " + name_of(argument.view.dtype) +
                   ", expected int32 or int64");
}

/// A contiguous, writable array of `rank` axes, `size` elements along the first, that shares no
/// memory with `inputs`.
void check_output(const Checker& check, const Argument& out, Device device, const char* like,
                  std::int64_t size, const char* what, std::initializer_list<Argument> inputs,
                  int rank = 1) {
  check.rank(out, {rank});
  check.extent(out, 0, size, what);
  check.device(out, device, like);
  check.contiguous(out);
  check.writable(out, inputs);
}

/// The dense matrix `out` that a sparse one is written out to.
template <class Format>
void check_written_out(const Checker& check, const Format& a, const Argument& values,
                       const TensorView& out) {
  check.dtype({"out", out}, a.dtype(), "a");
  check.rank({"out", out}, {2});
  check.extent({"out", out}, 0, a.rows(), "a.shape[0]");
  check.extent({"out", out}, 1, a.cols(), "a.shape[1]");
  check.device({"out", out}, a.device(), "a");
  check.layout({"out", out});
  check.writable({"out", out}, {{"a.indptr", a.indptr()}, {"a.indices", a.indices()}, values});
}

/// What counting and filling ask of their common arguments, but for indptr's being writable; it has
/// `pointers` elements, which `what` explains.
void check_dense(const Checker& check, const TensorView& w, const std::optional<TensorView>& mask,
                 const TensorView& indptr, std::int64_t pointers, const char* what) {
  check_floating(check, {"w", w});
  if (mask && mask->dtype != DType::boolean && mask->dtype != DType::u8) {
    check.type_error(std::string("mask.dtype is ") + name_of(mask->dtype) +
                     ", expected bool or uint8");
  }
  check_index(check, {"indptr", indptr});
  check.rank({"w", w}, {2});
  check.device({"w", w}, w.device, "w");
  check.layout({"w", w});
  if (mask) {
    check.rank({"mask", *mask}, {2});
    check.extent({"mask", *mask}, 0, w.shape[0], "w.shape[0]");
    check.extent({"mask", *mask}, 1, w.shape[1], "w.shape[1]");
    check.device({"mask", *mask}, w.device, "w");
    check.layout({"mask", *mask});
  }
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
  for (int axis = 0; axis < 2; ++axis) {
    const std::int64_t extent = w.shape[static_cast<std::size_t>(axis)];
    if (indptr.dtype == DType::i32 && extent > kMax) {
      check.value_error("w.shape[" + text(axis) + "] is " + text(extent) + ", expected at most " +
                        text(kMax) + " for int32 indices");
    }
  }
  check.rank({"indptr", indptr}, {1});
  check.extent({"indptr", indptr}, 0, pointers, what);
  check.device({"indptr", indptr}, w.device, "w");
  check.layout({"indptr", indptr});
}

template <class Format>
void check_apart(const Checker& check, const char* sparse, const Format& a, const Argument& values,
                 const TensorView& out) {
  const std::string name = std::string(sparse) + "." + values.name;
  const std::string indices = std::string(sparse) + ".indices";
  const std::string indptr = std::string(sparse) + ".indptr";
  check.writable(
      {"out", out},
      {{name.c_str(), values.view}, {indices.c_str(), a.indices()}, {indptr.c_str(), a.indptr()}});
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

/// The block divides the shape of `w`.
void check_block(const Checker& check, const TensorView& w, std::int64_t block_rows,
                 std::int64_t block_cols) {
  check.rank({"w", w}, {2});
  const std::int64_t sides[] = {block_rows, block_cols};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const std::string number = text(static_cast<std::int64_t>(axis));
    const std::string name = "block[" + number + "]";
    if (sides[axis] < 1) {
      check.value_error(name + " is " + text(sides[axis]) + ", expected at least 1");
    }
    if (w.shape[axis] % sides[axis] != 0) {
      check.value_error("w.shape[" + number + "] is " + text(w.shape[axis]) +
                        ", expected a multiple of " + name + " = " + text(sides[axis]));
    }
  }
}

constexpr const char* kBlockPointers = "w.shape[0] / block[0] + 1";

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
  const Matrix from = as_matrix(check, {"x", x}), to = as_matrix(check, {"out", out});
  Product product{.b = {x.data, x.dtype, from.stride, true},
                  .out = {out.data, out.dtype, to.stride, true},
                  .m = w.rows,
                  .k = w.cols,
                  .n = from.rows};
  set_epilogue(check, epilogue, w.rows, w.dtype, w.device, out, "w", "w.shape[0]", product);
  return product;
}

void check_apart(const Checker& check, const char* sparse, const Csr& a, const TensorView& out) {
  check_apart(check, sparse, a, {"values", a.values()}, out);
}

void check_apart(const Checker& check, const char* sparse, const Bsr& a, const TensorView& out) {
  check_apart(check, sparse, a, {"blocks", a.blocks()}, out);
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

void check_csr_count(const Checker& check, const TensorView& w,
                     const std::optional<TensorView>& mask, const TensorView& indptr) {
  check_dense(check, w, mask, indptr, w.shape[0] + 1, "w.shape[0] + 1");
  check.writable({"indptr", indptr}, {{"w", w}});
  if (mask) check.writable({"indptr", indptr}, {{"mask", *mask}});
}

void check_csr_fill(const Checker& check, const TensorView& w,
                    const std::optional<TensorView>& mask, const TensorView& indptr,
                    const TensorView& indices, const TensorView& values) {
  check_dense(check, w, mask, indptr, w.shape[0] + 1, "w.shape[0] + 1");
  check.dtype({"indices", indices}, indptr.dtype, "indptr");
  check.dtype({"values", values}, w.dtype, "w");
  check.rank({"indices", indices}, {1});
  const std::int64_t nnz = indices.shape[0];
  const Argument source = mask ? Argument{"mask", *mask} : Argument{"w", w};
  check_output(check, {"indices", indices}, w.device, "w", nnz, "nnz",
               {{"w", w}, {"indptr", indptr}, source});
  check_output(check, {"values", values}, w.device, "w", nnz, "indices.shape[0]",
               {{"w", w}, {"indptr", indptr}, {"indices", indices}, source});
}

void check_csr_to_dense(const Checker& check, const Csr& a, const TensorView& out) {
  check_written_out(check, a, {"a.values", a.values()}, out);
}

void check_csr_transpose(const Checker& check, const Csr& a, const TensorView& indptr,
                         const TensorView& indices, const std::optional<TensorView>& values,
                         const std::optional<TensorView>& permutation) {
  check.dtype({"indptr", indptr}, a.index_dtype(), "a.indices");
  check.dtype({"indices", indices}, a.index_dtype(), "a.indices");
  if (values) check.dtype({"values", *values}, a.dtype(), "a");
  if (permutation) check.dtype({"permutation", *permutation}, a.index_dtype(), "a.indices");
  const std::initializer_list<Argument> inputs = {
      {"a.indptr", a.indptr()}, {"a.indices", a.indices()}, {"a.values", a.values()}};
  check_output(check, {"indptr", indptr}, a.device(), "a", a.cols() + 1, "a.shape[1] + 1", inputs);
  check_output(check, {"indices", indices}, a.device(), "a", a.nnz(), "a.nnz", inputs);
  if (values) check_output(check, {"values", *values}, a.device(), "a", a.nnz(), "a.nnz", inputs);
  if (permutation) {
    check_output(check, {"permutation", *permutation}, a.device(), "a", a.nnz(), "a.nnz", inputs);
  }
}

void check_bsr_count(const Checker& check, const TensorView& w,
                     const std::optional<TensorView>& mask, std::int64_t block_rows,
                     std::int64_t block_cols, const TensorView& indptr) {
  check_block(check, w, block_rows, block_cols);
  check_dense(check, w, mask, indptr, w.shape[0] / block_rows + 1, kBlockPointers);
  check.writable({"indptr", indptr}, {{"w", w}});
  if (mask) check.writable({"indptr", indptr}, {{"mask", *mask}});
}

void check_bsr_fill(const Checker& check, const TensorView& w,
                    const std::optional<TensorView>& mask, const TensorView& indptr,
                    const TensorView& indices, const TensorView& blocks) {
  check.rank({"blocks", blocks}, {3});
  check_block(check, w, blocks.shape[1], blocks.shape[2]);
  check_dense(check, w, mask, indptr, w.shape[0] / blocks.shape[1] + 1, kBlockPointers);
  check.dtype({"indices", indices}, indptr.dtype, "indptr");
  check.dtype({"blocks", blocks}, w.dtype, "w");
  const std::int64_t count = blocks.shape[0];
  const Argument source = mask ? Argument{"mask", *mask} : Argument{"w", w};
  check_output(check, {"indices", indices}, w.device, "w", count, "blocks.shape[0]",
               {{"w", w}, {"indptr", indptr}, source});
  check_output(check, {"blocks", blocks}, w.device, "w", count, "indices.shape[0]",
               {{"w", w}, {"indptr", indptr}, {"indices", indices}, source}, 3);
}

void check_bsr_to_dense(const Checker& check, const Bsr& a, const TensorView& out) {
  check_written_out(check, a, {"a.blocks", a.blocks()}, out);
}

void check_bsr_transpose(const Checker& check, const Bsr& a, const TensorView& indptr,
                         const TensorView& indices, const std::optional<TensorView>& blocks,
                         const TensorView& permutation) {
  check.dtype({"indptr", indptr}, a.index_dtype(), "a.indices");
  check.dtype({"indices", indices}, a.index_dtype(), "a.indices");
  check.dtype({"permutation", permutation}, a.index_dtype(), "a.indices");
  const std::initializer_list<Argument> inputs = {
      {"a.indptr", a.indptr()}, {"a.indices", a.indices()}, {"a.blocks", a.blocks()}};
  check_output(check, {"indptr", indptr}, a.device(), "a", a.cols() / a.block_cols() + 1,
               "a.shape[1] / a.block[1] + 1", inputs);
  check_output(check, {"indices", indices}, a.device(), "a", a.nblocks(), "a.nblocks", inputs);
  check_output(check, {"permutation", permutation}, a.device(), "a", a.nblocks(), "a.nblocks",
               inputs);
  if (!blocks) return;
  check.dtype({"blocks", *blocks}, a.dtype(), "a");
  check_output(check, {"blocks", *blocks}, a.device(), "a", a.nblocks(), "a.nblocks", inputs, 3);
  check.extent({"blocks", *blocks}, 1, a.block_cols(), "a.block[1]");
  check.extent({"blocks", *blocks}, 2, a.block_rows(), "a.block[0]");
}

void check_convert_indices(const Checker& check, const TensorView& from, const TensorView& to) {
  check_index(check, {"from", from});
  check_index(check, {"to", to});
  check.rank({"from", from}, {1});
  check.device({"from", from}, from.device, "from");
  check.layout({"from", from});
  check_output(check, {"to", to}, from.device, "from", from.shape[0], "from.shape[0]",
               {{"from", from}});
}

}  // namespace gossamer::detail
