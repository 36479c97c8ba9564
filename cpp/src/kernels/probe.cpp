#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {

void probe(const ProbeArgs&);
void probe(const ProbeArgs&) {}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
