#pragma once

// What the kernels of products take. "Real" is the type that sums are kept in: double where `f64`,
// else float.

#include <cstdint>

#include "formats/packed/strip_group.h"
#include "formats/quant/args.h"
#include "gossamer/dtype.h"
#include "simd/types.h"

namespace gossamer::detail {

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
/// order: one column range of Aᵀ·B. tile may also be 1. For bsr_scatter, entries are blocks and
/// rows are rows of blocks; its index arrays are i32_i32 or i64_i64, its tile is not 1, and the
/// size of a block divides 512 where values are of 16 bits.
struct SpmmScatterArgs {
  IndexKind kind;
  const void* begin;
  const void* end;
  const void* indices;
  const void* values;
  DType value_type;
  std::int64_t rows;
  std::int64_t block_rows = 1, block_cols = 1;
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
  const void* values;  // [entries]
  DType value_type;
  std::int64_t entries;
  const void* b;  // Real [block, tile]
  void* c;        // Real [row block, tile]
  int tile;
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

/// A matrix of blocks, as a product reads it: block row i holds the blocks k in [indptr[i],
/// indptr[i+1]), of columns from indices[k]*cols on. Block k is `rows` by `cols`, Real, at
/// values + order[k]*rows*cols (k itself where order is null), rows `pitch` apart, and lies there
/// [cols, rows] where `transposed`.
struct BsrMatrix {
  bool wide;  // int64 indptr, indices and order
  const void* indptr;
  const void* indices;
  const void* order;
  const void* values;
  std::int64_t rows, cols;
  std::int64_t pitch;
  bool transposed;
};

/// c = A·B for the block rows [row0, row1) of A and a tile of B; c [(row1-row0)*a.rows, tile] and b
/// [·, tile] are Real. A tile has at most four vectors.
struct BsrTileArgs {
  BsrMatrix a;
  std::int64_t row0, row1;
  const void* b;
  void* c;
  int tile;
  bool f64;
};

/// y[n*ldy + i] = Σ_j A[i, j]·x[n*ldx + j] for the block rows [row0, row1) of A, i counted from
/// their first row, n < batch ≤ 4; x and y are Real. The blocks' rows in memory are multiples of 16
/// bytes of Real; where batch is 1, the blocks may also be two floats.
struct BsrVectorsArgs {
  BsrMatrix a;
  std::int64_t row0, row1;
  const void* x;
  std::int64_t ldx;
  void* y;
  std::int64_t ldy;
  int batch;
  bool f64;
};

/// out[p, r, c] = Σ_d a[r*lda + d]·b[c*ldb + d] for one block [rows, cols]; a, b and out are Real.
struct BsrDotsArgs {
  const void* a;
  std::int64_t lda;
  const void* b;
  std::int64_t ldb;
  std::int64_t rows, cols, depth;
  void* out;
  bool f64;
};

/// y[n*ldy + i] = Σ_j A[i, j]·x[n*ldx + j] for the rows [row0, row1) of quantised groups, i counted
/// from row0, n < batch ≤ 4. x is float32 up to the end of the last group; with 4 bits each 16 of
/// its elements are in the order 0, 8, 1, 9, …, 7, 15.
struct QuantDotsArgs {
  const std::int32_t* indptr;
  const std::uint16_t* indices;
  QuantGroups groups;
  std::int64_t row0, row1;
  const float* x;
  std::int64_t ldx;
  float* y;
  std::int64_t ldy;
  int batch;
};

/// The same for groups of 32 and more, 4, 8 or 12 columns of bfloat16 and at most kMostDotRows
/// rows: x(j, n) lies as bf16_dots has it, with zeros up to `depth`, the end of the last group.
/// `partial` has 16·batch floats a row.
struct Bf16GroupDotsArgs {
  const std::int32_t* indptr;
  const std::uint16_t* indices;
  QuantGroups groups;
  std::int64_t row0, row1;
  const void* x;
  std::int64_t depth;
  float* partial;
  float* y;
  std::int64_t ldy;
  int batch;
};

/// The lines of an N:M matrix: value s of line l is values[l*slots + s] and belongs to the line's
/// element s/n*m + position(s), whose `bits` bits begin at bit s*bits of indices + l*index_bytes.
struct NmLines {
  const void* values;
  DType value_type;
  const std::uint8_t* indices;
  std::int64_t index_bytes;
  std::int64_t slots, n, m;
  int bits;
};

/// The most values of a line that a kernel of tiles takes at a time.
inline constexpr std::int64_t kMostSlots = 256;

/// y[b*ldy + l-line0] = Σ_s value(l, s)·x[b*ldx + element(l, s)] for lines [line0, line1) and
/// b < batch, 1, 2 or 4; x, `length` long, and y are Real.
struct NmVectorsArgs {
  NmLines a;
  std::int64_t line0, line1;
  const void* x;
  std::int64_t ldx, length;
  void* y;
  std::int64_t ldy;
  int batch;
  bool f64;
};

/// c[(l-line0)*tile + j] (+)= Σ_s value(l, s)·b[(element(l, s) - e0)*tile + j] over slot0 ≤ s <
/// slot1, e0 = slot0/n*m; at most kMostSlots, of whole groups, whose positions begin with a byte. b
/// and c are Real. tile may also be 128.
struct NmTileArgs {
  NmLines a;
  std::int64_t line0, line1, slot0, slot1;
  const void* b;
  void* c;
  int tile;
  bool accumulate;
  bool f64;
};

/// c[(element(l, s) - e0)*tile + j] += value(l, s)·b[(l-line0)*tile + j], lines in order: some rows
/// of Aᵀ·B. The slots are as above; where tile is 1, as many as there are.
struct NmScatterArgs {
  NmLines a;
  std::int64_t line0, line1, slot0, slot1;
  const void* b;
  void* c;
  int tile;
  bool f64;
};

/// out[(l-line0)*ldo + s] (+)= Σ_d left[l*ldl + d]·right[element(l, s)*ldr + d] for slot0 ≤ s <
/// slot1, as above, and d < depth; left, right and out are Real.
struct NmSampleArgs {
  NmLines a;
  std::int64_t line0, line1, slot0, slot1;
  const void* left;
  std::int64_t ldl;
  const void* right;
  std::int64_t ldr;
  std::int64_t depth;
  void* out;
  std::int64_t ldo;
  bool accumulate;
  bool f64;
};

/// Some columns of B in pairs of rows, as the instructions for bfloat16 read them:
/// to[(d/2*tile + j)*2 + d%2] = b(d, j) for d < depth and j < cols, zeros up to `padded` rows and
/// `tile` columns; b(d, j) = from[d*stride + j], or from[j*stride + d] where `transposed`. `tile`
/// is a multiple of 16, `padded` of 32.
struct Bf16ColumnsArgs {
  const void* from;
  std::int64_t stride;
  bool transposed;
  std::int64_t depth, cols;
  int tile;
  std::int64_t padded;
  void* to;
};

/// Which elements of lines are entries: bit j of the words from to[(l-line0)*words] on for element
/// j of line l, for lines [line0, line1); 64 bytes more are written past the last line's.
struct NmBitsArgs {
  NmLines a;
  std::int64_t line0, line1;
  std::uint64_t* to;
  std::int64_t words;
};

/// Rows of bfloat16 as they lie in memory. dense: [·, cols] at `values`. bits: bit j of the words
/// from bits[i*words] on tells whether element j of row i is an entry, whose values lie from
/// values[begin[i]] on; 32 more can be read past the last. nm: the lines of `nm`, which a product
/// turns into bits, a strip at a time.
struct Bf16Source {
  enum class Form : std::uint8_t { dense, bits, nm } form;
  std::int64_t cols;
  const void* values = nullptr;
  const std::uint64_t* bits = nullptr;
  std::int64_t words = 0;
  const std::int64_t* begin = nullptr;
  NmLines nm = {};
};

/// to[(i-row0)*ld + j] = element j of row i for rows [row0, row1), 0 where there is none, up to the
/// least multiple of 32 that holds a row; `a` is dense or bits.
struct Bf16RowsArgs {
  Bf16Source a;
  std::int64_t row0, row1;
  void* to;
  std::int64_t ld;
};

/// The most rows that bf16_dots takes.
inline constexpr std::int64_t kMostDotRows = 48;

/// y[n*ldy + i-row0] = Σ_j a(i, j)·x(j, n) for rows [row0, row1) and n < batch, 4, 8 or 12; x(j, n)
/// = x[(j/32*batch + n)*32 + j%32], bfloat16, with zeros from a.cols up to `depth`, the least
/// multiple of 32; y float32. `a` is bits, or dense with such a multiple of columns. `partial` has
/// 16·batch floats a row.
struct Bf16DotsArgs {
  Bf16Source a;
  std::int64_t row0, row1;
  const void* x;
  std::int64_t depth;
  float* partial;
  float* y;
  std::int64_t ldy;
  int batch;
};

/// Two operands of a product: rows of A, and rows of B in pairs.
struct Bf16Pair {
  const void* a;
  const void* b;
};

/// c[i*tile + j] (+)= Σ_p Σ_d a_p[i*lda + d]·b_p(d, j) for i < rows, j < tile and d < depth, over
/// the pairs p < count; b_p as bf16_columns lays it, c float32. `depth` is even, for AMX a multiple
/// of 16; `tile` is 16, 32, 48 or 64.
struct Bf16TileArgs {
  const Bf16Pair* pairs;
  std::int64_t count;
  std::int64_t rows, depth, lda;
  int tile;
  float* c;
  bool accumulate;
  /// What is needed next, of which each row of this product prefetches so many bytes.
  const void* ahead = nullptr;
  std::int64_t ahead_row = 0;
};

/// to[i*ld + q*group + j] = code(p, j) − zeros[p] and scales[i*lds + q] = that of group p, for the
/// rows i < rows and their groups p from next[i] on with q = places[p] − place0 < place1 − place0,
/// zeros where there is none; next[i] becomes the group after these. `to` is bfloat16, indptr that
/// of row 0. Prefetches what follows in these rows, or in the first `following` rows behind them.
struct Bf16FromGroupsArgs {
  QuantGroups groups;
  const std::uint16_t* places;
  const std::int32_t* indptr;
  std::int64_t rows, place0, place1;
  std::int64_t* next;
  std::int64_t following;
  void* to;
  std::int64_t ld;
  float* scales;
  std::int64_t lds;
};

/// c[i*tile + j] (+)= Σ_g scales[i*lds + g] Σ_d a[i*lda + d]·b(d, j) over the groups g of `group`
/// columns each up to `depth`, and their columns d, for i < rows, a multiple of 12, and j < tile,
/// 16, 32, 48 or 64; b as bf16_columns lays it, c and scales float32.
struct Bf16GroupsArgs {
  const void* a;
  std::int64_t lda;
  const float* scales;
  std::int64_t lds;
  const void* b;
  std::int64_t rows, depth;
  int group, tile;
  float* c;
  bool accumulate;
};

}  // namespace gossamer::detail
