#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {

void csr_count(const CsrCountArgs&);
void csr_count(const CsrCountArgs&) {}

void csr_fill(const CsrFillArgs&);
void csr_fill(const CsrFillArgs&) {}

void csr_check(const CsrCheckArgs&);
void csr_check(const CsrCheckArgs&) {}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
