#pragma once

#include "prune/select/args.h"

namespace gossamer::detail {

/// The kernels of exact selection (docs/selection.md) at one instruction set level.
struct SelectKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "prune/select/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the level that the library chose for this machine.
const SelectKernels& select_kernels();

}  // namespace gossamer::detail
