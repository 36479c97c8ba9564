#include "prune/select/kernels.h"

#include "base/levels.h"

namespace gossamer::detail {

#define GOSSAMER_KERNEL(lowest, name, Args) GOSSAMER_DECLARE_KERNEL(lowest, name, Args)
#include "prune/select/kernels.inc"
#undef GOSSAMER_KERNEL

const SelectKernels& select_kernels() {
  static const SelectKernels kernels = {
#define GOSSAMER_KERNEL(lowest, name, Args) GOSSAMER_CHOOSE_KERNEL(lowest, name, Args)
#include "prune/select/kernels.inc"
#undef GOSSAMER_KERNEL
  };
  return kernels;
}

}  // namespace gossamer::detail
