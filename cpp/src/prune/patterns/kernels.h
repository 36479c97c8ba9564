#pragma once

#include "prune/patterns/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct PatternKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "prune/patterns/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const PatternKernels& pattern_kernels();

}  // namespace gossamer::detail
