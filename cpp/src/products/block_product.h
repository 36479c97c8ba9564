#pragma once

// Products with matrices of blocks of one size: BSR, and group-quantised ones, whose groups are
// blocks of one row.

#include <cstdint>

#include "base/buffer.h"
#include "formats/quant/args.h"
#include "formats/rows_view.h"
#include "gossamer/detail/product_checks.h"

namespace gossamer::detail {

/// Up to so many columns of B the blocks are read as vectors of their own, so many at a time.
inline constexpr std::int64_t kVectors = 8;
inline constexpr std::int64_t kBatch = 4;

/// Such a matrix or its transpose, whose index arrays are made for the product. Index arrays are
/// int32 or int64.
struct BlockOperand {
  RowsView grid;                        // the blocks as entries
  std::int64_t block_rows, block_cols;  // of the product's A
  const void* values = nullptr;         // the blocks one after the other, of grid.value_type,
  const QuantGroups* groups = nullptr;  // or codes
  const void* order = nullptr;          // which block each entry of the grid is
  bool transposed = false;
  Buffer<std::byte> arrays = {};

  /// Takes a pass over the blocks' indices; the blocks stay where they are.
  void transpose();
  [[nodiscard]] std::int64_t position(std::int64_t k) const {
    return order == nullptr ? k : RowPointers{order, grid.pointers().wide}[k];
  }
};

/// out = epilogue(Aᵀ·B) of a BSR matrix whose blocks are small enough that adding each to its sums
/// is fastest; else false, and nothing is done.
bool scatter_blocks(const BlockOperand& a, const Product& product);

/// out = epilogue(A·B), A's blocks within or beyond the product's m, but not beyond its k. m and n
/// are not 0, and the output is prepared.
void multiply_blocks(BlockOperand& a, const Product& product);

}  // namespace gossamer::detail
