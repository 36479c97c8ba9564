#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {

void spmm_block(const SpmmBlockArgs&);
void spmm_block(const SpmmBlockArgs&) {}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
