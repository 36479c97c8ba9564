#pragma once

// Products of bfloat16 operands on instructions for pairs of bfloat16: what is sparse in memory is
// expanded, a strip of rows at a time, and multiplied as a dense matrix.

#include <cstdint>

#include "gossamer/detail/product_checks.h"
#include "products/args.h"

namespace gossamer::detail {

/// Does this level have kernels for a product of such operands?
[[nodiscard]] bool has_bf16(const Product& product);

/// out = epilogue(A·B). It must not meet an infinity or NaN in B under a zero that is no entry. m
/// and n are not 0, and the output is prepared.
void multiply_bf16(const Bf16Source& a, const Product& product);

}  // namespace gossamer::detail
