#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/error.h"
#include "gossamer/products.h"
#include "gossamer/tensor.h"

// What the backends ask of the arguments of an operation. A program that calls the operations needs
// none of this.

namespace gossamer::detail {

/// An argument and its name, for messages.
struct Argument {
  const char* name;
  const TensorView& view;
};

/// Checks shared by the operations. Each throws with "op: argument …, expected …".
class Checker {
 public:
  /// `backend` is the kind of device whose kernels will run.
  explicit Checker(const char* op, DeviceType backend = DeviceType::cpu) noexcept
      : op_(op), backend_(backend) {}

  /// `argument`'s element type is `dtype`, that of `like`.
  void dtype(const Argument& argument, DType dtype, const char* like) const;
  /// `argument` has a floating type.
  void floating(const Argument& argument) const;
  /// `argument` is on `device`, that of `like`, and the backend has kernels for it.
  void device(const Argument& argument, Device device, const char* like) const;
  /// Axis `axis` of `argument` has `expected` elements: `what` says where that number comes from.
  void extent(const Argument& argument, int axis, std::int64_t expected, const char* what) const;
  /// Rank is one of `ranks`.
  void rank(const Argument& argument, std::initializer_list<int> ranks) const;
  /// The last axis is contiguous, other strides are not negative.
  void layout(const Argument& argument) const;
  /// Elements lie one after the other in row-major order.
  void contiguous(const Argument& argument) const;
  /// `out` may be written: not read-only, no element twice, no memory shared with `inputs`.
  void writable(const Argument& out, std::initializer_list<Argument> inputs) const;
  /// `argument` has exactly this shape.
  void shape(const Argument& argument, std::initializer_list<std::int64_t> expected) const;
  /// `workspace` is on `device`, contiguous, aligned to 16 bytes and of at least `bytes` bytes.
  void workspace(const TensorView& workspace, Device device, std::int64_t bytes) const;

  [[noreturn]] void value_error(const std::string& text) const;
  [[noreturn]] void type_error(const std::string& text) const;
  [[noreturn]] void not_implemented(const std::string& text) const;

 private:
  const char* op_;
  DeviceType backend_;
};

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
};

[[nodiscard]] Product check_spmm(const Checker& check, const SparseInfo& a, const TensorView& b,
                                 const TensorView& out, bool transpose_a, const Epilogue& epilogue);
[[nodiscard]] Product check_linear(const Checker& check, const TensorView& x, const SparseInfo& w,
                                   const TensorView& out, const Epilogue& epilogue);
void check_sddmm(const Checker& check, const TensorView& a, const TensorView& b, const Csr& pattern,
                 const TensorView& out);
void check_sddmm(const Checker& check, const TensorView& a, const TensorView& b, const Bsr& pattern,
                 const TensorView& out);
/// `out` does not lie in the sparse matrix, called `sparse`, that is being read.
void check_apart(const Checker& check, const char* sparse, const Csr& a, const TensorView& out);
void check_apart(const Checker& check, const char* sparse, const Bsr& a, const TensorView& out);

/// Those of the conversions; what needs a look at the numbers in an array is not among them.
void check_csr_count(const Checker& check, const TensorView& w,
                     const std::optional<TensorView>& mask, const TensorView& indptr);
void check_csr_fill(const Checker& check, const TensorView& w,
                    const std::optional<TensorView>& mask, const TensorView& indptr,
                    const TensorView& indices, const TensorView& values);
void check_csr_to_dense(const Checker& check, const Csr& a, const TensorView& out);
void check_csr_transpose(const Checker& check, const Csr& a, const TensorView& indptr,
                         const TensorView& indices, const std::optional<TensorView>& values,
                         const std::optional<TensorView>& permutation);
void check_bsr_count(const Checker& check, const TensorView& w,
                     const std::optional<TensorView>& mask, std::int64_t block_rows,
                     std::int64_t block_cols, const TensorView& indptr);
void check_bsr_fill(const Checker& check, const TensorView& w,
                    const std::optional<TensorView>& mask, const TensorView& indptr,
                    const TensorView& indices, const TensorView& blocks);
void check_bsr_to_dense(const Checker& check, const Bsr& a, const TensorView& out);
void check_bsr_transpose(const Checker& check, const Bsr& a, const TensorView& indptr,
                         const TensorView& indices, const std::optional<TensorView>& blocks,
                         const TensorView& permutation);
void check_convert_indices(const Checker& check, const TensorView& from, const TensorView& to);

}  // namespace gossamer::detail
