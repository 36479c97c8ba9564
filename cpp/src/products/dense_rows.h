#pragma once

// The dense operands of sddmm.

#include <cstdint>

#include "base/numbers.h"
#include "base/scratch.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/tensor.h"

namespace gossamer::detail {

/// The rows of a matrix in the type of sums: the caller's memory where it has that form, else a
/// copy.
class DenseRows {
 public:
  explicit DenseRows(const TensorView& x)
      : copy_(size_of(x.dtype) == 2 ? x.numel() * 4 : 0), data_(x.data), stride_(x.strides[0]) {
    if (size_of(x.dtype) != 2) return;
    widen_rows(x, copy_.data());
    data_ = copy_.data();
    stride_ = x.shape[1];
  }

  [[nodiscard]] const void* data() const noexcept { return data_; }
  /// Elements from one row to the next.
  [[nodiscard]] std::int64_t stride() const noexcept { return stride_; }

 private:
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
