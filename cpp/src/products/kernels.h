#pragma once

#include "products/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct ProductKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "products/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const ProductKernels& product_kernels();

}  // namespace gossamer::detail
