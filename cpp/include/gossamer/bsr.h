#pragma once

#include <cstdint>
#include <optional>

#include "gossamer/csr.h"
#include "gossamer/tensor.h"

namespace gossamer {

/// A sparse matrix of dense blocks, in block compressed sparse row form over borrowed arrays.
///
/// Block row i covers rows [i·br, (i+1)·br) and holds the blocks p in [indptr[i], indptr[i+1]),
/// whose element (r, c) is A[i·br + r, indices[p]·bc + c] = blocks[p, r, c]. Block columns are
/// strictly increasing within a block row. `indptr` [rows/br + 1] and `indices` [nb] are contiguous
/// and of one type, int32 or int64; `blocks` [nb, br, bc] is contiguous float32, float64, float16
/// or bfloat16. Both sides are multiples of the block's: a matrix that is not must be padded by the
/// caller. The object cannot exist in an invalid state; values may change afterwards, structure may
/// not.
class Bsr {
 public:
  using Check = Csr::Check;

  /// Throws as Csr's constructor does, and ValueError for a block that does not divide the shape.
  Bsr(const TensorView& indptr, const TensorView& indices, const TensorView& blocks,
      std::int64_t rows, std::int64_t cols, Check check = Check::structure);
  Bsr(Unread structure, const TensorView& indptr, const TensorView& indices,
      const TensorView& blocks, std::int64_t rows, std::int64_t cols);

  [[nodiscard]] std::int64_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::int64_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::int64_t block_rows() const noexcept { return blocks_.shape[1]; }
  [[nodiscard]] std::int64_t block_cols() const noexcept { return blocks_.shape[2]; }
  /// The number of blocks.
  [[nodiscard]] std::int64_t nblocks() const noexcept { return blocks_.shape[0]; }
  /// The number of elements that the blocks hold, zeros included.
  [[nodiscard]] std::int64_t nnz() const noexcept { return blocks_.numel(); }
  [[nodiscard]] DType dtype() const noexcept { return blocks_.dtype; }
  [[nodiscard]] DType index_dtype() const noexcept { return indices_.dtype; }
  [[nodiscard]] Device device() const noexcept { return blocks_.device; }
  [[nodiscard]] const TensorView& indptr() const noexcept { return indptr_; }
  [[nodiscard]] const TensorView& indices() const noexcept { return indices_; }
  [[nodiscard]] const TensorView& blocks() const noexcept { return blocks_; }

  /// The same structure with other values [nb, br, bc]; only the new array is checked.
  [[nodiscard]] Bsr with_values(const TensorView& blocks) const;

 private:
  TensorView indptr_, indices_, blocks_;
  std::int64_t rows_ = 0, cols_ = 0;
};

// Conversions, as those of Csr: the caller allocates, a first call counts and a second one fills.

/// Fills indptr [rows/br + 1] for the br × bc blocks of `w` [rows, cols] (any floating type, rows
/// may be strided) that hold an element which is kept: where `mask` [rows, cols] (bool or uint8) is
/// nonzero or, without a mask, that is not ±0 (a NaN is kept). Returns the number of blocks.
std::int64_t bsr_count(const TensorView& w, const std::optional<TensorView>& mask,
                       std::int64_t block_rows, std::int64_t block_cols, const TensorView& indptr);

/// Fills indices and blocks [nb, br, bc] for the indptr that bsr_count returned on the same
/// arguments. Elements of a block that `mask` does not keep are zero.
void bsr_fill(const TensorView& w, const std::optional<TensorView>& mask, const TensorView& indptr,
              const TensorView& indices, const TensorView& blocks);

/// out[i, j] = A[i, j], zeros where no block is; out [rows, cols] has A's dtype, rows may be
/// strided.
void bsr_to_dense(const Bsr& a, const TensorView& out);

/// The transpose of A: indptr [cols/bc + 1], indices [nb], blocks [nb, bc, br] and permutation [nb]
/// of the index type, with blocks_t[p] = blocks[permutation[p]]ᵀ. `blocks` may be left out.
void bsr_transpose(const Bsr& a, const TensorView& indptr, const TensorView& indices,
                   const std::optional<TensorView>& blocks, const TensorView& permutation);

}  // namespace gossamer
