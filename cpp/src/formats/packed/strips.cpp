#include "formats/packed/strips.h"

#include <algorithm>
#include <numeric>

#include "base/interrupt.h"
#include "base/work.h"
#include "formats/packed/choice.h"
#include "formats/packed/kernels.h"

namespace gossamer::detail {
namespace {

constexpr std::int64_t kLanes = StripsLayout::kLanes;

/// A block of groups of rows, while it is packed.
struct Block {
  std::int64_t first_row, last_row;
  std::int64_t groups;
};

Block block_at(const StripsLayout& layout, std::int64_t block) {
  const std::int64_t all = (layout.shape.rows + kLanes - 1) / kLanes;
  const std::int64_t first = block * layout.groups_per_block;
  const std::int64_t groups = std::min(layout.groups_per_block, all - first);
  return {.first_row = first * kLanes,
          .last_row = std::min(layout.shape.rows, (first + groups) * kLanes),
          .groups = groups};
}

StripGroup* groups_of(const StripsLayout& layout, std::int64_t block) {
  return layout.groups.data() + layout.strips * block * layout.groups_per_block;
}

/// The numbers of entries of each strip and row: [(strip * groups + group) * 16 + row of the
/// group].
std::vector<std::uint8_t> count_lengths(const StripsLayout& layout, const RowsView& a,
                                        const Block& block) {
  std::vector<std::uint8_t> lengths(static_cast<std::size_t>(layout.strips * block.groups * kLanes),
                                    0);
  for (std::int64_t row = block.first_row; row < block.last_row; ++row) {
    const std::int64_t end = a.pointer(row + 1);
    for (std::int64_t p = a.pointer(row); p < end; ++p) {
      ++lengths[static_cast<std::size_t>(a.index(p) / layout.width * block.groups * kLanes +
                                         (row - block.first_row))];
    }
  }
  return lengths;
}

/// Sorts the rows of each group by length and the groups of each strip by steps; returns the steps
/// of all.
std::int64_t order_groups(const StripsLayout& layout, const RowsView& a, std::int64_t index) {
  const Block block = block_at(layout, index);
  const std::vector<std::uint8_t> lengths = count_lengths(layout, a, block);
  StripGroup* group = groups_of(layout, index);
  std::int64_t steps = 0;
  for (std::int64_t s = 0; s < layout.strips; ++s, group += block.groups) {
    for (std::int64_t g = 0; g < block.groups; ++g) {
      const std::uint8_t* of = lengths.data() + (s * block.groups + g) * kLanes;
      std::uint8_t rows[kLanes];
      std::iota(rows, rows + kLanes, std::uint8_t{0});
      std::stable_sort(rows, rows + kLanes, [&](int i, int j) { return of[i] > of[j]; });
      group[g].order = static_cast<std::uint8_t>(g);
      group[g].steps = of[rows[0]];
      for (int k = 0; k < kLanes; ++k) group[g].place[rows[k]] = static_cast<std::uint8_t>(k);
      steps += group[g].steps;
    }
    std::stable_sort(group, group + block.groups,
                     [](const auto& g, const auto& h) { return g.steps < h.steps; });
  }
  return steps;
}

/// Writes the block's counts, indices and values in the order of its groups.
void place_entries(const StripsLayout& layout, const RowsView& a, std::int64_t index) {
  const Block block = block_at(layout, index);
  const std::int64_t size = size_of(a.value_type);
  const StripGroup* group = groups_of(layout, index);
  std::uint8_t* counts = layout.counts.data() + layout.step_begin[static_cast<std::size_t>(index)];
  std::int64_t at = layout.entry_begin[static_cast<std::size_t>(index)];
  // Where the next entries of each row are.
  std::vector<std::int64_t> next(static_cast<std::size_t>(block.groups * kLanes), 0);
  for (std::int64_t row = block.first_row; row < block.last_row; ++row) {
    next[static_cast<std::size_t>(row - block.first_row)] = a.pointer(row);
  }
  for (std::int64_t s = 0; s < layout.strips; ++s) {
    for (std::int64_t g = 0; g < block.groups; ++g, ++group) {
      std::int64_t from[kLanes], length[kLanes];
      for (std::int64_t r = 0; r < kLanes; ++r) {
        const std::int64_t row = block.first_row + group->order * kLanes + r;
        std::int64_t& p = next[static_cast<std::size_t>(row - block.first_row)];
        const std::uint8_t k = group->place[r];
        from[k] = p;
        if (row < block.last_row) {
          const std::int64_t end = a.pointer(row + 1);
          while (p < end && a.index(p) < (s + 1) * layout.width) ++p;
        }
        length[k] = p - from[k];
      }
      for (std::int64_t step = 0; step < group->steps; ++step) {
        std::int64_t k = 0;
        for (; k < kLanes && length[k] > step; ++k, ++at) {
          const std::int64_t p = from[k] + step;
          layout.indices[at] = static_cast<std::uint8_t>(a.index(p) - s * layout.width);
          std::memcpy(layout.values.data() + at * size,
                      static_cast<const std::byte*>(a.values) + p * size,
                      static_cast<std::size_t>(size));
        }
        *counts++ = static_cast<std::uint8_t>(k);
      }
    }
  }
}

/// Calls visit(row, column, entry) for the entries of a block, in their order.
template <class Visit>
void for_entries(const StripsLayout& layout, std::int64_t index, Visit&& visit) {
  const Block block = block_at(layout, index);
  const auto b = static_cast<std::size_t>(index);
  const StripGroup* group = groups_of(layout, index);
  const std::uint8_t* count = layout.counts.data() + layout.step_begin[b];
  std::int64_t entry = layout.entry_begin[b];
  for (std::int64_t s = 0; s < layout.strips; ++s) {
    for (std::int64_t g = 0; g < block.groups; ++g, ++group) {
      std::int64_t row_at[kLanes];  // in sorted order
      for (int r = 0; r < kLanes; ++r) {
        row_at[group->place[r]] = block.first_row + group->order * kLanes + r;
      }
      for (int step = 0; step < group->steps; ++step, ++count) {
        for (int lane = 0; lane < *count; ++lane, ++entry) {
          visit(row_at[lane], s * layout.width + layout.indices[entry], entry);
        }
      }
    }
  }
}

}  // namespace

StripsLayout StripsLayout::make(const RowsView& a, const PackOptions& options) {
  const std::int64_t groups = (a.rows + kLanes - 1) / kLanes;
  StripsLayout layout;
  layout.shape = shape_of(a);
  // Wider strips waste fewer lanes; narrower ones leave registers for 8 columns at once, which only
  // denser matrices meet in this layout.
  const bool wide = layout.shape.density() <= kDenseStrips || options.n.value_or(8) <= 2;
  layout.width = wide ? 64 : 32;
  // Blocks of at most 64 groups keep y in L1; at least 8 blocks keep several threads busy.
  layout.groups_per_block = std::clamp<std::int64_t>(groups / 8, 1, 64);
  layout.blocks = (groups + layout.groups_per_block - 1) / layout.groups_per_block;
  layout.strips = (a.cols + layout.width - 1) / layout.width;
  const auto blocks = static_cast<std::size_t>(layout.blocks);
  layout.step_begin.assign(blocks + 1, 0);
  layout.entry_begin.assign(blocks + 1, 0);
  for (std::int64_t block = 0; block <= layout.blocks; ++block) {
    const std::int64_t row = std::min(a.rows, block * layout.groups_per_block * kLanes);
    layout.entry_begin[static_cast<std::size_t>(block)] = a.pointer(row) - a.pointer(0);
  }
  layout.row_begin = Buffer<std::int64_t>(a.rows);
  for (std::int64_t row = 0; row < a.rows; ++row) layout.row_begin[row] = a.pointer(row);
  layout.groups = Buffer<StripGroup>(layout.strips * groups);
  parallel_for(layout.blocks, [&](std::int64_t block) {
    layout.step_begin[static_cast<std::size_t>(block) + 1] = order_groups(layout, a, block);
  });
  for (std::size_t i = 0; i < blocks; ++i) layout.step_begin[i + 1] += layout.step_begin[i];

  layout.counts = Buffer<std::uint8_t>(layout.step_begin[blocks]);
  layout.indices = Buffer<std::uint8_t>(a.nnz + kLanes);
  layout.values = Buffer<std::byte>((a.nnz + kLanes) * size_of(a.value_type));
  parallel_for(layout.blocks, [&](std::int64_t block) { place_entries(layout, a, block); });
  return layout;
}

std::int64_t StripsLayout::bytes() const {
  const auto begins = step_begin.size() + entry_begin.size();
  return groups.bytes() + counts.bytes() + indices.bytes() + values.bytes() + row_begin.bytes() +
         static_cast<std::int64_t>(begins * sizeof(std::int64_t));
}

OwnedRows StripsLayout::to_rows() const {
  const InterruptPoll interrupt;
  return collect_rows(shape, values.data(), [&](auto&& visit) {
    for (std::int64_t block = 0; block < blocks; ++block) {
      interrupt.look();
      for_entries(*this, block, visit);
    }
  });
}

SourcePositions StripsLayout::source() const {
  // With few entries, taking each from its place costs less than going through the groups. With
  // many, the places would take more memory traffic than they save.
  constexpr double kGathered = 0.12;
  if (shape.density() > kGathered) return {};
  SourcePositions positions(shape.nnz, shape.nnz);
  parallel_for(blocks, [&](std::int64_t index) {
    const std::int64_t first_row = block_at(*this, index).first_row;
    std::vector<std::int64_t> next(row_begin.data() + first_row,
                                   row_begin.data() + block_at(*this, index).last_row);
    for_entries(*this, index, [&](std::int64_t row, std::int64_t, std::int64_t entry) {
      positions.set(entry, next[static_cast<std::size_t>(row - first_row)]++);
    });
  });
  return positions;
}

void StripsLayout::update(const void* from, const SourcePositions& source) const {
  const std::int64_t size = size_of(shape.dtype);
  if (source.size() != 0) return gather_values(from, source, size, values.data());
  for_tasks(blocks, move_cost(shape.nnz), [&](std::int64_t index) {
    const Block block = block_at(*this, index);
    const auto b = static_cast<std::size_t>(index);
    // Where the source holds the next entry of each row; rows beyond the last have none.
    std::vector<std::int64_t> next(static_cast<std::size_t>(block.groups * kLanes), 0);
    std::copy(row_begin.data() + block.first_row, row_begin.data() + block.last_row, next.data());
    packed_kernels().strip_values({.group = groups_of(*this, index),
                                   .counts = counts.data() + step_begin[b],
                                   .strips = strips,
                                   .groups = block.groups,
                                   .rows = block.last_row - block.first_row,
                                   .next = next.data(),
                                   .source = from,
                                   .nnz = shape.nnz,
                                   .to = values.data() + entry_begin[b] * size,
                                   .end = values.data() + entry_begin[b + 1] * size,
                                   .size = size});
  });
}

}  // namespace gossamer::detail
