#pragma once

#include "formats/quant/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct QuantKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "formats/quant/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const QuantKernels& quant_kernels();

}  // namespace gossamer::detail
