#include <algorithm>

#include "base/scratch.h"
#include "formats/packed/strips.h"
#include "products/kernels.h"
#include "products/product.h"
#include "products/tiles.h"

namespace gossamer::detail {

void StripsLayout::multiply(const Product& product) const {
  const Columns columns(product);
  const auto* x = static_cast<const float*>(columns.data());
  const std::int64_t ldx = columns.stride();
  const std::int64_t at_once = width == 32 ? 8 : 4;
  // Strips pick x from registers, faster than row_cost supposes.
  const double nanoseconds = 0.6 * row_cost(shape.nnz, product);
  for_tasks(blocks * ceil_div(product.n, at_once), nanoseconds, [&](std::int64_t task) {
    const std::int64_t block = task % blocks;
    const std::int64_t first = task / blocks * at_once;
    const std::int64_t batch = std::min(at_once, product.n - first);
    const auto b = static_cast<std::size_t>(block);
    const std::int64_t row = block * groups_per_block * kLanes;
    const std::int64_t rows = std::min(groups_per_block * kLanes, product.m - row);
    const std::int64_t ldy = ceil_div(rows, kLanes) * kLanes;
    const Scratch sums(batch * ldy * 4);
    std::fill(sums.as<float>(), sums.as<float>() + batch * ldy, 0.0F);
    const std::int64_t entry = entry_begin[b];
    product_kernels().spmm_strips({.group = groups.data() + strips * block * groups_per_block,
                                   .counts = counts.data() + step_begin[b],
                                   .indices = indices.data() + entry,
                                   .values = values.data() + entry * size_of(shape.dtype),
                                   .value_type = shape.dtype,
                                   .groups = ldy / kLanes,
                                   .strips = strips,
                                   .width = width,
                                   .x = x + first * ldx,
                                   .ldx = ldx,
                                   .cols = product.k,
                                   .batch = static_cast<int>(batch),
                                   .y = sums.as<float>(),
                                   .ldy = ldy});
    store(product, Sums::column_major, sums.data(), ldy, row, rows, first, batch);
  });
}

}  // namespace gossamer::detail
