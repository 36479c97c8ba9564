#pragma once

#include "prune/score/args.h"

namespace gossamer::detail {

/// The kernels of this family at one level.
struct ScoreKernels {
#define GOSSAMER_KERNEL(lowest, name, Args) void (*name)(const Args&);
#include "prune/score/kernels.inc"
#undef GOSSAMER_KERNEL
};

/// Those of the chosen level.
const ScoreKernels& score_kernels();

}  // namespace gossamer::detail
