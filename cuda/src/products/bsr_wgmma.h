#pragma once

// Products with BSR matrices on compute capability 9.0's wgmma.

#include "formats/bsr/bsr_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"

namespace gossamer::cuda {

/// Queues out = epilogue(A·B) and returns true if this kernel takes it: for blocks of half
/// precision whose sides are multiples of 64, operands aligned to 16 bytes, at least 64 columns, on
/// a device of compute capability 9.0, and only while GOSSAMER_CUDA_WGMMA=1 is in the environment:
/// no hardware has run it yet. `a` is the product's A; if `transposed`, its blocks are stored
/// transposed, and `order` says which one each entry has.
bool multiply_wgmma(const BsrView& a, const int* order, bool transposed,
                    const detail::Product& product, Stream stream);

}  // namespace gossamer::cuda
