#pragma once

// The part of the "strips" layout that its kernel reads as a struct.

#include <cstdint>

namespace gossamer::detail {

/// 16 rows in a strip of columns, sorted by their entries there, the longest first, so that each
/// step takes the next entry of the first rows.
struct StripGroup {
  std::uint8_t order;      // the 16 rows, in groups from the block's first row
  std::uint8_t steps;      // entries of the longest row
  std::uint8_t place[16];  // of each row in the sorted order
};

}  // namespace gossamer::detail
