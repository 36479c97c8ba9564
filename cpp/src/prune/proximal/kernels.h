#pragma once

#include "prune/proximal/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct ProximalKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "prune/proximal/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const ProximalKernels& proximal_kernels();

}  // namespace gossamer::detail
