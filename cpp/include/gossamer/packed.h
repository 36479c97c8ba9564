#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "gossamer/csr.h"

namespace gossamer {

/// A CSR matrix re-laid for this machine's fastest kernels. Opaque; it owns its memory, keeps its
/// structure, and does not see later changes of the source's values. Accepted wherever a Csr is by
/// spmm and linear. Safe to use from several threads at once. Copies are cheap and share the
/// memory.
class Packed {
 public:
  struct Impl;
  explicit Packed(std::shared_ptr<const Impl> impl) noexcept : impl_(std::move(impl)) {}

  [[nodiscard]] std::int64_t rows() const noexcept;
  [[nodiscard]] std::int64_t cols() const noexcept;
  [[nodiscard]] std::int64_t nnz() const noexcept;
  [[nodiscard]] DType dtype() const noexcept;
  [[nodiscard]] Device device() const noexcept { return {}; }
  /// Bytes held by the layouts built so far, those of the transpose included.
  [[nodiscard]] std::int64_t nbytes() const noexcept;
  /// The layouts built, for reports: for example "strips+blocks".
  [[nodiscard]] std::string layouts() const;
  /// Why these, for reports: for the width that it was packed for, or which of them serve which
  /// widths; the density and the machine's level.
  [[nodiscard]] std::string why() const;
  /// The number of columns that the matrix was packed for, if it was told.
  [[nodiscard]] std::optional<std::int64_t> width() const noexcept;

  /// Replaces the values by `values` [nnz], of this matrix's type and contiguous, in the order of
  /// the matrix that was packed: one pass, in which nothing of the structure is looked at again.
  /// Copies of this object see it. No product with the matrix may run meanwhile: its result could
  /// have values of both, and what it packs on first use could keep the old ones.
  void update(const TensorView& values);

  /// The matrix that was packed, with its present values: fills indptr [rows+1] and indices [nnz],
  /// int32 or int64, and values [nnz].
  void unpack(const TensorView& indptr, const TensorView& indices, const TensorView& values) const;

  [[nodiscard]] const Impl& impl() const noexcept { return *impl_; }

 private:
  std::shared_ptr<const Impl> impl_;
};

struct PackOptions {
  /// The number of dense columns (spmm) or activation rows (linear) that the matrix will meet,
  /// where it is known: the layout for that width serves all others too. Otherwise the layout of
  /// each width is built, from the first one, when a product first needs it.
  std::optional<std::int64_t> n;
};

/// Copies A into the layouts that its density and the machine call for.
[[nodiscard]] Packed pack(const Csr& a, const PackOptions& options = {});

}  // namespace gossamer
