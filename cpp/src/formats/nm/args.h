#pragma once

// What the kernels of N:M matrices take. Line l has its `slots` values at values[l*slots], and its
// positions, `bits` bits each, from indices[l*index_bytes] on (gossamer/nm.h).

#include <cstdint>

namespace gossamer::detail {

/// Lines [line0, line1) of a dense matrix to values and positions. Element e of line l is
/// dense[l*line + e*step], of `size` bytes; kept where mask[l*mask_line + e*mask_step] is not 0 or,
/// without a mask, where it is not ±0. *bad: a group, counted through the lines, with more than n
/// elements to keep, or -1.
struct NmPackArgs {
  const void* dense;
  int size;
  std::int64_t line, step;
  const std::uint8_t* mask;  // may be null
  std::int64_t mask_line, mask_step;
  std::int64_t line0, line1, groups;
  std::int64_t n, m;
  int bits;
  void* values;
  std::uint8_t* indices;
  std::int64_t index_bytes;
  std::int64_t* bad;
};

/// dense[l*line + e*step] = element e of line l, for lines [line0, line1).
struct NmUnpackArgs {
  void* dense;
  int size;
  std::int64_t line, step;
  std::int64_t line0, line1, groups;
  std::int64_t n, m;
  int bits;
  const void* values;
  const std::uint8_t* indices;
  std::int64_t index_bytes;
};

/// *valid: are the positions of lines [line0, line1) below m, and do they increase within each
/// group?
struct NmCheckStructureArgs {
  const std::uint8_t* indices;
  std::int64_t index_bytes;
  std::int64_t line0, line1, slots;
  std::int64_t n, m;
  int bits;
  bool* valid;
};

}  // namespace gossamer::detail
