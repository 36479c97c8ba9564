#pragma once

#include "gossamer/cuda.h"
#include "prune/parts.h"

namespace gossamer::cuda {

/// Groups of m elements, `cols` apart, of an array [parts, length, cols]: `groups` of them in each
/// part of part_size elements, from `offset` on. n of each are marked.
struct NmArgs {
  SelectPart part;
  std::int64_t parts, part_size, groups, cols, offset;
  std::int64_t n, m;
  bool tie_high;
};

/// Does nothing where there are no groups.
void mark_groups(const NmArgs& groups, DType type, bool largest, prune::Nan nan, Stream stream);

}  // namespace gossamer::cuda
