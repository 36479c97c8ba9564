#pragma once

// What launches have in common.

#include <cstdint>

#include "device.cuh"

namespace gossamer::cuda {

/// True where vectors of `bytes` may be read at `data` plus multiples of `stride` elements.
inline bool aligned(const void* data, std::int64_t stride, std::int64_t element,
                    std::int64_t bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(bytes) == 0 &&
         stride * element % bytes == 0;
}

/// A grid dimension; kernels loop over what exceeds the limit of y.
inline unsigned grid_x(std::int64_t blocks) { return static_cast<unsigned>(blocks); }
inline unsigned grid_y(std::int64_t blocks) {
  return static_cast<unsigned>(blocks < 65535 ? blocks : 65535);
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace gossamer::cuda
