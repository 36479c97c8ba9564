#pragma once

// What the products ask of their arguments, on whatever device, and what they mean once these are
// checked.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/detail/check.h"
#include "gossamer/group_quant.h"
#include "gossamer/nm.h"
#include "gossamer/products.h"

namespace gossamer::detail {

/// What the checks need to know of a sparse operand, whatever its format.
struct SparseInfo {
  std::int64_t rows, cols;
  DType dtype;
  Device device;
};

template <class Format>
SparseInfo describe(const Format& a) {
  return {.rows = a.rows(), .cols = a.cols(), .dtype = a.dtype(), .device = a.device()};
}

/// Element (i, j) of a dense operand is data[i*stride + j], or data[j*stride + i] if transposed.
struct DenseView {
  void* data;
  DType type;
  std::int64_t stride;
  bool transposed;
};

/// What spmm and linear mean once their arguments are checked: out = epilogue(A·B) with B [k, n],
/// out [m, n] and A [m, k] ([k, m] with transpose_a).
struct Product {
  DenseView b, out;
  std::int64_t m, k, n;
  const void* bias = nullptr;  // [m] of out's type
  Activation activation = Activation::none;
  double lo = 0.0, hi = 0.0;
  bool accumulate = false;
  /// Where the leading axes of x and of out do not form one axis in memory, linear is several
  /// products of the same A, with n columns each: part i reads B and writes out these many bytes
  /// behind `b.data` and `out.data`. Empty means one product.
  std::vector<std::pair<std::int64_t, std::int64_t>> parts = {};
};

/// Calls multiply(product) for each of the products that linear consists of.
template <class Multiply>
void for_parts(const Product& product, Multiply&& multiply) {
  if (product.parts.empty()) return multiply(product);
  Product part = product;
  part.parts.clear();
  for (const auto& [from, to] : product.parts) {
    part.b.data = static_cast<std::byte*>(product.b.data) + from;
    part.out.data = static_cast<std::byte*>(product.out.data) + to;
    multiply(part);
  }
}

[[nodiscard]] Product check_spmm(const Checker& check, const SparseInfo& a, const TensorView& b,
                                 const TensorView& out, bool transpose_a, const Epilogue& epilogue);
[[nodiscard]] Product check_linear(const Checker& check, const TensorView& x, const SparseInfo& w,
                                   const TensorView& out, const Epilogue& epilogue);
void check_sddmm(const Checker& check, const TensorView& a, const TensorView& b, const Csr& pattern,
                 const TensorView& out);
void check_sddmm(const Checker& check, const TensorView& a, const TensorView& b, const Bsr& pattern,
                 const TensorView& out);
/// `out`, called `name`, does not lie in the sparse matrix, called `sparse`, that is being read.
void check_apart(const Checker& check, const char* sparse, const Csr& a, const TensorView& out,
                 const char* name = "out");
void check_apart(const Checker& check, const char* sparse, const Bsr& a, const TensorView& out,
                 const char* name = "out");
void check_apart(const Checker& check, const char* sparse, const Nm& a, const TensorView& out,
                 const char* name = "out");
void check_apart(const Checker& check, const char* sparse, const GroupQuant& a,
                 const TensorView& out, const char* name = "out");

/// Several products or sampled products with matrices of one pattern, once their arguments are
/// checked: set s of the operands, counted over their leading axes, has rows [g·rows, (g+1)·rows)
/// of the pattern, g = s mod stacks, and of values that have several sets that of s / stacks.
struct MatrixSets {
  std::int64_t sets = 1, stacks = 1, rows = 0;
  int leading = 0;      // axes of the sets
  bool same_b = false;  // one B for all
};

/// Matrix `set` of a view [..., rows, cols], counted over the leading axes in row-major order.
[[nodiscard]] TensorView matrix_of(const TensorView& view, std::int64_t set);

[[nodiscard]] MatrixSets check_sddmm(const Checker& check, const TensorView& a, const TensorView& b,
                                     const CsrPattern& pattern, const TensorView& out);
[[nodiscard]] MatrixSets check_spmm(const Checker& check, const CsrPattern& a,
                                    const TensorView& values, const TensorView& b,
                                    const TensorView& out, bool transpose_a, bool stacked,
                                    const Epilogue& epilogue);

/// What a backward means once its arguments are checked: Y = A·B with B [k, n], Y [m, n] and
/// A [m, k] ([k, m] with transpose_a), dy and db the gradients of Y and B.
struct BackwardProduct {
  DenseView dy, b, db;  // without data where absent
  std::int64_t m, k, n;
};

/// `values` are those of the sparse operand. On the CPU, what it returns means nothing where the
/// leading axes of dy, x or dx do not form one.
[[nodiscard]] BackwardProduct check_linear_backward(const Checker& check, const TensorView& dy,
                                                    const std::optional<TensorView>& x,
                                                    const SparseInfo& w, const Argument& values,
                                                    const Gradients& gradients);
[[nodiscard]] BackwardProduct check_spmm_backward(const Checker& check, const TensorView& dy,
                                                  const SparseInfo& a,
                                                  const std::optional<TensorView>& b,
                                                  const Argument& values, bool transpose_a,
                                                  const Gradients& gradients);

}  // namespace gossamer::detail
