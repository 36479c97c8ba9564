#pragma once

#include "prune/layerwise/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct LayerwiseKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "prune/layerwise/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const LayerwiseKernels& layerwise_kernels();

}  // namespace gossamer::detail
