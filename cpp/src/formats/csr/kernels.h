#pragma once

#include "formats/csr/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct CsrKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "formats/csr/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const CsrKernels& csr_kernels();

}  // namespace gossamer::detail
