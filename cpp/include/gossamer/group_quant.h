#pragma once

#include <cstdint>
#include <optional>

#include "gossamer/csr.h"
#include "gossamer/tensor.h"

namespace gossamer {

/// A matrix of groups of `group` columns of one row, of which some are kept, quantised to 4 or 8
/// bits, over borrowed arrays (GQSA: Group Quantization and Sparsity for Accelerating Large
/// Language Model Inference).
///
/// Row i holds the groups p in [indptr[i], indptr[i+1]), with
/// A[i, indices[p]·group + j] = (code(p, j) − zeros[p])·scales[p]. Groups are strictly increasing
/// within a row. `indptr` [rows+1] is int32; `indices` [groups] uint16; `codes`
/// [groups, group·bits/8] uint8, with 4 bits two codes a byte, the first in its low half; `scales`
/// [groups] float16; `zeros` [groups] uint8. All are contiguous. Where `group` does not divide
/// `cols`, the last group's codes beyond them are not read as numbers of the matrix. `dtype` is the
/// type of the operands that the matrix is multiplied with. The object cannot exist in an invalid
/// state; codes, scales and zeros may change afterwards, structure may not.
class GroupQuant {
 public:
  struct Form {
    std::int64_t rows, cols;
    std::int64_t group;  // 16, 32, 64 or 128
    std::int64_t bits;   // 4 or 8
    DType dtype;
  };

  /// Throws TypeError for element types, ValueError for shapes, layout, the form, structure (as
  /// Csr), a scale that is not finite and a zero of more than `bits` bits. The last three need a
  /// look at the arrays: `Check::trust` skips it, and so do arrays on a GPU.
  GroupQuant(const TensorView& indptr, const TensorView& indices, const TensorView& codes,
             const TensorView& scales, const TensorView& zeros, const Form& form,
             Csr::Check level = Csr::Check::structure);

  [[nodiscard]] std::int64_t rows() const noexcept { return form_.rows; }
  [[nodiscard]] std::int64_t cols() const noexcept { return form_.cols; }
  [[nodiscard]] std::int64_t group() const noexcept { return form_.group; }
  [[nodiscard]] std::int64_t bits() const noexcept { return form_.bits; }
  /// The number of groups that are kept.
  [[nodiscard]] std::int64_t groups() const noexcept { return indices_.shape[0]; }
  /// The number of codes, those beyond the last column included.
  [[nodiscard]] std::int64_t nnz() const noexcept { return groups() * group(); }
  [[nodiscard]] DType dtype() const noexcept { return form_.dtype; }
  [[nodiscard]] Device device() const noexcept { return indices_.device; }
  [[nodiscard]] const TensorView& indptr() const noexcept { return indptr_; }
  [[nodiscard]] const TensorView& indices() const noexcept { return indices_; }
  [[nodiscard]] const TensorView& codes() const noexcept { return codes_; }
  [[nodiscard]] const TensorView& scales() const noexcept { return scales_; }
  [[nodiscard]] const TensorView& zeros() const noexcept { return zeros_; }
  /// 4·(rows + 1) + groups·(group·bits/8 + 5).
  [[nodiscard]] std::int64_t nbytes() const noexcept;

 private:
  TensorView indptr_, indices_, codes_, scales_, zeros_;
  Form form_;
};

// Conversions, as those of Csr: the caller allocates, a first call counts and a second one fills.

/// out [rows, ⌈cols/group⌉] = the Euclidean norm of each group of `w` [rows, cols] (any floating
/// type, rows may be strided), float32.
void quant_norms(const TensorView& w, std::int64_t group, const TensorView& out);

/// Fills indptr [rows+1], int32, for the groups of `w` that are kept: those in which `mask`
/// [rows, cols] (bool or uint8) has an element that is nonzero, or those where a mask
/// [rows, ⌈cols/group⌉] is; without a mask, those with an element that is not ±0. Returns their
/// number.
std::int64_t quant_count(const TensorView& w, const std::optional<TensorView>& mask,
                         std::int64_t group, const TensorView& indptr);

/// Quantises the groups for the indptr that quant_count returned on the same arguments. Elements
/// that `mask` does not keep are zero, which every group represents exactly. The scale of a group
/// is the least float16 with which `bits` bits span it and zero: |A − w| ≤ scale/2. Throws
/// ValueError for what is not finite or too large for that.
void quant_fill(const TensorView& w, const std::optional<TensorView>& mask, std::int64_t bits,
                const TensorView& indptr, const TensorView& indices, const TensorView& codes,
                const TensorView& scales, const TensorView& zeros);

/// out[i, j] = A[i, j], zeros where no group is; out [rows, cols] has A's dtype, rows may be
/// strided.
void quant_to_dense(const GroupQuant& a, const TensorView& out);

}  // namespace gossamer
