#include "prune/proximal/kernels.h"

#include "base/levels.h"

namespace gossamer::detail {

#define GOSSAMER_KERNEL(lowest, name, Args) GOSSAMER_DECLARE_KERNEL(lowest, name, Args)
#include "prune/proximal/kernels.inc"
#undef GOSSAMER_KERNEL

const ProximalKernels& proximal_kernels() {
  static const ProximalKernels kernels = {
#define GOSSAMER_KERNEL(lowest, name, Args) GOSSAMER_CHOOSE_KERNEL(lowest, name, Args)
#include "prune/proximal/kernels.inc"
#undef GOSSAMER_KERNEL
  };
  return kernels;
}

}  // namespace gossamer::detail
