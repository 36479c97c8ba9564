#pragma once

#include <cstdint>
#include <string>

#include "gossamer/detail/check.h"

namespace gossamer::detail {

/// `mask` is bool or uint8, on w's device and of w's shape.
inline void check_mask(const Checker& check, const Argument& mask, const Argument& w) {
  if (mask.view.dtype != DType::boolean && mask.view.dtype != DType::u8) {
    check.type_error(std::string(mask.name) + ".dtype is " + name_of(mask.view.dtype) +
                     ", expected bool or uint8");
  }
  bool same = mask.view.rank == w.view.rank;
  for (int d = 0; same && d < w.view.rank; ++d) {
    const auto i = static_cast<std::size_t>(d);
    same = mask.view.shape[i] == w.view.shape[i];
  }
  if (!same) {
    check.value_error(std::string(mask.name) + ".shape is " + shape_string(mask.view) +
                      ", expected " + w.name + ".shape = " + shape_string(w.view));
  }
  check.device(mask, w.view.device, w.name);
  check.layout(mask);
}

/// The array [..., C] as a matrix: its leading axes must form one.
inline TensorView as_rows(const Checker& check, const Argument& argument) {
  check.layout(argument);
  TensorView rows = argument.view;
  const auto last = static_cast<std::size_t>(rows.rank > 0 ? rows.rank - 1 : 0);
  const std::int64_t cols = rows.rank > 0 ? rows.shape[last] : 1;
  std::int64_t count = 1, stride = cols;
  bool first = true;
  for (std::size_t d = last; d-- > 0;) {
    const std::int64_t extent = argument.view.shape[d], step = argument.view.strides[d];
    if (extent == 1) continue;
    if (first) {
      stride = step;
      first = false;
    } else if (step != stride * count && argument.view.numel() > 0) {
      check.value_error(std::string(argument.name) + ".strides[" + std::to_string(d) + "] is " +
                        std::to_string(step) +
                        ", expected leading axes that form one (make it contiguous)");
    }
    count *= extent;
  }
  rows.rank = 2;
  rows.shape = {count, cols};
  rows.strides = {stride, 1};
  return rows;
}

}  // namespace gossamer::detail
