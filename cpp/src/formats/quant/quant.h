#pragma once

// Small things that the conversions and products of group-quantised matrices share.

#include <cstdint>

#include "base/buffer.h"
#include "formats/quant/args.h"
#include "formats/rows_view.h"
#include "gossamer/group_quant.h"

namespace gossamer::detail {

/// The groups from `first` on.
inline QuantGroups groups_from(const GroupQuant& a, std::int64_t first) {
  return {
      .codes = static_cast<const std::uint8_t*>(a.codes().data) + first * a.group() * a.bits() / 8,
      .scales = static_cast<const std::uint16_t*>(a.scales().data) + first,
      .zeros = static_cast<const std::uint8_t*>(a.zeros().data) + first,
      .group = static_cast<int>(a.group()),
      .bits = static_cast<int>(a.bits())};
}

/// Groups of a row, the last one perhaps not whole.
inline std::int64_t groups_across(std::int64_t cols, std::int64_t group) {
  return cols / group + (cols % group != 0 ? 1 : 0);
}

/// The groups as entries without values.
inline RowsView group_view(const GroupQuant& a) {
  return {.kind = IndexKind::i32_u16,
          .indptr = a.indptr().data,
          .indices = a.indices().data,
          .values = nullptr,
          .value_type = a.dtype(),
          .rows = a.rows(),
          .cols = groups_across(a.cols(), a.group()),
          .nnz = a.groups()};
}

/// The indices as int32.
Buffer<std::int32_t> wide_indices(const TensorView& indices);

}  // namespace gossamer::detail
