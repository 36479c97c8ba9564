#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "gossamer/csr.h"

namespace gossamer {

/// A CSR matrix re-laid for this machine's fastest kernels. Opaque, immutable, cheap to copy; it
/// owns its memory and does not see later changes of the source's values. Accepted wherever a Csr
/// is by spmm and linear. Safe to use from several threads at once.
class Packed {
 public:
  struct Impl;
  explicit Packed(std::shared_ptr<const Impl> impl) noexcept : impl_(std::move(impl)) {}

  [[nodiscard]] std::int64_t rows() const noexcept;
  [[nodiscard]] std::int64_t cols() const noexcept;
  [[nodiscard]] std::int64_t nnz() const noexcept;
  [[nodiscard]] DType dtype() const noexcept;
  [[nodiscard]] Device device() const noexcept { return {}; }
  /// Bytes held by the layouts built so far.
  [[nodiscard]] std::int64_t nbytes() const noexcept;
  /// The layouts built, for reports: for example "strips+blocks".
  [[nodiscard]] std::string layouts() const;
  [[nodiscard]] const Impl& impl() const noexcept { return *impl_; }

 private:
  std::shared_ptr<const Impl> impl_;
};

struct PackOptions {
  /// The number of dense columns (spmm) or activation rows (linear) that the matrix will meet,
  /// where it is known: only the layout that it needs is built. Every width still works.
  std::optional<std::int64_t> n;
};

/// Copies A into the layouts that its density and the machine call for.
[[nodiscard]] Packed pack(const Csr& a, const PackOptions& options = {});

}  // namespace gossamer
