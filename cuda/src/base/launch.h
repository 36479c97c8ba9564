#pragma once

// What launches of kernels share.

#include <cstdint>

#include "base/device.cuh"
#include "gossamer/dtype.h"
#include "gossamer/tensor.h"

namespace gossamer::cuda {

/// Whether vectors of `bytes` bytes can be read at `data` plus multiples of `stride` elements.
inline bool aligned(const void* data, std::int64_t stride, std::int64_t element,
                    std::int64_t bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(bytes) == 0 &&
         stride * element % bytes == 0;
}

/// Dimensions of a grid. Kernels loop where a grid's limit in y is exceeded.
inline unsigned grid_x(std::int64_t blocks) { return static_cast<unsigned>(blocks); }
inline unsigned grid_y(std::int64_t blocks) {
  return static_cast<unsigned>(blocks < 65535 ? blocks : 65535);
}

/// The distance in elements from one row of a matrix to the next; 0 if there is only one row.
inline std::int64_t row_stride(const TensorView& view) {
  return view.shape[0] > 1 ? view.strides[0] : 0;
}

/// Calls f with an unsigned integer of the element type's size, for code that only moves elements.
template <class F>
void with_bits_of(DType dtype, F&& f) {
  switch (size_of(dtype)) {
    case 2:
      return f(std::uint16_t{});
    case 4:
      return f(std::uint32_t{});
    default:
      return f(std::uint64_t{});
  }
}

/// The widest access, in bytes, that is aligned at `data` plus multiples of `stride` elements and
/// divides `length` elements.
inline int access_bytes(const void* data, std::int64_t stride, std::int64_t length,
                        std::int64_t element) {
  for (const int bytes : {16, 8, 4, 2}) {
    if (aligned(data, stride, element, bytes) && length * element % bytes == 0) return bytes;
  }
  return static_cast<int>(element);
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace gossamer::cuda
