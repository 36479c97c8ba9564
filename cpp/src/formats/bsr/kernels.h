#pragma once

#include "formats/bsr/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct BsrKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "formats/bsr/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const BsrKernels& bsr_kernels();

}  // namespace gossamer::detail
