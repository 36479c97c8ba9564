#pragma once

#include <cstdint>
#include <optional>

#include "gossamer/tensor.h"

namespace gossamer {

/// Chooses the constructors of formats that never read the arrays of structure, and trust them: as
/// Check::trust does, and every constructor for arrays on a GPU.
struct Unread {};

/// A sparse matrix in compressed sparse row form over borrowed arrays.
///
/// Row i holds the entries p in [indptr[i], indptr[i+1]): column indices[p], value values[p].
/// Columns are strictly increasing within a row. `indptr` [rows+1] and `indices` [nnz] are
/// contiguous and of one type, int32 or int64; `values` [nnz] is contiguous float32, float64,
/// float16 or bfloat16. The object cannot exist in an invalid state; values may change afterwards,
/// structure may not.
class Csr {
 public:
  enum class Check { structure, trust };

  /// Throws TypeError for element types, ValueError for shapes, layout, device and structure
  /// (indptr not starting at 0, not monotone, not ending at nnz; a column out of range, unsorted
  /// or repeated). `Check::trust` skips only what needs a pass over indptr and indices.
  Csr(const TensorView& indptr, const TensorView& indices, const TensorView& values,
      std::int64_t rows, std::int64_t cols, Check check = Check::structure);
  Csr(Unread structure, const TensorView& indptr, const TensorView& indices,
      const TensorView& values, std::int64_t rows, std::int64_t cols);

  [[nodiscard]] std::int64_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::int64_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::int64_t nnz() const noexcept { return values_.shape[0]; }
  [[nodiscard]] DType dtype() const noexcept { return values_.dtype; }
  [[nodiscard]] DType index_dtype() const noexcept { return indices_.dtype; }
  [[nodiscard]] Device device() const noexcept { return values_.device; }
  [[nodiscard]] const TensorView& indptr() const noexcept { return indptr_; }
  [[nodiscard]] const TensorView& indices() const noexcept { return indices_; }
  [[nodiscard]] const TensorView& values() const noexcept { return values_; }

  /// The same structure with other values [nnz]; nothing is checked again but the new array.
  [[nodiscard]] Csr with_values(const TensorView& values) const;

 private:
  TensorView indptr_, indices_, values_;
  std::int64_t rows_ = 0, cols_ = 0;
};

/// Where the entries of a CSR matrix are, whatever their values: operations on several sets of
/// values of one structure take it beside arrays [..., nnz]. Its arrays are those of Csr.
class CsrPattern {
 public:
  /// Throws what Csr does for these arrays.
  CsrPattern(const TensorView& indptr, const TensorView& indices, std::int64_t rows,
             std::int64_t cols, Csr::Check check = Csr::Check::structure);
  CsrPattern(Unread structure, const TensorView& indptr, const TensorView& indices,
             std::int64_t rows, std::int64_t cols);
  /// That of a matrix.
  CsrPattern(const Csr& a) noexcept;  // NOLINT(google-explicit-constructor)

  [[nodiscard]] std::int64_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::int64_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::int64_t nnz() const noexcept { return indices_.shape[0]; }
  [[nodiscard]] DType index_dtype() const noexcept { return indices_.dtype; }
  [[nodiscard]] Device device() const noexcept { return indices_.device; }
  [[nodiscard]] const TensorView& indptr() const noexcept { return indptr_; }
  [[nodiscard]] const TensorView& indices() const noexcept { return indices_; }

  /// The matrix of this structure with values [nnz]; the structure is not checked again.
  [[nodiscard]] Csr with_values(const TensorView& values) const;

  /// Throws unless `values` [..., nnz], of at most 5 axes, is contiguous, floating and on the
  /// pattern's device.
  void check_values(const TensorView& values) const;

 private:
  TensorView indptr_, indices_;
  std::int64_t rows_ = 0, cols_ = 0;
};

// Conversions. The caller allocates every output; where its size is not known beforehand, a first
// call counts and a second one fills. Outputs have the layout that Csr demands.

/// Fills indptr [rows+1] for the entries of `w` [rows, cols] (any floating type, rows may be
/// strided) that are kept: those where `mask` [rows, cols] (bool or uint8) is nonzero or, without a
/// mask, those that are not ±0 (a NaN is kept). Returns their number.
std::int64_t csr_count(const TensorView& w, const std::optional<TensorView>& mask,
                       const TensorView& indptr);

/// Fills indices and values for the indptr that csr_count returned on the same arguments.
void csr_fill(const TensorView& w, const std::optional<TensorView>& mask, const TensorView& indptr,
              const TensorView& indices, const TensorView& values);

/// out[i, j] = A[i, j], zeros where no entry is; out [rows, cols] has A's dtype, rows may be
/// strided.
void csr_to_dense(const Csr& a, const TensorView& out);

/// The transpose of A: indptr [cols+1], indices [nnz], values [nnz] and, where given, permutation
/// [nnz] of the index type with values_t[p] = values[permutation[p]]. `values` may be left out.
void csr_transpose(const Csr& a, const TensorView& indptr, const TensorView& indices,
                   const std::optional<TensorView>& values,
                   const std::optional<TensorView>& permutation);

/// The structure of the transpose of A, and where its entries come from.
void csr_transpose(const CsrPattern& a, const TensorView& indptr, const TensorView& indices,
                   const TensorView& permutation);

/// What two entries at one place of a coordinate list become.
enum class Duplicates : std::uint8_t { sum, refuse };

/// Sorts the entries (row[p], col[p]) of a matrix [rows, cols] by row, column and place in the
/// list: order [n] int64. Fills indptr [rows+1], in which entries at one place count once, and
/// returns their number. `row` and `col` [n] are int32 or int64, with any strides. Throws
/// ValueError for an index out of range and, with Duplicates::refuse, for two entries at one place.
std::int64_t csr_from_coo_count(const TensorView& row, const TensorView& col, std::int64_t rows,
                                std::int64_t cols, Duplicates duplicates, const TensorView& order,
                                const TensorView& indptr);

/// Fills indices and, where given, the sums of `values` [n] for what csr_from_coo_count returned on
/// the same arguments. Sums are taken in the order of the list, in float32 (float64 for float64).
void csr_from_coo_fill(const TensorView& row, const TensorView& col,
                       const std::optional<TensorView>& values, const TensorView& order,
                       const TensorView& indptr, const TensorView& indices,
                       const std::optional<TensorView>& sums);

/// Copies int64 indices to int32 (or the reverse). Throws ValueError where a value does not fit.
void convert_indices(const TensorView& from, const TensorView& to);

}  // namespace gossamer
