#pragma once

#include "prune/select/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct SelectKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "prune/select/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const SelectKernels& select_kernels();

}  // namespace gossamer::detail
