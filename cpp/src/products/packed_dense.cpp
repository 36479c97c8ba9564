#include "base/numbers.h"
#include "formats/packed/dense.h"
#include "products/bf16_product.h"
#include "products/dense_product.h"
#include "products/tiles.h"

namespace gossamer::detail {
void DenseLayout::multiply(const Product& product) const {
  if (product.n > 1 && has_bf16(product)) {
    return multiply_bf16(
        {.form = Bf16Source::Form::dense, .cols = shape.cols, .values = values.data()}, product);
  }
  const std::int64_t size = size_of(shape.dtype), cols = shape.cols;
  multiply_dense(
      [&](std::int64_t row, std::int64_t count, void* memory) -> const void* {
        const std::byte* from = values.data() + row * cols * size;
        if (size != 2) return from;
        widen(from, shape.dtype, count * cols, memory);
        return memory;
      },
      product);
}

}  // namespace gossamer::detail
