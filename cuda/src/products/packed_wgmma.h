#pragma once

// Products of packed matrices and many columns on compute capability 9.0's wgmma.

#include "gossamer/cuda.h"
#include "products/kernels/pack_wide.cuh"

namespace gossamer::cuda {

/// Whether launch_wgmma may launch on the current device.
bool packed_by_wgmma();

/// Launches what pack_wide computes on `grid`, and returns true, on a device of compute capability
/// 9.0 and only while GOSSAMER_CUDA_WGMMA=1 is in the environment. B is aligned to 16 bytes, as are
/// its rows, or columns where it is stored along them; those must not overlap.
template <class T, TileLayout Layout>
bool launch_wgmma(const PackWideArgs<T>& args, dim3 grid, Stream stream);

}  // namespace gossamer::cuda
