#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {

void spmv(const SpmvArgs&);
void spmv(const SpmvArgs&) {}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
