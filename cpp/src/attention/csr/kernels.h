#pragma once

#include "attention/csr/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct CsrAttentionKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "attention/csr/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const CsrAttentionKernels& csr_attention_kernels();

}  // namespace gossamer::detail
