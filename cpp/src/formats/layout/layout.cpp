#include "gossamer/layout.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "base/floats.h"
#include "base/work.h"
#include "formats/compressed.h"
#include "formats/layout/layout_rows.h"
#include "gossamer/detail/check.h"
#include "gossamer/detail/layout_checks.h"

namespace gossamer {
using namespace detail;
namespace {

const Checker kLayoutCheck("BlockLayout");

/// Throws for a kind out of range; else tells how many blocks have bits.
std::int64_t count_bits(const TensorView& kinds) {
  const auto* kind = static_cast<const std::uint8_t*>(kinds.data);
  std::int64_t bits = 0;
  for (std::int64_t p = 0; p < kinds.shape[0]; ++p) {
    if (kind[p] > 2) {
      kLayoutCheck.value_error("kinds[" + text(p) + "] is " + text(kind[p]) +
                               ", expected 0, 1 or 2");
    }
    bits += kind[p] == 2;
  }
  return bits;
}

}  // namespace

BlockLayout::BlockLayout(const TensorView& indptr, const TensorView& indices,
                         const std::optional<TensorView>& kinds,
                         const std::optional<TensorView>& bits, LayoutShape shape,
                         LayoutBlock block, Check check)
    : BlockLayout(Unread{}, indptr, indices, kinds, bits, shape, block) {
  const bool trusted = check == Check::trust || indptr.device.type != DeviceType::cpu;
  if (trusted) return;
  check_structure(kLayoutCheck, indptr, indices, {shape.all_rows(), "shape[0]*shape[1]*shape[2]"},
                  {shape.cols, "shape[3]"}, false);
  if (!kinds) return;
  const std::int64_t with_bits = count_bits(*kinds), given = bits ? bits->shape[0] : 0;
  if (with_bits != given) {
    kLayoutCheck.value_error("bits.shape[0] is " + text(given) +
                             ", expected the number of kinds that " + "are 2 = " + text(with_bits));
  }
}

namespace detail {

LayoutRows::LayoutRows(const BlockLayout& layout)
    : indptr(static_cast<const std::int32_t*>(layout.indptr().data)),
      indices(static_cast<const std::int32_t*>(layout.indices().data)),
      kinds(layout.kinds() ? static_cast<const std::uint8_t*>(layout.kinds()->data) : nullptr),
      bits(layout.bits() ? static_cast<const std::uint8_t*>(layout.bits()->data) : nullptr),
      bit_bytes(layout.bit_bytes()) {
  if (bits == nullptr || layout.bits()->shape[0] == 0) {
    bits = nullptr;
    return;
  }
  const std::int64_t rows = layout.shape().all_rows();
  first_bits.resize(static_cast<std::size_t>(rows) + 1);
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int64_t count = 0;
    for (std::int64_t p = indptr[r]; p < indptr[r + 1]; ++p) count += kinds[p] == 2;
    first_bits[static_cast<std::size_t>(r) + 1] = first_bits[static_cast<std::size_t>(r)] + count;
  }
}

TransposedLayout::TransposedLayout(const BlockLayout& layout)
    : indptr(layout.shape().batch * layout.shape().heads * layout.shape().cols + 1),
      rows(layout.nblocks()),
      entries(layout.nblocks()) {
  const LayoutShape& shape = layout.shape();
  const auto* from = static_cast<const std::int32_t*>(layout.indptr().data);
  const auto* columns = static_cast<const std::int32_t*>(layout.indices().data);
  const std::int64_t heads = shape.batch * shape.heads;
  parallel_for(heads, [&](std::int64_t head) {
    const std::int64_t first = head * shape.rows;
    std::int32_t* next = indptr.data() + head * shape.cols;
    std::fill_n(next, shape.cols, 0);
    for (std::int64_t p = from[first]; p < from[first + shape.rows]; ++p) ++next[columns[p]];
    std::int32_t sum = from[first];
    for (std::int64_t c = 0; c < shape.cols; ++c) {
      const std::int32_t count = next[c];
      next[c] = sum;
      sum += count;
    }
    for (std::int64_t i = 0; i < shape.rows; ++i) {
      for (std::int64_t p = from[first + i]; p < from[first + i + 1]; ++p) {
        const std::int32_t q = next[columns[p]]++;
        rows[q] = static_cast<std::int32_t>(i);
        entries[q] = static_cast<std::int32_t>(p);
      }
    }
  });
  // Each pointer has been moved to where its column ends, which is where the next one begins.
  for (std::int64_t c = heads * shape.cols; c > 0; --c) indptr[c] = indptr[c - 1];
  indptr[0] = 0;
}

}  // namespace detail

