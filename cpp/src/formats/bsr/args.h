#pragma once

// What the kernels of BSR take, beside args.h.

#include <cstdint>

namespace gossamer::kernels {

/// kept[j] = 1 where a column in [j*block_cols, (j+1)*block_cols) of `source` [rows, cols] holds an
/// element that is kept, else 0: mask bytes other than 0 where `size` is 1, else values of `size`
/// bytes other than ±0. `cols` is a multiple of block_cols.
struct BsrFindArgs {
  const void* source;
  int size;
  std::int64_t stride;
  std::int64_t rows, cols, block_cols;
  void* fold;  // [cols] elements, scratch
  std::uint8_t* kept;
};

/// out[c*rows + r] = source[r*cols + c] for elements of `size` bytes.
struct BsrTransposeBlockArgs {
  const void* source;
  int size;
  std::int64_t rows, cols;
  void* out;
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
/// bytes of Real.
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

}  // namespace gossamer::kernels
