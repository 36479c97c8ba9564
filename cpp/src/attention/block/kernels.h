#pragma once

#include "attention/block/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct BlockAttentionKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "attention/block/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const BlockAttentionKernels& block_attention_kernels();

}  // namespace gossamer::detail
