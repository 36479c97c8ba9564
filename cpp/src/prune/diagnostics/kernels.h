#pragma once

#include "prune/diagnostics/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct DiagnosticsKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "prune/diagnostics/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const DiagnosticsKernels& diagnostics_kernels();

}  // namespace gossamer::detail
