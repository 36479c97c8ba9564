#pragma once

#include "activation/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct ActivationKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "activation/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const ActivationKernels& activation_kernels();

}  // namespace gossamer::detail
