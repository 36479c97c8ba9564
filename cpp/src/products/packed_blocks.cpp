#include <algorithm>

#include "base/scratch.h"
#include "formats/packed/blocks.h"
#include "products/kernels.h"
#include "products/product.h"
#include "products/tiles.h"

namespace gossamer::detail {

void BlocksLayout::multiply(const Product& product) const {
  const std::int64_t real = real_size(product);
  const auto run = [&](const Tile& tile, const std::byte* b, std::int64_t row_block) {
    const std::int64_t row = row_block * block_rows;
    const std::int64_t height = std::min(block_rows, product.m - row);
    const std::int64_t bytes = height * tile.tile * real;
    const Scratch sums(bytes);
    std::fill(sums.data(), sums.data() + bytes, std::byte{0});
    for (std::int64_t q = 0; q < col_blocks; ++q) {
      const auto cell = static_cast<std::size_t>(row_block * col_blocks + q);
      const std::int64_t begin = run_begin[cell], entry = entry_begin[cell];
      product_kernels().spmm_block({.run_length = run_length.data() + begin,
                                    .run_count = run_count.data() + begin,
                                    .runs = run_begin[cell + 1] - begin,
                                    .rows = rows.data() + segment_begin[cell],
                                    .indices = indices.data() + entry,
                                    .values = values.data() + entry * size_of(shape.dtype),
                                    .value_type = shape.dtype,
                                    .entries = entry_begin[cell + 1] - entry,
                                    .b = b + q * block_cols * tile.tile * real,
                                    .c = sums.data(),
                                    .tile = tile.tile});
    }
    store(product, Sums::row_major, sums.data(), tile.tile, row, height, tile.first, tile.width);
  };
  for_tiles(product, widest_tile(), row_blocks, row_cost(shape.nnz, product), run);
}

}  // namespace gossamer::detail
