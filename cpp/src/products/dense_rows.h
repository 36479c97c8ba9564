#pragma once

// The dense operands of sddmm.

#include <cstdint>

#include "base/numbers.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/tensor.h"

namespace gossamer::detail {

/// From one row to the next of a copy, in elements of `real` bytes: an odd number of cache lines,
/// so that no vector straddles two lines and the rows are spread over the sets of the caches.
inline std::int64_t spread_stride(std::int64_t cols, std::int64_t real) {
  constexpr std::int64_t kLine = 64;
  if (cols * real < kLine) return cols;
  return (ceil_div(cols * real, kLine) | 1) * kLine / real;
}

/// The rows of a matrix in the type of sums: the caller's memory where they have that type, else a
/// copy. A copy as well where each row is read about four times or more (`reads`), its vectors
/// straddle cache lines, as those of most large NumPy arrays do, so that each load of one takes
/// two, and the copy is not large: rows that come from memory gain little.
class DenseRows {
 public:
  explicit DenseRows(const TensorView& x, std::int64_t reads = 1)
      : copy_(is_copied(x, reads) ? x.shape[0] * stride_of_copy(x) * real(x) : 0),
        data_(x.data),
        stride_(x.strides[0]) {
    if (!is_copied(x, reads)) return;
    stride_ = stride_of_copy(x);
    widen_rows(x, copy_.data(), stride_);
    data_ = copy_.data();
  }

  [[nodiscard]] const void* data() const noexcept { return data_; }
  /// Elements from one row to the next.
  [[nodiscard]] std::int64_t stride() const noexcept { return stride_; }

 private:
  static std::int64_t real(const TensorView& x) { return x.dtype == DType::f64 ? 8 : 4; }
  static std::int64_t stride_of_copy(const TensorView& x) {
    return spread_stride(x.shape[1], real(x));
  }
  static bool is_copied(const TensorView& x, std::int64_t reads) {
    if (size_of(x.dtype) == 2) return true;
    constexpr std::int64_t kReads = 4, kLine = 64, kMostBytes = std::int64_t{64} << 20;
    const std::int64_t bytes = x.shape[1] * real(x), stride = x.strides[0] * real(x);
    if (reads < kReads || bytes < kLine || x.shape[0] > kMostBytes / bytes) return false;
    return reinterpret_cast<std::uintptr_t>(x.data) % kLine != 0 || stride % kLine != 0;
  }

  Scratch copy_;
  const void* data_;
  std::int64_t stride_;
};

/// An operand as the B of a product, and back: for leaving out its rows that no entry names.
inline Product as_b(const TensorView& x) {
  return {.b = {x.data, x.dtype, x.strides[0], false},
          .out = {},
          .m = 0,
          .k = x.shape[0],
          .n = x.shape[1]};
}
inline TensorView b_of(const Product& product) {
  return make_view(product.b.data, product.b.type, {product.k, product.n});
}

}  // namespace gossamer::detail
