#pragma once

// What products on Hopper's wgmma share: whether they may run, and maps of their operands.

#include <cstdlib>

#include "base/tensor_map.h"

namespace gossamer::cuda {

/// The side of the boxes that are copied: rows of 128 bytes, as their swizzle has.
inline constexpr int kWgmmaSide = 64, kWgmmaBoxBytes = 2 * kWgmmaSide * kWgmmaSide;

/// Whether the environment has GOSSAMER_CUDA_WGMMA=1: no hardware has run these kernels yet.
inline bool wgmma_allowed() {
  const char* value = std::getenv("GOSSAMER_CUDA_WGMMA");
  return value != nullptr && value[0] == '1';
}

/// Whether the current device can run code for 90a: only compute capability 9.0 can.
inline bool has_wgmma() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
        "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
        "cudaDeviceGetAttribute");
  return major == 9 && minor == 0 && encode_tiled() != nullptr;
}

/// A map of a matrix of 16-bit elements, for boxes of 64 by 64 that are swizzled.
inline CUtensorMap map_of_boxes(const void* data, std::int64_t rows, std::int64_t columns,
                                std::int64_t pitch) {
  const TileShape shape{.rank = 2,
                        .extent = {columns, rows, 1},
                        .stride = {2 * pitch, 0},
                        .box = {kWgmmaSide, kWgmmaSide, 1}};
  return tensor_map(data, shape, CU_TENSOR_MAP_SWIZZLE_128B);
}

}  // namespace gossamer::cuda
