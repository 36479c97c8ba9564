#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {

void spmm_rows(const SpmmRowsArgs&);
void spmm_rows(const SpmmRowsArgs&) {}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
