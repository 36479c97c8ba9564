#pragma once

// What building layouts of masks and lists asks of its arguments, on whatever device.

#include <cstdint>

#include "gossamer/detail/check.h"
#include "gossamer/layout.h"

namespace gossamer::detail {

void check_layout_source(const Checker& check, const BlockMask& source);
void check_layout_source(const Checker& check, const BlockLists& source);

/// Checks indptr for a source of this shape, and returns how many rows of blocks that has.
[[nodiscard]] std::int64_t check_layout_rows(const LayoutShape& shape, const TensorView& indptr);

/// Throws for numbers of a list that cannot be: columns, or how many there are.
[[noreturn]] void refuse_column(const Checker& check, const BlockLists& source,
                                std::int64_t column);
[[noreturn]] void refuse_count(const Checker& check, const BlockLists& source, std::int64_t count);

/// Throws where more blocks are kept than an int32 counts.
void check_layout_blocks(std::int64_t blocks);

}  // namespace gossamer::detail
