#pragma once

// Products of packed matrices of float32.

#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/decoded.h"
#include "products/kernels/pack_product.cuh"

namespace gossamer::cuda {

/// Of products of more columns than kNarrowFloatColumns.
inline constexpr DecodedCut kFloatCut{kDecodedSide, kTileCols};

/// Up to kNarrowFloatColumns; without the splits' last step.
void multiply_floats(const PackedArgs<float>& args, std::int64_t splits, Stream stream);

/// More columns. `sums`: decoded_workspace.
void multiply_wide_floats(const PackedTiles& a, const detail::Product& product, void* sums,
                          Stream stream);

}  // namespace gossamer::cuda
