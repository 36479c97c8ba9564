#pragma once

#include <cstdint>
#include <string>

#include "gossamer/detail/check.h"

namespace gossamer::detail {

/// `mask` is a mask of w's shape and on its device; rows may be strided.
inline void check_mask(const Checker& check, const Argument& mask, const Argument& w) {
  check.mask(mask);
  check.same_shape(mask, w);
  check.device(mask, w.view.device, w.name);
  check.layout(mask);
}

/// The array [..., C] as a matrix: its leading axes must form one.
inline TensorView as_rows(const Checker& check, const Argument& argument) {
  check.layout(argument);
  return check.rows(argument);
}

}  // namespace gossamer::detail
