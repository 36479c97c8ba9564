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
  return check.rows(argument);
}

}  // namespace gossamer::detail
