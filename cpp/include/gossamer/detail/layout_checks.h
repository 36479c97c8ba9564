#pragma once

// What building layouts and reading them asks of the arguments, on whatever device.

#include <cstdint>

#include "gossamer/detail/check.h"
#include "gossamer/layout.h"

namespace gossamer::detail {

void check_layout_source(const Checker& check, const BlockMask& source);
void check_layout_source(const Checker& check, const BlockLists& source);
void check_layout_source(const Checker& check, const LocalStride& source);
void check_layout_source(const Checker& check, const WindowGlobal& source);
/// Returns the queries of a head.
std::int64_t check_layout_source(const Checker& check, const PatternTiles& source);
void check_layout_source(const Checker& check, const Slashes& source);
void check_layout_source(const Checker& check, const Verticals& source);

/// Returns whether the mask has a place for each element rather than for each block.
[[nodiscard]] bool check_layout_to_mask(const Checker& check, const BlockLayout& layout,
                                        const TensorView& mask);

/// Checks indptr for a source of this shape, and returns how many rows of blocks that has.
[[nodiscard]] std::int64_t check_layout_rows(const LayoutShape& shape, const TensorView& indptr);

/// Throws for numbers of a list that cannot be: columns, or how many there are.
[[noreturn]] void refuse_column(const Checker& check, const BlockLists& source,
                                std::int64_t column);
[[noreturn]] void refuse_count(const Checker& check, const BlockLists& source, std::int64_t count);

/// Throws for a key or a distance that cannot be.
[[noreturn]] void refuse_token(const char* argument, std::int64_t token, std::int64_t tokens);

/// Throws where more blocks are kept than an int32 counts.
void check_layout_blocks(std::int64_t blocks);

}  // namespace gossamer::detail
