#pragma once

// Which layout is the fastest for a product: the one place that decides it.

#include <cstddef>
#include <cstdint>

#include "formats/packed/layout.h"

namespace gossamer::detail {

struct LayoutChoice {
  std::size_t layout;  // its place in the list (kLayout)
  const char* why;     // for people
};

/// The fastest layout for `n` columns of B on this machine.
[[nodiscard]] LayoutChoice choose_layout(const PackedShape& a, std::int64_t n);

/// From this density on, strips are the fastest sparse layout up to 8 columns, else up to 4.
inline constexpr double kDenseStrips = 0.15;

}  // namespace gossamer::detail
