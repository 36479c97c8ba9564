#include "formats/packed/bits.h"

#include <bit>

#include "base/interrupt.h"
#include "base/work.h"

namespace gossamer::detail {

BitsLayout BitsLayout::make(const RowsView& a, const PackOptions& /*options*/) {
  const std::int64_t words = ceil_div(a.cols, 64);
  const std::int64_t size = size_of(a.value_type);
  BitsLayout layout{.shape = shape_of(a),
                    .words = words,
                    .row_begin = Buffer<std::int64_t>(a.rows),
                    .bits = Buffer<std::uint64_t>(a.rows * words),
                    .values = Buffer<std::byte>((a.nnz + kBehind) * size)};
  std::fill_n(layout.bits.data(), layout.bits.size(), std::uint64_t{0});
  std::fill_n(layout.values.data() + a.nnz * size, kBehind * size, std::byte{0});
  parallel_for(a.rows, [&](std::int64_t row) {
    layout.row_begin[row] = a.pointer(row) - a.pointer(0);
    std::uint64_t* bits = layout.bits.data() + row * words;
    for (std::int64_t p = a.pointer(row); p < a.pointer(row + 1); ++p) {
      bits[a.index(p) / 64] |= std::uint64_t{1} << (a.index(p) % 64);
    }
  });
  layout.update(a.values, {});
  return layout;
}

std::int64_t BitsLayout::bytes() const { return row_begin.bytes() + bits.bytes() + values.bytes(); }

OwnedRows BitsLayout::to_rows() const {
  const InterruptPoll interrupt;
  return collect_rows(shape, values.data(), [&](auto&& visit) {
    std::int64_t next = 0;
    for (std::int64_t row = 0; row < shape.rows; ++row) {
      interrupt.look();
      for (std::int64_t w = 0; w < words; ++w) {
        for (std::uint64_t word = bits[row * words + w]; word != 0; word &= word - 1) {
          visit(row, w * 64 + std::countr_zero(word), next++);
        }
      }
    }
  });
}

void BitsLayout::update(const void* from, const SourcePositions& /*source*/) const {
  const std::int64_t bytes = shape.nnz * size_of(shape.dtype);
  constexpr std::int64_t kChunk = std::int64_t{1} << 18;
  for_tasks(ceil_div(bytes, kChunk), 0.05 * static_cast<double>(bytes), [&](std::int64_t task) {
    const std::int64_t first = task * kChunk;
    std::memcpy(values.data() + first, static_cast<const std::byte*>(from) + first,
                static_cast<std::size_t>(std::min(kChunk, bytes - first)));
  });
}

}  // namespace gossamer::detail
