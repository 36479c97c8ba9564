#pragma once

// Products with N:M matrices that have been checked; spmm, linear and the gradients are made of
// these.

#include <cstdint>

#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"

namespace gossamer::cuda {

/// out = epilogue(A·B), or with Aᵀ for A.
void multiply(const Nm& a, const detail::Product& product, bool transpose, void* workspace,
              Stream stream);
/// `by_columns`: the columns of B are contiguous.
[[nodiscard]] std::int64_t multiply_workspace(const Nm& a, bool transpose, std::int64_t n,
                                              bool by_columns);

/// out [lines, slots]: the products of rows of a and b at the pattern's values.
void sample(const TensorView& a, const TensorView& b, const Nm& pattern, const TensorView& out,
            bool accumulate, Stream stream);

}  // namespace gossamer::cuda
