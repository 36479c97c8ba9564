#include "kernels/table.h"

#include "kernels/simd.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {

#define GOSSAMER_KERNEL(name, args) void name(const args&);
#include "kernels/kernels.inc"
#undef GOSSAMER_KERNEL

extern const KernelTable table;
const KernelTable table = {
#define GOSSAMER_KERNEL(name, args) &name,
#include "kernels/kernels.inc"
#undef GOSSAMER_KERNEL
    kVectorBytes,
};

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
