#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {

void spmm_scatter(const SpmmScatterArgs&);
void spmm_scatter(const SpmmScatterArgs&) {}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
