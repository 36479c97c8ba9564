#pragma once

// Products of bfloat16 operands on instructions for pairs of bfloat16: what is sparse in memory is
// expanded, a strip of rows at a time, and multiplied as a dense matrix.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/scratch.h"
#include "gossamer/detail/product_checks.h"
#include "products/args.h"
#include "products/tiles.h"

namespace gossamer::detail {

/// Does this level have kernels for a product of such operands?
[[nodiscard]] bool has_bf16(const Product& product);

/// Are there tiles (AMX), beside which other instructions for bfloat16 are slow?
[[nodiscard]] bool has_amx_tiles();

/// The depth of a product, with zeros up to a multiple of what kernels take.
inline std::int64_t bf16_depth(std::int64_t k) { return ceil_div(k, 32) * 32; }

/// The columns of B as bf16_dots reads them, with columns of zeros up to `batch` and rows of zeros
/// up to `depth`.
void copy_bf16_columns(const Product& product, std::int64_t batch, std::int64_t depth,
                       std::uint16_t* to);

/// The most columns that are multiplied as such.
inline constexpr std::int64_t kMostDots = 12;

/// The most columns of a tile of B in pairs of rows.
inline constexpr std::int64_t kWidestBf16 = 64;

/// Elements from one row of a strip to the next: one line more than a row, since rows a multiple of
/// 4 KiB apart would share a few lines of L1.
inline std::int64_t bf16_pitch(std::int64_t depth) { return depth + 32; }

/// Columns [first, last) of B in tiles, each [rows, tile] in pairs of rows, for bf16_tile. `rows`
/// is a multiple of 32, not less than B's.
class Bf16Panel {
 public:
  Bf16Panel(const Product& product, std::int64_t rows, std::int64_t first, std::int64_t last);

  [[nodiscard]] const std::byte* data(std::size_t t) const {
    return memory_.data() + static_cast<std::int64_t>(t) * kWidestBf16 * rows_ * 2;
  }

  std::vector<Tile> tiles;

 private:
  void load(const Product& product, std::size_t t, std::int64_t k0, std::int64_t k1) const;

  std::int64_t rows_;
  Scratch memory_;
};

/// Calls body(panel) for panels of about 16 MiB of B.
template <class F>
void for_bf16_panels(const Product& product, std::int64_t rows, F&& body) {
  std::int64_t columns = kPanelBytes / (2 * std::max<std::int64_t>(rows, 1));
  columns = std::max<std::int64_t>(columns / kWidestBf16, 1) * kWidestBf16;
  for (std::int64_t first = 0; first < product.n; first += columns) {
    body(Bf16Panel(product, rows, first, std::min(product.n, first + columns)));
  }
}

/// The kernel for a product of rows of A with such a tile: AMX's where there is one.
void multiply_bf16_tile(const Bf16TileArgs& args);

/// out = epilogue(A·B). It must not meet an infinity or NaN in B under a zero that is no entry. m
/// and n are not 0, and the output is prepared.
void multiply_bf16(const Bf16Source& a, const Product& product);

/// The same with Aᵀ, whose product.k rows of product.m are the lines of `a`, 32 values or more
/// each; m divides 64.
void multiply_bf16_lines(const NmLines& a, const Product& product);

}  // namespace gossamer::detail
