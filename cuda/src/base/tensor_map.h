#pragma once

// Tensor maps, which copies of tiles to and from shared memory take (hopper.cuh).

#include <cuda.h>

#include <cstdint>

#include "base/device.cuh"

namespace gossamer::cuda {

/// A tensor of 16-bit elements with up to three dimensions, innermost first.
struct TileShape {
  int rank;
  std::int64_t extent[3];
  std::int64_t stride[2];  // bytes, a multiple of 16, of the second and third dimension
  int box[3];              // a tile's extent: at most 256
};

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/// The driver's cuTensorMapEncodeTiled, or null where it has none; it has one on Hopper.
inline EncodeTiled encode_tiled() {
  static const EncodeTiled function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                               12000, cudaEnableDefault, &result);
#else
    const cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    const bool right = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return right ? reinterpret_cast<EncodeTiled>(found) : nullptr;
  }();
  return function;
}

/// Describes `data`, of the current device, for copies of tiles. Throws CudaError where the driver
/// refuses it.
inline CUtensorMap tensor_map(const void* data, const TileShape& shape,
                              CUtensorMapSwizzle swizzle) {
  cuuint64_t extents[3], strides[2];
  cuuint32_t box[3];
  const cuuint32_t steps[3] = {1, 1, 1};
  for (int d = 0; d < shape.rank; ++d) {
    extents[d] = static_cast<cuuint64_t>(shape.extent[d]);
    box[d] = static_cast<cuuint32_t>(shape.box[d]);
    if (d > 0) strides[d - 1] = static_cast<cuuint64_t>(shape.stride[d - 1]);
  }
  // The driver takes the thread's context. A thread whose first call this is has none: making its
  // device current gives it one, also while a graph is captured.
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaSetDevice(device), "cudaSetDevice");
  CUtensorMap map;
  const EncodeTiled encode = encode_tiled();
  const CUresult error =
      encode == nullptr
          ? CUDA_ERROR_NOT_FOUND
          : encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, static_cast<cuuint32_t>(shape.rank),
                   const_cast<void*>(data), extents, strides, box, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (error != CUDA_SUCCESS) {
    throw CudaError("cuTensorMapEncodeTiled", "error " + std::to_string(static_cast<int>(error)));
  }
  return map;
}

}  // namespace gossamer::cuda
