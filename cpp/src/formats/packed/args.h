#pragma once

// What the kernels of packed layouts take.

#include <cstdint>

#include "formats/packed/strip_group.h"

namespace gossamer::detail {

/// Rows [row0, row1) of the "dense" layout: row i takes the next of source[row_begin[i]] and on
/// where bit j of its `words` words is set, and zero elsewhere. Values have `size` bytes, 2, 4
/// or 8.
struct ExpandRowsArgs {
  const std::uint64_t* bits;
  std::int64_t words, cols;
  const std::int64_t* row_begin;
  std::int64_t row0, row1;
  const void* source;
  std::int64_t nnz;
  void* values;
  std::int64_t size;
};

/// Values in row order, laid as the entries of a block of the "strips" layout: its strips of groups
/// of 16 rows, and their counts. Row i of the block goes on at source[next[i]], where the kernel
/// leaves the position behind its last entry. Values have `size` bytes, 2 or 4. Of the source, up
/// to 64 values behind a row's entries may be read, but none from source[nnz] on. `to` ends at
/// `end`.
struct StripValuesArgs {
  const StripGroup* group;  // [strips*groups]
  const std::uint8_t* counts;
  std::int64_t strips, groups, rows;
  std::int64_t* next;  // [groups*16]
  const void* source;
  std::int64_t nnz;
  void* to;
  void* end;
  std::int64_t size;
};

}  // namespace gossamer::detail
