#pragma once

// Group-quantised matrices that have been checked, as launches take them.

#include "formats/quant/kernels/quant_rows.cuh"
#include "gossamer/group_quant.h"

namespace gossamer::cuda {

inline QuantRows rows_of(const GroupQuant& a) {
  return {.indptr = static_cast<const int*>(a.indptr().data),
          .indices = static_cast<const std::uint16_t*>(a.indices().data),
          .codes = static_cast<const std::uint8_t*>(a.codes().data),
          .scales = static_cast<const __half*>(a.scales().data),
          .zeros = static_cast<const std::uint8_t*>(a.zeros().data),
          .rows = a.rows(),
          .cols = a.cols(),
          .group = static_cast<int>(a.group()),
          .bits = static_cast<int>(a.bits())};
}

}  // namespace gossamer::cuda
