#pragma once

// Products with a dense A: of what is packed densely, and of quantised groups once they are
// decoded.

#include <cstdint>
#include <functional>

#include "gossamer/detail/product_checks.h"

namespace gossamer::detail {

/// The rows [row, row+count) of A [m, k] in the type of sums, row after row: where they are, or
/// written to `memory` [count, k].
using DenseStrip = std::function<const void*(std::int64_t row, std::int64_t count, void* memory)>;

/// out = epilogue(A·B). Each strip of A is asked for once for each 16 MiB of B. m and n are not 0,
/// and the output is prepared.
void multiply_dense(const DenseStrip& strip, const Product& product);

/// Is no element of B infinite or NaN?
[[nodiscard]] bool all_finite(const Product& product);

}  // namespace gossamer::detail
