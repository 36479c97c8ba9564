#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {

void spmm_strips(const SpmmStripsArgs&);
void spmm_strips(const SpmmStripsArgs&) {}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
