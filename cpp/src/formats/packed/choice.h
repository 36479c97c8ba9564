#pragma once

// Which layout is the fastest for a product: the one place that decides it.

#include <cstddef>
#include <cstdint>

#include "formats/packed/layout.h"

namespace gossamer::detail {

/// The place in the list of layouts (kLayout) of the fastest one for `n` columns of B on this
/// machine.
[[nodiscard]] std::size_t fastest_layout(const PackedShape& a, std::int64_t n);

/// From this density on, strips are the fastest layout up to 8 columns, else up to 4.
inline constexpr double kDenseStrips = 0.15;

}  // namespace gossamer::detail
