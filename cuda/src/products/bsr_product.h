#pragma once

// Products with BSR matrices that have been checked; spmm, linear and the gradients are made of
// these.

#include <cstdint>

#include "formats/bsr/bsr_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"

namespace gossamer::cuda {

/// out = epilogue(A·B), or with Aᵀ for A.
void multiply(const BsrView& a, const detail::Product& product, bool transposed, void* workspace,
              Stream stream);
[[nodiscard]] std::int64_t multiply_workspace(const BsrView& a, bool transposed, std::int64_t n);

}  // namespace gossamer::cuda
