#include "formats/packed/blocks.h"

#include <algorithm>
#include <utility>

#include "base/interrupt.h"
#include "base/work.h"
#include "gossamer/runtime.h"

namespace gossamer::detail {
namespace {

/// The runs of a row block, in all of its column blocks.
struct RowBlock {
  std::vector<std::uint16_t> run_length, run_count, rows;
};

/// `count` segments of `length` entries each.
struct Run {
  std::int64_t column_block, length, count, first_entry, first_segment;
};

/// The segments of a column block by their length: the row in the row block, and where the segment
/// begins in the source.
using Segments = std::vector<std::vector<std::pair<std::uint16_t, std::int64_t>>>;

/// Lays out row block `index` and leaves the numbers of its runs and segments in run_begin and
/// segment_begin, one place ahead.
RowBlock lay_out(BlocksLayout& layout, const RowsView& a, std::int64_t index) {
  RowBlock part;
  const std::int64_t size = size_of(a.value_type);
  const std::int64_t row0 = index * layout.block_rows;
  const std::int64_t row1 = std::min(a.rows, row0 + layout.block_rows);
  std::vector<std::int64_t> cursor;
  for (std::int64_t row = row0; row < row1; ++row) cursor.push_back(a.pointer(row));
  std::int64_t entry = a.pointer(row0);
  Segments by_length(static_cast<std::size_t>(layout.block_cols) + 1);
  for (std::int64_t q = 0; q < layout.col_blocks; ++q) {
    const std::int64_t col0 = q * layout.block_cols, col1 = col0 + layout.block_cols;
    for (std::int64_t row = row0; row < row1; ++row) {
      std::int64_t& p = cursor[static_cast<std::size_t>(row - row0)];
      const std::int64_t from = p, end = a.pointer(row + 1);
      while (p < end && a.index(p) < col1) ++p;
      if (p == from) continue;
      by_length[static_cast<std::size_t>(p - from)].emplace_back(
          static_cast<std::uint16_t>(row - row0), from);
    }
    const auto cell = static_cast<std::size_t>(index * layout.col_blocks + q);
    std::int64_t segments = 0, runs = 0;
    layout.entry_begin[cell] = entry;
    for (std::size_t length = 1; length < by_length.size(); ++length) {
      auto& members = by_length[length];
      if (members.empty()) continue;
      part.run_length.push_back(static_cast<std::uint16_t>(length));
      part.run_count.push_back(static_cast<std::uint16_t>(members.size()));
      ++runs;
      for (const auto& [row, from] : members) {
        part.rows.push_back(row);
        ++segments;
        for (std::size_t i = 0; i < length; ++i) {
          layout.indices[entry + static_cast<std::int64_t>(i)] =
              static_cast<std::uint8_t>(a.index(from + static_cast<std::int64_t>(i)) - col0);
        }
        std::memcpy(layout.values.data() + entry * size,
                    static_cast<const std::byte*>(a.values) + from * size,
                    length * static_cast<std::size_t>(size));
        entry += static_cast<std::int64_t>(length);
      }
      members.clear();
    }
    layout.run_begin[cell + 1] = runs;
    layout.segment_begin[cell + 1] = segments;
  }
  return part;
}

/// Calls visit(length, count, first entry, first segment) for the runs of row block `index`, with
/// the column block.
template <class Visit>
void for_runs(const BlocksLayout& layout, std::int64_t index, Visit&& visit) {
  for (std::int64_t q = 0; q < layout.col_blocks; ++q) {
    const auto cell = static_cast<std::size_t>(index * layout.col_blocks + q);
    std::int64_t entry = layout.entry_begin[cell], segment = layout.segment_begin[cell];
    for (std::int64_t run = layout.run_begin[cell]; run < layout.run_begin[cell + 1]; ++run) {
      const std::int64_t length = layout.run_length[run], count = layout.run_count[run];
      visit(Run{.column_block = q,
                .length = length,
                .count = count,
                .first_entry = entry,
                .first_segment = segment});
      entry += length * count;
      segment += count;
    }
  }
}

/// Memory up to `end`.
template <class Byte>
struct Bytes {
  Byte* data;
  Byte* end;
};

/// Copies the segments of `run`, which begin at these values of the source, one behind the other.
/// 16 bytes at a time, Parts times where that is not 0: what is too much, the next one overwrites.
template <int Parts, class P>
void copy_segments(const Run& run, std::int64_t size, Bytes<const std::byte> source, const P* begin,
                   Bytes<std::byte> target) {
  constexpr std::int64_t kPart = 16, kLine = 64;
  const std::int64_t bytes = run.length * size;
  const std::int64_t copied = Parts != 0 ? Parts * kPart : ceil_div(bytes, kPart) * kPart;
  std::byte* to = target.data + run.first_entry * size;
  begin += run.first_segment;
  for (std::int64_t k = 0; k < run.count; ++k, to += bytes) {
    const std::byte* from = source.data + static_cast<std::int64_t>(begin[k]) * size;
    // The row's segment in the next column block, which no prefetcher foresees.
    for (std::int64_t i = 0; i < copied; i += kLine) __builtin_prefetch(from + bytes + kLine + i);
    if (source.end - from >= copied && target.end - to >= copied) {
      for (std::int64_t i = 0; i < copied; i += kPart) std::memcpy(to + i, from + i, kPart);
    } else {
      std::memcpy(to, from, static_cast<std::size_t>(bytes));
    }
  }
}

}  // namespace

BlocksLayout BlocksLayout::make(const RowsView& a, const PackOptions& /*options*/) {
  BlocksLayout layout;
  layout.shape = shape_of(a);
  // Row blocks: two for every thread, but large enough that filling L1 with a tile of B is a small
  // part. Column blocks: 128 rows of a 64-column tile fill L1; sparser matrices gain from longer
  // segments.
  const std::int64_t share = a.rows / (2 * std::int64_t{num_threads()});
  layout.block_rows = std::clamp<std::int64_t>((share + 15) / 16 * 16, 64, 256);
  layout.block_cols = layout.shape.density() > 0.08 ? 128 : 256;
  layout.row_blocks = (a.rows + layout.block_rows - 1) / layout.block_rows;
  layout.col_blocks = (a.cols + layout.block_cols - 1) / layout.block_cols;
  const auto cells = static_cast<std::size_t>(layout.row_blocks * layout.col_blocks);
  layout.run_begin.assign(cells + 1, 0);
  layout.segment_begin.assign(cells + 1, 0);
  layout.entry_begin.assign(cells + 1, 0);
  layout.row_begin = Buffer<std::int64_t>(a.rows);
  for (std::int64_t row = 0; row < a.rows; ++row) layout.row_begin[row] = a.pointer(row);
  layout.indices = Buffer<std::uint8_t>(a.nnz);
  layout.values = Buffer<std::byte>(a.nnz * size_of(a.value_type));

  std::vector<RowBlock> parts(static_cast<std::size_t>(layout.row_blocks));
  parallel_for(layout.row_blocks, [&](std::int64_t index) {
    parts[static_cast<std::size_t>(index)] = lay_out(layout, a, index);
  });
  layout.entry_begin[cells] = a.nnz;
  for (std::size_t cell = 0; cell < cells; ++cell) {
    layout.run_begin[cell + 1] += layout.run_begin[cell];
    layout.segment_begin[cell + 1] += layout.segment_begin[cell];
  }
  layout.run_length = Buffer<std::uint16_t>(layout.run_begin[cells]);
  layout.run_count = Buffer<std::uint16_t>(layout.run_begin[cells]);
  layout.rows = Buffer<std::uint16_t>(layout.segment_begin[cells]);
  for (std::int64_t index = 0; index < layout.row_blocks; ++index) {
    const RowBlock& part = parts[static_cast<std::size_t>(index)];
    const auto cell = static_cast<std::size_t>(index * layout.col_blocks);
    const std::int64_t run = layout.run_begin[cell];
    std::copy(part.run_length.begin(), part.run_length.end(), layout.run_length.data() + run);
    std::copy(part.run_count.begin(), part.run_count.end(), layout.run_count.data() + run);
    std::copy(part.rows.begin(), part.rows.end(), layout.rows.data() + layout.segment_begin[cell]);
  }
  return layout;
}

std::int64_t BlocksLayout::bytes() const {
  const auto begins = run_begin.size() + segment_begin.size() + entry_begin.size();
  return row_begin.bytes() + run_length.bytes() + run_count.bytes() + rows.bytes() +
         indices.bytes() + values.bytes() +
         static_cast<std::int64_t>(begins * sizeof(std::int64_t));
}

OwnedRows BlocksLayout::to_rows() const {
  const InterruptPoll interrupt;
  return collect_rows(shape, values.data(), [&](auto&& visit) {
    for (std::int64_t mb = 0; mb < row_blocks; ++mb) {
      interrupt.look();
      for_runs(*this, mb, [&](const Run& run) {
        std::int64_t entry = run.first_entry;
        for (std::int64_t k = 0; k < run.count; ++k) {
          const std::int64_t row = mb * block_rows + rows[run.first_segment + k];
          for (std::int64_t i = 0; i < run.length; ++i, ++entry) {
            visit(row, run.column_block * block_cols + indices[entry], entry);
          }
        }
      });
    }
  });
}

SourcePositions BlocksLayout::source() const {
  SourcePositions positions(rows.size(), shape.nnz);
  parallel_for(row_blocks, [&](std::int64_t index) {
    const std::int64_t row0 = index * block_rows, row1 = std::min(shape.rows, row0 + block_rows);
    std::vector<std::int64_t> next(row_begin.data() + row0, row_begin.data() + row1);
    for_runs(*this, index, [&](const Run& run) {
      for (std::int64_t k = run.first_segment; k < run.first_segment + run.count; ++k) {
        positions.set(k, next[rows[k]]);
        next[rows[k]] += run.length;
      }
    });
  });
  return positions;
}

void BlocksLayout::update(const void* from, const SourcePositions& source) const {
  const std::int64_t size = size_of(shape.dtype);
  const auto* data = static_cast<const std::byte*>(from);
  const Bytes<const std::byte> all{.data = data, .end = data + shape.nnz * size};
  source.visit([&](const auto* begin) {
    for_tasks(row_blocks, move_cost(shape.nnz), [&](std::int64_t index) {
      const std::int64_t end = entry_begin[static_cast<std::size_t>((index + 1) * col_blocks)];
      const Bytes<std::byte> target{.data = values.data(), .end = values.data() + end * size};
      for_runs(*this, index, [&](const Run& run) {
        const std::int64_t bytes = run.length * size;
        if (bytes <= 16) {
          copy_segments<1>(run, size, all, begin, target);
        } else if (bytes <= 32) {
          copy_segments<2>(run, size, all, begin, target);
        } else if (bytes <= 48) {
          copy_segments<3>(run, size, all, begin, target);
        } else {
          copy_segments<0>(run, size, all, begin, target);
        }
      });
    });
  });
}

}  // namespace gossamer::detail
