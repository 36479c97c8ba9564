#pragma once

#include "formats/packed/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct PackedKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "formats/packed/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const PackedKernels& packed_kernels();

}  // namespace gossamer::detail
