#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {

void sddmm_rows(const SddmmRowsArgs&);
void sddmm_rows(const SddmmRowsArgs&) {}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
