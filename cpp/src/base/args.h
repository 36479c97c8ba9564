#pragma once

// What kernels take: plain pointers and sizes. A kernel trusts its caller.
// "Real" below is the type that sums are kept in: double where `f64`, else float.

#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::kernels {

/// Types of (row pointers, column indices).
enum class IndexKind : std::uint8_t { i32_u16, i32_i32, i64_i64 };

/// Widths that a tile of Real columns may have.
inline constexpr int kTileWidths[] = {8, 16, 32, 64};
inline constexpr int kMaxTile = 64;

enum class Activate : std::uint8_t { none, relu, relu6, gelu, silu, clamp };

/// dst[r*ld + c] = Real(src(r, c)), src(r, c) = src[r*stride + c], or src[c*stride + r] where
/// `transposed`; columns from `cols` to `ld` are set to zero when `pad`.
struct ConvertTileArgs {
  const void* src;
  DType src_type;
  std::int64_t stride;
  bool transposed;
  std::int64_t rows, cols;
  void* dst;
  std::int64_t ld;
  bool pad;
  bool f64;
};

/// out(r, c) = activation(tile[r*ld + c] + bias [+ out(r, c)]), out(r, c) = out[r*stride + c], or
/// out[c*stride + r] where `transposed`. `bias` has out's type and is indexed by r or by c.
struct StoreTileArgs {
  const void* tile;
  std::int64_t ld;
  std::int64_t rows, cols;
  void* out;
  DType out_type;
  std::int64_t stride;
  bool transposed;
  const void* bias;
  bool bias_by_row;
  Activate activation;
  double lo, hi;
  bool accumulate;
  bool f64;
};

/// c[(i-row0)*tile + j] (+)= Σ_p values[p] · b[indices[p]*tile + j] over begin[i] ≤ p < end[i], for
/// rows [row0, row1) and j < tile; b and c are Real.
struct SpmmRowsArgs {
  IndexKind kind;
  const void* begin;
  const void* end;
  const void* indices;
  const void* values;
  DType value_type;
  std::int64_t row0, row1;
  const void* b;
  void* c;
  int tile;
  bool accumulate;
  bool f64;
};

/// y[i] = Σ_p values[p] · x[indices[p]] over the entries of rows [row0, row1); x, y are Real.
struct SpmvArgs {
  IndexKind kind;
  const void* indptr;
  const void* indices;
  const void* values;
  DType value_type;
  std::int64_t row0, row1;
  const void* x;
  void* y;
  bool f64;
};

/// c[(indices[p]-col0)*tile + j] += values[p] · b[i*ldb + j] over begin[i] ≤ p < end[i], rows in
/// order: one column range of Aᵀ·B. tile may also be 1.
struct SpmmScatterArgs {
  IndexKind kind;
  const void* begin;
  const void* end;
  const void* indices;
  const void* values;
  DType value_type;
  std::int64_t rows;
  std::int64_t col0;
  const void* b;
  std::int64_t ldb;
  void* c;
  int tile;
  bool f64;
};

/// A row block of the "blocks" layout against a column block: for each run of `count` segments of
/// equal `length`, the segments' local rows, and their entries one segment after the other.
struct SpmmBlockArgs {
  const std::uint16_t* run_length;
  const std::uint16_t* run_count;
  std::int64_t runs;
  const std::uint16_t* rows;
  const std::uint8_t* indices;
  const void* values;  // Real
  const void* b;       // Real [block, tile]
  void* c;             // Real [row block, tile]
  int tile;
  bool f64;
};

/// 16 rows in a strip of columns, sorted by their entries there, the longest first, so that each
/// step takes the next entry of the first rows.
struct StripGroup {
  std::uint8_t order;      // the 16 rows, in groups from the block's first row
  std::uint8_t steps;      // entries of the longest row
  std::uint8_t place[16];  // of each row in the sorted order
};

/// A block of the "strips" layout: the columns are cut into strips of `width`, and within a strip
/// the groups are sorted by their number of steps. `counts` are the rows that a step takes, whose
/// (index, value) pairs follow one another; 16 pairs can be read past the last. y[n*ldy + row] +=
/// Σ …, n < batch ≤ 8, x [batch, ldx] and y are float32.
struct SpmmStripsArgs {
  const StripGroup* group;  // [strips*groups]
  const std::uint8_t* counts;
  const std::uint8_t* indices;
  const void* values;
  DType value_type;
  std::int64_t groups, strips;
  int width;
  const float* x;
  std::int64_t ldx;
  std::int64_t cols;
  int batch;
  float* y;
  std::int64_t ldy;
};

/// out[p] = Σ_d a[i*lda + d] · b[indices[p]*ldb + d] for rows [row0, row1) and their entries p from
/// cursor[i] up to the first column that is not below `col_end`, where cursor[i] is left.
struct SddmmRowsArgs {
  IndexKind kind;
  const void* indptr;
  std::int64_t* cursor;
  const void* indices;
  std::int64_t row0, row1;
  std::int64_t col_end;
  const void* a;
  std::int64_t lda;
  const void* b;
  std::int64_t ldb;
  std::int64_t depth;
  void* out;
  bool f64;
};

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

/// Measures the machine: what is computed is thrown away. `result` keeps the compiler honest.
struct ProbeArgs {
  enum class What : std::uint8_t { read, fma } what;
  const float* data;    // read: streamed `repeat` times
  std::int64_t size;    // read: floats, a multiple of 256
  std::int64_t repeat;  // read: passes; fma: rounds
  std::int64_t* flops;  // fma: floating-point operations done
  float* result;
};

}  // namespace gossamer::kernels
