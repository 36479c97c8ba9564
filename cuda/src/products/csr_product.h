#pragma once

// Products with CSR matrices that have been checked; spmm and linear are made of these.

#include <cstddef>
#include <cstdint>

#include "gossamer/csr.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/check.h"

namespace gossamer::cuda {

/// A CSR matrix on the current device.
struct CsrView {
  const int* indptr;
  const int* indices;
  const void* values;
  DType dtype;
  std::int64_t rows, cols, nnz;
};

/// Throws NotImplementedError if a matrix's indices or sizes do not fit an int.
void require_int(const detail::Checker& check, const char* name, DType index, std::int64_t rows,
                 std::int64_t cols);

/// Throws what require_int does.
[[nodiscard]] CsrView view_of(const detail::Checker& check, const char* name, const Csr& a);

/// Divides a workspace into parts. With a null base, computes how large it must be.
class Carver {
 public:
  explicit Carver(void* base) noexcept : base_(static_cast<std::byte*>(base)) {}

  template <class T>
  T* take(std::int64_t count) {
    return static_cast<T*>(take_bytes(count * static_cast<std::int64_t>(sizeof(T))));
  }
  void* take_bytes(std::int64_t bytes) {
    void* part = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (bytes + 15) / 16 * 16;
    return part;
  }
  [[nodiscard]] std::int64_t used() const noexcept { return used_; }

 private:
  std::byte* base_;
  std::int64_t used_ = 0;
};

/// Bytes of a sum of products of this type.
[[nodiscard]] inline std::int64_t sum_size(DType dtype) noexcept {
  return dtype == DType::f64 ? 8 : 4;
}

/// out = epilogue(A·B), for any product. `workspace` is aligned to 16 bytes.
void multiply(const CsrView& a, const detail::Product& product, void* workspace, Stream stream);
/// `by_columns`: B is stored by columns, as linear's activations are.
[[nodiscard]] std::int64_t multiply_workspace(const CsrView& a, std::int64_t n, bool by_columns);

/// Rows longer than this are cut into chunks; 0 if no row can be that long.
[[nodiscard]] std::int64_t row_cut(const CsrView& a);

/// For a B stored by rows. If `sums` [m, ld_sums] is not null, it receives the sums, and out is not
/// written. `partial` has room for partial_sums(a)·n sums.
void multiply_rows(const CsrView& a, const detail::Product& product, void* sums,
                   std::int64_t ld_sums, void* partial, Stream stream);
[[nodiscard]] std::int64_t partial_sums(const CsrView& a);

/// For B of any layout with at most kThinColumns columns. Takes no workspace.
inline constexpr std::int64_t kThinColumns = 16;
void multiply_thin(const CsrView& a, const detail::Product& product, Stream stream);

/// For a B stored by columns.
void multiply_columns(const CsrView& a, const detail::Product& product, void* workspace,
                      Stream stream);
[[nodiscard]] std::int64_t multiply_columns_workspace(const CsrView& a, std::int64_t n);

/// Results of a transpose; `values` and `permutation` may be null.
struct CsrTransposed {
  int* indptr;
  int* indices;
  void* values;
  int* permutation;
};
void transpose(const CsrView& a, const CsrTransposed& out, void* workspace, Stream stream);
[[nodiscard]] std::int64_t transpose_workspace(const CsrView& a);

}  // namespace gossamer::cuda
