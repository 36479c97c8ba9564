#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {

void convert_tile(const ConvertTileArgs&);
void convert_tile(const ConvertTileArgs&) {}

void store_tile(const StoreTileArgs&);
void store_tile(const StoreTileArgs&) {}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
