#pragma once

#include <cstdint>

#include "base/device.cuh"

namespace gossamer::cuda {

inline constexpr int kConvertThreads = 256;

template <class From, class To>
__global__ void __launch_bounds__(kConvertThreads)
    convert_each(const From* __restrict__ from, To* __restrict__ to, std::int64_t size) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kConvertThreads + threadIdx.x;
  if (i < size) to[i] = static_cast<To>(from[i]);
}

}  // namespace gossamer::cuda
