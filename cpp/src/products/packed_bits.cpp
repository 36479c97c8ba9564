#include "formats/packed/bits.h"
#include "products/bf16_product.h"

namespace gossamer::detail {

void BitsLayout::multiply(const Product& product) const {
  multiply_bf16({.form = Bf16Source::Form::bits,
                 .cols = shape.cols,
                 .values = values.data(),
                 .bits = bits.data(),
                 .words = words,
                 .begin = row_begin.data()},
                product);
}

}  // namespace gossamer::detail
