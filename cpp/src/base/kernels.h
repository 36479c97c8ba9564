#pragma once

#include "kernels/args.h"
#include "kernels/bsr_args.h"
#include "kernels/layerwise_args.h"
#include "kernels/patterns_args.h"
#include "kernels/select_args.h"

namespace gossamer::kernels {

/// One ISA level's kernels.
struct KernelTable {
#define GOSSAMER_KERNEL(name, args) void (*name)(const args&);
#include "kernels/kernels.inc"
#undef GOSSAMER_KERNEL
  int vector_bytes;
};

namespace baseline {
extern const KernelTable table;
}
namespace v3 {
extern const KernelTable table;
}
namespace v4 {
extern const KernelTable table;
}

}  // namespace gossamer::kernels
