#include "graph/kernels.h"

#include "base/levels.h"

namespace gossamer::detail {

#define GOSSAMER_KERNEL(lowest, name, Args) GOSSAMER_DECLARE_KERNEL(lowest, name, Args)
#include "graph/kernels.inc"
#undef GOSSAMER_KERNEL

const GraphKernels& graph_kernels() {
  static const GraphKernels kernels = {
#define GOSSAMER_KERNEL(lowest, name, Args) GOSSAMER_CHOOSE_KERNEL(lowest, name, Args)
#include "graph/kernels.inc"
#undef GOSSAMER_KERNEL
  };
  return kernels;
}

}  // namespace gossamer::detail
