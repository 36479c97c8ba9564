#include "formats/packed/dense.h"

#include <algorithm>
#include <bit>

#include "base/interrupt.h"
#include "base/work.h"
#include "formats/packed/kernels.h"

namespace gossamer::detail {

DenseLayout DenseLayout::make(const RowsView& a, const PackOptions& /*options*/) {
  const std::int64_t words = (a.cols + 63) / 64;
  DenseLayout layout{.shape = shape_of(a),
                     .words = words,
                     .row_begin = Buffer<std::int64_t>(a.rows),
                     .bits = Buffer<std::uint64_t>(a.rows * words),
                     .values = Buffer<std::byte>(a.rows * a.cols * size_of(a.value_type))};
  std::fill_n(layout.bits.data(), layout.bits.size(), std::uint64_t{0});
  parallel_for(a.rows, [&](std::int64_t row) {
    layout.row_begin[row] = a.pointer(row);
    std::uint64_t* bits = layout.bits.data() + row * words;
    for (std::int64_t p = a.pointer(row); p < a.pointer(row + 1); ++p) {
      bits[a.index(p) / 64] |= std::uint64_t{1} << (a.index(p) % 64);
    }
  });
  layout.update(a.values, {});
  return layout;
}

std::int64_t DenseLayout::bytes() const {
  return row_begin.bytes() + bits.bytes() + values.bytes();
}

OwnedRows DenseLayout::to_rows() const {
  const InterruptPoll interrupt;
  return collect_rows(shape, values.data(), [&](auto&& visit) {
    for (std::int64_t row = 0; row < shape.rows; ++row) {
      interrupt.look();
      for (std::int64_t w = 0; w < words; ++w) {
        for (std::uint64_t word = bits[row * words + w]; word != 0; word &= word - 1) {
          const std::int64_t column = w * 64 + std::countr_zero(word);
          visit(row, column, row * shape.cols + column);
        }
      }
    }
  });
}

void DenseLayout::update(const void* from, const SourcePositions& /*source*/) const {
  constexpr std::int64_t kRows = 16;
  for_tasks(ceil_div(shape.rows, kRows), move_cost(shape.nnz), [&](std::int64_t task) {
    packed_kernels().expand_rows({.bits = bits.data(),
                                  .words = words,
                                  .cols = shape.cols,
                                  .row_begin = row_begin.data(),
                                  .row0 = task * kRows,
                                  .row1 = std::min(shape.rows, (task + 1) * kRows),
                                  .source = from,
                                  .nnz = shape.nnz,
                                  .values = values.data(),
                                  .size = size_of(shape.dtype)});
  });
}

}  // namespace gossamer::detail
