#include "base/kernels.h"

#include "base/levels.h"

namespace gossamer::detail {

#define GOSSAMER_KERNEL(lowest, name, Args) GOSSAMER_DECLARE_KERNEL(lowest, name, Args)
#include "base/kernels.inc"
#undef GOSSAMER_KERNEL

const BaseKernels& base_kernels() {
  static const BaseKernels kernels = {
#define GOSSAMER_KERNEL(lowest, name, Args) GOSSAMER_CHOOSE_KERNEL(lowest, name, Args)
#include "base/kernels.inc"
#undef GOSSAMER_KERNEL
  };
  return kernels;
}

}  // namespace gossamer::detail