void layout_transpose(const BlockLayout& layout, const LayoutArrays& arrays) {
  const FloatEnvironment floats;
  const LayoutRows source(layout);
  const TransposedLayout turned(layout);
  const LayoutBlock block = layout.block();
  const std::int64_t n = layout.nblocks();
  const auto copy = [](const Buffer<std::int32_t>& from, const TensorView& to) {
    std::copy_n(from.data(), from.size(), static_cast<std::int32_t*>(to.data));
  };
  copy(turned.indptr, arrays.indptr);
  copy(turned.rows, arrays.indices);
  if (!arrays.kinds || source.kinds == nullptr) return;
  auto* kinds = static_cast<std::uint8_t*>(arrays.kinds->data);
  for (std::int64_t q = 0; q < n; ++q) kinds[q] = source.kinds[turned.entries[q]];
  if (!arrays.bits || source.bits == nullptr) return;
  // Where the bits of each entry are.
  std::vector<std::int32_t> place(static_cast<std::size_t>(n));
  std::int32_t next = 0;
  for (std::int64_t p = 0; p < n; ++p) {
    place[static_cast<std::size_t>(p)] = next;
    next += source.kinds[p] == 2;
  }
  auto* bits = static_cast<std::uint8_t*>(arrays.bits->data);
  const std::int64_t from_pitch = (block.cols + 7) / 8, to_pitch = (block.rows + 7) / 8;
  for (std::int64_t q = 0; q < n; ++q) {
    if (kinds[q] != 2) continue;
    const std::uint8_t* from =
        source.bits + place[static_cast<std::size_t>(turned.entries[q])] * source.bit_bytes;
    std::fill_n(bits, block.cols * to_pitch, std::uint8_t{0});
    for (std::int64_t r = 0; r < block.rows; ++r) {
      for (std::int64_t c = 0; c < block.cols; ++c) {
        const int set = from[r * from_pitch + c / 8] >> (c % 8) & 1;
        bits[c * to_pitch + r / 8] |= static_cast<std::uint8_t>(set << (r % 8));
      }
    }
    bits += block.cols * to_pitch;
  }
}

void layout_to_mask(const BlockLayout& layout, const TensorView& mask) {
  const FloatEnvironment floats;
  const bool elements = check_layout_to_mask(Checker("BlockLayout.to_mask"), layout, mask);
  const LayoutShape& shape = layout.shape();
  const LayoutBlock block = layout.block();
  const std::int64_t width = shape.cols * block.cols;
  const LayoutRows rows(layout);
  auto* out = static_cast<std::uint8_t*>(mask.data);
  std::fill_n(out, mask.numel(), std::uint8_t{0});
  for (std::int64_t r = 0; r < shape.all_rows(); ++r) {
    const std::uint8_t* bits = rows.bits_of(r);
    for (std::int64_t p = rows.indptr[r]; p < rows.indptr[r + 1]; ++p) {
      if (!elements) {
        out[r * shape.cols + rows.indices[p]] = 1;
        continue;
      }
      const bool partly = rows.has_bits(p);
      std::uint8_t* to = out + r * block.rows * width + rows.indices[p] * block.cols;
      for (std::int64_t i = 0; i < block.rows; ++i) {
        for (std::int64_t j = 0; j < block.cols; ++j) {
          const int set = partly ? bits[i * ((block.cols + 7) / 8) + j / 8] >> (j % 8) & 1 : 1;
          to[i * width + j] = static_cast<std::uint8_t>(set);
        }
      }
      if (partly) bits += rows.bit_bytes;
    }
  }
}

}  // namespace gossamer
