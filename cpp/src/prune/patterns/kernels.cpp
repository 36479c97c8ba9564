#include "prune/patterns/kernels.h"

#include "base/levels.h"

namespace gossamer::detail {

#define GOSSAMER_KERNEL(lowest, name, Args) GOSSAMER_DECLARE_KERNEL(lowest, name, Args)
#include "prune/patterns/kernels.inc"
#undef GOSSAMER_KERNEL

const PatternKernels& pattern_kernels() {
  static const PatternKernels kernels = {
#define GOSSAMER_KERNEL(lowest, name, Args) GOSSAMER_CHOOSE_KERNEL(lowest, name, Args)
#include "prune/patterns/kernels.inc"
#undef GOSSAMER_KERNEL
  };
  return kernels;
}

}  // namespace gossamer::detail
