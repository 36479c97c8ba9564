#pragma once

#include "formats/nm/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct NmKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "formats/nm/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const NmKernels& nm_kernels();

}  // namespace gossamer::detail
