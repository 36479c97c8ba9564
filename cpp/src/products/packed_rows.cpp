#include "formats/packed/rows.h"
#include "products/product.h"

namespace gossamer::detail {

void RowsLayout::multiply(const Product& product) const { detail::multiply(view(), product); }

}  // namespace gossamer::detail
