#pragma once

// What the kernels of CSR's checks and conversions take.

#include <cstdint>

#include "gossamer/dtype.h"
#include "simd/types.h"

namespace gossamer::detail {

/// indptr[i+1] = number of kept entries (nonzero mask byte, else value other than ±0) of the rows
/// [row0, i], for rows [row0, row1); *total is the last of them, in full where indptr is int32.
struct CsrCountArgs {
  const void* dense;
  DType type;
  std::int64_t stride;
  const std::uint8_t* mask;  // may be null
  std::int64_t mask_stride;
  std::int64_t row0, row1, cols;
  bool wide;  // int64 indptr
  void* indptr;
  std::int64_t* total;
};

/// Writes the kept entries of rows [row0, row1) at indptr[i], never past indptr[row1]. The first
/// row that does not hold indptr[i+1] - indptr[i] of them, or -1, is written to *bad_row.
struct CsrFillArgs {
  const void* dense;
  DType type;
  std::int64_t stride;
  const std::uint8_t* mask;  // may be null
  std::int64_t mask_stride;
  std::int64_t row0, row1, cols;
  bool wide;  // int64 indptr and indices
  const void* indptr;
  void* indices;
  void* values;
  std::int64_t* bad_row;
};

/// *valid = every column of rows [row0, row1) is in [0, cols) and strictly above its predecessor in
/// the row. Row pointers have been checked before.
struct CsrCheckArgs {
  bool wide;
  const void* indptr;
  const void* indices;
  std::int64_t row0, row1, cols;
  bool* valid;
};

/// out[i*stride + j] = A[i, j] for rows [row0, row1) and all columns.
struct CsrToDenseArgs {
  bool wide;
  const void* indptr;
  const void* indices;
  const void* values;
  DType type;
  std::int64_t row0, row1, cols;
  void* out;
  std::int64_t stride;
};

/// counts[indices[p]] += 1 for begin ≤ p < end.
struct CsrHistogramArgs {
  bool wide;
  const void* indices;
  std::int64_t begin, end;
  void* counts;  // of indices' type
};

/// For each entry p = (i, j) with col0 ≤ j < col1, rows in order: q = next[j-col0]++, then
/// out_indices[q] = i, out_values[q] = values[p] and out_permutation[q] = p. Works on tiles of
/// `tile_rows` by `tile_cols`.
struct CsrTransposeArgs {
  bool wide;
  const void* indptr;
  const void* indices;
  const void* values;
  DType type;
  std::int64_t rows;
  std::int64_t col0, col1;
  std::int64_t tile_rows, tile_cols;
  // Of indices' type:
  void* cursors;     // [tile_rows], scratch
  void* next;        // [col1-col0]
  const void* ends;  // [col1-col0]: where the columns' outputs end
  // Where a tile's entries are collected by column before they are written, scratch; null: nowhere.
  std::uint64_t* runs;      // [tile_cols * run_stride + kTransposeGroup]
  void* run_values;         // as many
  std::int64_t run_stride;  // ≥ tile_rows
  std::int32_t* run_ends;   // [tile_cols]
  void* out_indices;
  void* out_values;       // may be null
  void* out_permutation;  // may be null
};

/// Entries that are written at a time.
inline constexpr std::int64_t kTransposeGroup = 16;

/// Copies int64 to int32, or int32 to int64 where `widen`. *fits = no value was cut.
struct ConvertIndicesArgs {
  const void* from;
  void* to;
  std::int64_t size;
  bool widen;
  bool* fits;
};

}  // namespace gossamer::detail
