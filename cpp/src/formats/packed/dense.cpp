#include "formats/packed/dense.h"

#include <bit>

#include "base/interrupt.h"
#include "base/work.h"

namespace gossamer::detail {
namespace {

/// Writes a row: the next of `from` where a bit is set, zeros elsewhere. Returns where the next row
/// of `from` begins; nothing is read from `end` on.
template <class T>
const T* expand_row(const std::uint64_t* bits, std::int64_t cols, const T* from, const T* end,
                    T* to) {
  for (std::int64_t first = 0; first < cols; first += 64) {
    std::uint64_t word = bits[first / 64];
    const std::int64_t width = std::min<std::int64_t>(64, cols - first);
    if (std::popcount(word) >= 56) {
      // Runs of entries.
      std::fill_n(to + first, width, T{0});
      for (int j = 0; word != 0;) {
        const int zeros = std::countr_zero(word);
        word >>= zeros;
        const int ones = std::countr_one(word);
        std::copy_n(from, ones, to + first + j + zeros);
        word = ones == 64 ? 0 : word >> ones;
        from += ones;
        j += zeros + ones;
      }
    } else if (end - from > 64) {
      // No branch depends on the bits.
      for (std::int64_t j = 0; j < width; ++j, word >>= 1U) {
        const std::uint64_t bit = word & 1U;
        to[first + j] = static_cast<T>(*from & (T{0} - static_cast<T>(bit)));
        from += bit;
      }
    } else {
      std::fill_n(to + first, width, T{0});
      for (; word != 0; word &= word - 1) to[first + std::countr_zero(word)] = *from++;
    }
  }
  return from;
}

}  // namespace

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
  layout.update(a.values);
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

void DenseLayout::update(const void* from) const {
  with_size(size_of(shape.dtype), [&](auto value) {
    using T = decltype(value);
    const T* source = static_cast<const T*>(from);
    constexpr std::int64_t kRows = 16;
    for_tasks(ceil_div(shape.rows, kRows), move_cost(shape.nnz), [&](std::int64_t task) {
      for (std::int64_t row = task * kRows; row < std::min(shape.rows, (task + 1) * kRows); ++row) {
        expand_row(bits.data() + row * words, shape.cols, source + row_begin[row],
                   source + shape.nnz, reinterpret_cast<T*>(values.data()) + row * shape.cols);
      }
    });
  });
}

}  // namespace gossamer::detail
