#include "formats/packed/choice.h"

#include "base/levels.h"
#include "formats/packed/layouts.h"

namespace gossamer::detail {

// The bounds were measured on a Zen 4 (two cores, AVX-512) with 4096 × 4096 matrices of 50 to 98 %
// zeros and 1 to 512 columns of B; docs/performance.md has the table of products.
std::size_t fastest_layout(const PackedShape& a, std::int64_t n) {
  const double d = a.density();
  // Strips cost something for each group of rows, blocks for each segment. With very few entries
  // rows win; for one column a little earlier, and earlier still where all of B is in cache anyway.
  if (d < (n == 1 ? 0.018 : n > 8 && a.cols <= 1024 ? 0.03 : 0.012)) return kLayout<RowsLayout>;
  const bool has_strips = vector_bytes() == 64 && a.dtype != DType::f64;
  if (has_strips && (n <= 4 || (n <= 8 && d > kDenseStrips))) return kLayout<StripsLayout>;
  return n == 1 ? kLayout<RowsLayout> : kLayout<BlocksLayout>;
}

}  // namespace gossamer::detail
