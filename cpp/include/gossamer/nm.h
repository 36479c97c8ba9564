#pragma once

#include <bit>
#include <cstdint>
#include <optional>

#include "gossamer/csr.h"
#include "gossamer/tensor.h"

namespace gossamer {

/// A matrix with n values in each group of m neighbours along an axis (N:M sparsity), over borrowed
/// arrays; 1 ≤ n ≤ m ≤ 32.
///
/// A line is a row where `axis` is 1, a column where it is 0. Its length is a multiple of m, and it
/// holds n values for each m elements: value s belongs to group s / n and is element
/// s / n * m + position(s) of the line. `values` [lines, length / m * n] is contiguous float32,
/// float64, float16 or bfloat16. Positions increase within a group. A position takes `bits` bits,
/// the fewest that hold m - 1; those of a line follow one another from the lowest bit of its first
/// byte on, in `indices` [lines, ⌈length / m * n * bits / 8⌉], contiguous uint8. A group with fewer
/// nonzero elements than n stores zeros. The object cannot exist in an invalid state; values may
/// change afterwards, structure may not.
class Nm {
 public:
  using Check = Csr::Check;
  static constexpr std::int64_t kMostM = 32;

  /// Throws TypeError for element types, ValueError for n, m, axis, shapes, layout and structure (a
  /// position beyond its group, unsorted or repeated). `Check::trust` skips only what needs a pass
  /// over indices, which those on a GPU do not get either.
  Nm(const TensorView& values, const TensorView& indices, std::int64_t rows, std::int64_t cols,
     std::int64_t n, std::int64_t m, int axis, Check check = Check::structure);
  Nm(Unread structure, const TensorView& values, const TensorView& indices, std::int64_t rows,
     std::int64_t cols, std::int64_t n, std::int64_t m, int axis);

  [[nodiscard]] std::int64_t rows() const noexcept { return axis_ == 1 ? lines_ : length_; }
  [[nodiscard]] std::int64_t cols() const noexcept { return axis_ == 1 ? length_ : lines_; }
  [[nodiscard]] std::int64_t n() const noexcept { return n_; }
  [[nodiscard]] std::int64_t m() const noexcept { return m_; }
  /// The axis along which groups lie.
  [[nodiscard]] int axis() const noexcept { return axis_; }
  [[nodiscard]] std::int64_t lines() const noexcept { return lines_; }
  /// Elements of a line, zeros included.
  [[nodiscard]] std::int64_t length() const noexcept { return length_; }
  /// Values of a line.
  [[nodiscard]] std::int64_t slots() const noexcept { return values_.shape[1]; }
  /// Bits of a position.
  [[nodiscard]] int bits() const noexcept { return bits_of(m_); }
  /// The number of values, zeros that fill a group included.
  [[nodiscard]] std::int64_t nnz() const noexcept { return values_.numel(); }
  /// Bytes of values and indices.
  [[nodiscard]] std::int64_t nbytes() const noexcept {
    return values_.numel() * size_of(values_.dtype) + indices_.numel();
  }
  [[nodiscard]] DType dtype() const noexcept { return values_.dtype; }
  [[nodiscard]] Device device() const noexcept { return values_.device; }
  [[nodiscard]] const TensorView& values() const noexcept { return values_; }
  [[nodiscard]] const TensorView& indices() const noexcept { return indices_; }

  /// The same structure with other values, of the same shape; only the new array is checked.
  [[nodiscard]] Nm with_values(const TensorView& values) const;
  /// The transpose, over the same arrays: its groups lie along the other axis.
  [[nodiscard]] Nm transposed() const noexcept;

  [[nodiscard]] static constexpr int bits_of(std::int64_t m) noexcept {
    return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(m - 1)));
  }
  /// Bytes of the positions of a line with `slots` values.
  [[nodiscard]] static constexpr std::int64_t index_bytes(std::int64_t slots,
                                                          std::int64_t m) noexcept {
    return (slots * bits_of(m) + 7) / 8;
  }

 private:
  TensorView values_, indices_;
  std::int64_t lines_ = 0, length_ = 0, n_ = 0, m_ = 0;
  int axis_ = 1;
};

/// The shapes of the arrays of an Nm that holds a matrix [rows, cols].
struct NmShape {
  std::int64_t lines, slots, index_bytes;
};

/// Throws ValueError where n, m or axis are out of range, or the matrix is not made of whole
/// groups.
[[nodiscard]] NmShape nm_shape(std::int64_t rows, std::int64_t cols, std::int64_t n, std::int64_t m,
                               int axis);

/// Fills values and indices, of nm_shape's shapes, with the elements of `w` [rows, cols] (any
/// floating type, rows may be strided) that are kept: those where `mask` [rows, cols] (bool or
/// uint8) is nonzero or, without a mask, those that are not ±0 (a NaN is kept). Where they are
/// fewer than n of a group, the first of the others become positions with a zero. Throws ValueError
/// where they are more.
void nm_pack(const TensorView& w, const std::optional<TensorView>& mask, std::int64_t n,
             std::int64_t m, int axis, const TensorView& values, const TensorView& indices);

/// out[i, j] = A[i, j], zeros where no value is; out [rows, cols] has A's dtype, rows may be
/// strided.
void nm_to_dense(const Nm& a, const TensorView& out);

}  // namespace gossamer
