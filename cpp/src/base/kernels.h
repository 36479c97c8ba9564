#pragma once

#include "base/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct BaseKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "base/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const BaseKernels& base_kernels();

}  // namespace gossamer::detail
