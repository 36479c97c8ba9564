#pragma once

#include "graph/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct GraphKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "graph/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const GraphKernels& graph_kernels();

}  // namespace gossamer::detail
