#include "gossamer/packed.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/levels.h"
#include "base/numbers.h"
#include "base/pool.h"
#include "formats/packed/packed_impl.h"
#include "gossamer/error.h"
#include "gossamer/runtime.h"

namespace gossamer {
using namespace detail;
namespace {

/// From this density on, strips are the fastest layout up to 8 columns, else up to 4.
constexpr double kDense = 0.15;

bool is_f64(DType dtype) { return dtype == DType::f64; }

template <class P, class I>
RowsLayout copy_rows(const RowsView& a, IndexKind kind) {
  const auto size = size_of(a.value_type);
  RowsLayout layout{.kind = kind,
                    .indptr = Buffer<std::byte>((a.rows + 1) * std::int64_t{sizeof(P)}),
                    .indices = Buffer<std::byte>(a.nnz * std::int64_t{sizeof(I)}),
                    .values = Buffer<std::byte>(a.nnz * size)};
  P* indptr = reinterpret_cast<P*>(layout.indptr.data());
  I* indices = reinterpret_cast<I*>(layout.indices.data());
  for (std::int64_t i = 0; i <= a.rows; ++i) indptr[i] = static_cast<P>(a.pointer(i));
  constexpr std::int64_t kChunk = std::int64_t{1} << 16;
  parallel_for((a.nnz + kChunk - 1) / kChunk, [&](std::int64_t chunk) {
    const std::int64_t begin = chunk * kChunk, end = std::min(a.nnz, begin + kChunk);
    for (std::int64_t p = begin; p < end; ++p) indices[p] = static_cast<I>(a.index(p));
    std::memcpy(layout.values.data() + begin * size,
                static_cast<const std::byte*>(a.values) + begin * size,
                static_cast<std::size_t>((end - begin) * size));
  });
  return layout;
}

RowsLayout make_rows(const RowsView& a) {
  constexpr std::int64_t kInt32 = std::numeric_limits<std::int32_t>::max();
  if (a.nnz > kInt32 || a.cols > kInt32) {
    return copy_rows<std::int64_t, std::int64_t>(a, IndexKind::i64_i64);
  }
  if (a.cols <= 65536) return copy_rows<std::int32_t, std::uint16_t>(a, IndexKind::i32_u16);
  return copy_rows<std::int32_t, std::int32_t>(a, IndexKind::i32_i32);
}

StripsLayout make_strips(const RowsView& a, int width) {
  constexpr std::int64_t kLanes = StripsLayout::kLanes;
  const std::int64_t groups = (a.rows + kLanes - 1) / kLanes;
  StripsLayout layout;
  layout.width = width;
  // Blocks of at most 64 groups keep y in L1; at least 8 blocks keep several threads busy.
  layout.groups_per_block = std::clamp<std::int64_t>(groups / 8, 1, 64);
  layout.blocks = (groups + layout.groups_per_block - 1) / layout.groups_per_block;
  layout.strips = (a.cols + width - 1) / width;
  const auto blocks = static_cast<std::size_t>(layout.blocks);
  layout.step_begin.assign(blocks + 1, 0);
  layout.entry_begin.assign(blocks + 1, 0);
  for (std::int64_t block = 0; block <= layout.blocks; ++block) {
    const std::int64_t row = std::min(a.rows, block * layout.groups_per_block * kLanes);
    layout.entry_begin[static_cast<std::size_t>(block)] = a.pointer(row) - a.pointer(0);
  }
  layout.groups = Buffer<StripGroup>(layout.strips * groups);

  // The entries of each strip and row: lengths[(strip * groups of the block + group) * 16 + row].
  const auto lengths_of = [&](std::int64_t block, std::int64_t count) {
    std::vector<std::uint8_t> lengths(static_cast<std::size_t>(layout.strips * count * kLanes), 0);
    const std::int64_t first = block * layout.groups_per_block * kLanes;
    for (std::int64_t row = first; row < std::min(a.rows, first + count * kLanes); ++row) {
      const std::int64_t end = a.pointer(row + 1);
      for (std::int64_t p = a.pointer(row); p < end; ++p) {
        ++lengths[static_cast<std::size_t>(a.index(p) / width * count * kLanes + (row - first))];
      }
    }
    return lengths;
  };
  const auto groups_of = [&](std::int64_t block) {
    return std::min(layout.groups_per_block, groups - block * layout.groups_per_block);
  };

  // First the order of the groups of each strip, and of the rows of each group.
  parallel_for(layout.blocks, [&](std::int64_t block) {
    const std::int64_t count = groups_of(block);
    const std::vector<std::uint8_t> lengths = lengths_of(block, count);
    StripGroup* group = layout.groups.data() + layout.strips * block * layout.groups_per_block;
    std::int64_t steps = 0;
    for (std::int64_t s = 0; s < layout.strips; ++s, group += count) {
      for (std::int64_t g = 0; g < count; ++g) {
        const std::uint8_t* of = lengths.data() + (s * count + g) * kLanes;
        std::uint8_t rows[kLanes];
        std::iota(rows, rows + kLanes, std::uint8_t{0});
        std::stable_sort(rows, rows + kLanes, [&](int i, int j) { return of[i] > of[j]; });
        group[g].order = static_cast<std::uint8_t>(g);
        group[g].steps = of[rows[0]];
        for (int k = 0; k < kLanes; ++k) group[g].place[rows[k]] = static_cast<std::uint8_t>(k);
        steps += group[g].steps;
      }
      std::stable_sort(group, group + count,
                       [](const auto& g, const auto& h) { return g.steps < h.steps; });
    }
    layout.step_begin[static_cast<std::size_t>(block) + 1] = steps;
  });
  for (std::size_t i = 0; i < blocks; ++i) layout.step_begin[i + 1] += layout.step_begin[i];

  const std::int64_t size = size_of(a.value_type);
  layout.counts = Buffer<std::uint8_t>(layout.step_begin[blocks]);
  layout.indices = Buffer<std::uint8_t>(a.nnz + kLanes);
  layout.values = Buffer<std::byte>((a.nnz + kLanes) * size);
  parallel_for(layout.blocks, [&](std::int64_t block) {
    const auto b = static_cast<std::size_t>(block);
    const std::int64_t count = groups_of(block);
    const StripGroup* group =
        layout.groups.data() + layout.strips * block * layout.groups_per_block;
    std::uint8_t* counts = layout.counts.data() + layout.step_begin[b];
    std::int64_t at = layout.entry_begin[b];
    // Where the next entries of each row are.
    std::vector<std::int64_t> next(static_cast<std::size_t>(count * kLanes), 0);
    const std::int64_t first = block * layout.groups_per_block * kLanes;
    for (std::int64_t row = first; row < std::min(a.rows, first + count * kLanes); ++row) {
      next[static_cast<std::size_t>(row - first)] = a.pointer(row);
    }
    for (std::int64_t s = 0; s < layout.strips; ++s) {
      for (std::int64_t g = 0; g < count; ++g, ++group) {
        std::int64_t from[kLanes], length[kLanes];
        for (std::int64_t r = 0; r < kLanes; ++r) {
          const std::int64_t row = first + group->order * kLanes + r;
          std::int64_t& p = next[static_cast<std::size_t>(row - first)];
          const std::uint8_t k = group->place[r];
          from[k] = p;
          if (row < a.rows) {
            const std::int64_t end = a.pointer(row + 1);
            while (p < end && a.index(p) < (s + 1) * width) ++p;
          }
          length[k] = p - from[k];
        }
        for (std::int64_t step = 0; step < group->steps; ++step) {
          std::int64_t k = 0;
          for (; k < kLanes && length[k] > step; ++k, ++at) {
            const std::int64_t p = from[k] + step;
            layout.indices[at] = static_cast<std::uint8_t>(a.index(p) - s * width);
            std::memcpy(layout.values.data() + at * size,
                        static_cast<const std::byte*>(a.values) + p * size,
                        static_cast<std::size_t>(size));
          }
          *counts++ = static_cast<std::uint8_t>(k);
        }
      }
    }
  });
  return layout;
}

BlocksLayout make_blocks(const RowsView& a, std::int64_t block_rows, std::int64_t block_cols) {
  BlocksLayout layout;
  layout.block_rows = block_rows;
  layout.block_cols = block_cols;
  layout.row_blocks = (a.rows + block_rows - 1) / block_rows;
  layout.col_blocks = (a.cols + block_cols - 1) / block_cols;
  const std::int64_t cells = layout.row_blocks * layout.col_blocks;
  layout.run_begin.assign(static_cast<std::size_t>(cells + 1), 0);
  layout.segment_begin.assign(static_cast<std::size_t>(cells + 1), 0);
  layout.entry_begin.assign(static_cast<std::size_t>(cells + 1), 0);
  const std::int64_t real = is_f64(a.value_type) ? 8 : 4;
  layout.indices = Buffer<std::uint8_t>(a.nnz);
  layout.values = Buffer<std::byte>(a.nnz * real);

  // Values in the type of sums first, so that segments are plain copies of pieces of rows.
  Buffer<std::byte> widened;
  const auto* source = static_cast<const std::byte*>(a.values);
  if (size_of(a.value_type) != real) {
    widened = Buffer<std::byte>(a.nnz * real);
    constexpr std::int64_t kChunk = std::int64_t{1} << 16;
    parallel_for((a.nnz + kChunk - 1) / kChunk, [&](std::int64_t chunk) {
      const std::int64_t p = chunk * kChunk, n = std::min(a.nnz - p, kChunk);
      widen(source + p * size_of(a.value_type), a.value_type, n, widened.data() + p * real);
    });
    source = widened.data();
  }

  struct RowBlock {
    std::vector<std::uint16_t> run_length, run_count, rows;
  };
  std::vector<RowBlock> parts(static_cast<std::size_t>(layout.row_blocks));
  parallel_for(layout.row_blocks, [&](std::int64_t mb) {
    RowBlock& part = parts[static_cast<std::size_t>(mb)];
    const std::int64_t row0 = mb * block_rows, row1 = std::min(a.rows, row0 + block_rows);
    std::vector<std::int64_t> cursor;
    for (std::int64_t row = row0; row < row1; ++row) cursor.push_back(a.pointer(row));
    std::int64_t entry = a.pointer(row0);
    std::vector<std::vector<std::pair<std::uint16_t, std::int64_t>>> by_length(
        static_cast<std::size_t>(block_cols) + 1);
    for (std::int64_t q = 0; q < layout.col_blocks; ++q) {
      const std::int64_t col0 = q * block_cols, col1 = col0 + block_cols;
      for (std::int64_t row = row0; row < row1; ++row) {
        std::int64_t& p = cursor[static_cast<std::size_t>(row - row0)];
        const std::int64_t from = p, end = a.pointer(row + 1);
        while (p < end && a.index(p) < col1) ++p;
        if (p == from) continue;
        by_length[static_cast<std::size_t>(p - from)].emplace_back(
            static_cast<std::uint16_t>(row - row0), from);
      }
      const auto cell = static_cast<std::size_t>(mb * layout.col_blocks + q);
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
          std::memcpy(layout.values.data() + entry * real, source + from * real,
                      length * static_cast<std::size_t>(real));
          entry += static_cast<std::int64_t>(length);
        }
        members.clear();
      }
      layout.run_begin[cell + 1] = runs;
      layout.segment_begin[cell + 1] = segments;
    }
  });
  layout.entry_begin[static_cast<std::size_t>(cells)] = a.nnz;
  for (std::size_t cell = 0; cell < static_cast<std::size_t>(cells); ++cell) {
    layout.run_begin[cell + 1] += layout.run_begin[cell];
    layout.segment_begin[cell + 1] += layout.segment_begin[cell];
  }
  layout.run_length = Buffer<std::uint16_t>(layout.run_begin[static_cast<std::size_t>(cells)]);
  layout.run_count = Buffer<std::uint16_t>(layout.run_begin[static_cast<std::size_t>(cells)]);
  layout.rows = Buffer<std::uint16_t>(layout.segment_begin[static_cast<std::size_t>(cells)]);
  for (std::int64_t mb = 0; mb < layout.row_blocks; ++mb) {
    const RowBlock& part = parts[static_cast<std::size_t>(mb)];
    const auto cell = static_cast<std::size_t>(mb * layout.col_blocks);
    std::copy(part.run_length.begin(), part.run_length.end(),
              layout.run_length.data() + layout.run_begin[cell]);
    std::copy(part.run_count.begin(), part.run_count.end(),
              layout.run_count.data() + layout.run_begin[cell]);
    std::copy(part.rows.begin(), part.rows.end(), layout.rows.data() + layout.segment_begin[cell]);
  }
  return layout;
}

std::shared_ptr<const Packed::Impl> pack_view(const RowsView& a, const PackOptions& options) {
  auto impl = std::make_shared<Packed::Impl>();
  impl->rows = a.rows;
  impl->cols = a.cols;
  impl->nnz = a.nnz;
  impl->dtype = a.value_type;
  impl->options = options;
  bool wanted[3] = {};
  if (options.n.has_value()) {
    wanted[static_cast<int>(impl->layout_for(*options.n))] = true;
  } else {
    for (const std::int64_t n : {1, 2, 8, 64}) wanted[static_cast<int>(impl->layout_for(n))] = true;
  }
  if (wanted[static_cast<int>(Layout::strips)]) {
    // Wider strips waste fewer lanes, narrower ones leave registers for 8 columns at once, which
    // only denser matrices meet in this layout.
    const bool wide = impl->density() <= kDense || options.n.value_or(8) <= 2;
    impl->strips = make_strips(a, wide ? 64 : 32);
  }
  if (wanted[static_cast<int>(Layout::blocks)]) {
    // Row blocks: two for every thread, but large enough that filling L1 with a tile of B is a
    // small part. Column blocks: 128 rows of a 64-column tile fill L1; sparser matrices gain from
    // longer segments.
    const std::int64_t share = a.rows / (2 * std::int64_t{num_threads()});
    impl->blocks = make_blocks(a, std::clamp<std::int64_t>((share + 15) / 16 * 16, 64, 256),
                               impl->density() > 0.08 ? 128 : 256);
  }
  if (wanted[static_cast<int>(Layout::rows)]) impl->by_rows = make_rows(a);
  return impl;
}

}  // namespace

RowsView detail::rows_view(const Csr& a) {
  return {.kind = a.index_dtype() == DType::i64 ? IndexKind::i64_i64 : IndexKind::i32_i32,
          .indptr = a.indptr().data,
          .indices = a.indices().data,
          .values = a.values().data,
          .value_type = a.dtype(),
          .rows = a.rows(),
          .cols = a.cols(),
          .nnz = a.nnz()};
}

namespace {

/// A packed matrix in row order again: from its blocks or strips, where it kept no rows.
struct Unpacked {
  std::vector<std::int64_t> indptr, indices;
  Buffer<std::byte> values;
  DType value_type;
};

/// Calls visit(row, column, position of the value) in an order that is ascending in columns for
/// each row.
template <class F>
void for_each_entry(const BlocksLayout& layout, F&& visit) {
  for (std::int64_t mb = 0; mb < layout.row_blocks; ++mb) {
    for (std::int64_t q = 0; q < layout.col_blocks; ++q) {
      const auto cell = static_cast<std::size_t>(mb * layout.col_blocks + q);
      std::int64_t entry = layout.entry_begin[cell], segment = layout.segment_begin[cell];
      for (std::int64_t run = layout.run_begin[cell]; run < layout.run_begin[cell + 1]; ++run) {
        for (int k = 0; k < layout.run_count[run]; ++k, ++segment) {
          const std::int64_t row = mb * layout.block_rows + layout.rows[segment];
          for (int i = 0; i < layout.run_length[run]; ++i, ++entry) {
            visit(row, q * layout.block_cols + layout.indices[entry], entry);
          }
        }
      }
    }
  }
}

template <class F>
void for_each_entry(const StripsLayout& layout, F&& visit) {
  const StripGroup* group = layout.groups.data();
  const std::uint8_t* counts = layout.counts.data();
  std::int64_t at = 0;
  for (std::int64_t block = 0; block < layout.blocks; ++block) {
    const std::int64_t first = block * layout.groups_per_block;
    const std::int64_t all = layout.groups.size() / std::max<std::int64_t>(layout.strips, 1);
    const std::int64_t groups = std::min(layout.groups_per_block, all - first);
    for (std::int64_t k = 0; k < layout.strips * groups; ++k, ++group) {
      std::int64_t rows[StripsLayout::kLanes];
      for (int r = 0; r < StripsLayout::kLanes; ++r) {
        rows[group->place[r]] = (first + group->order) * StripsLayout::kLanes + r;
      }
      for (int step = 0; step < group->steps; ++step, ++counts) {
        for (int lane = 0; lane < *counts; ++lane, ++at) {
          visit(rows[lane], k / groups * layout.width + layout.indices[at], at);
        }
      }
    }
  }
}

Unpacked unpack(const Packed::Impl& impl) {
  const bool from_blocks = impl.blocks.has_value();
  Unpacked result;
  result.value_type = from_blocks && !is_f64(impl.dtype) ? DType::f32 : impl.dtype;
  const std::int64_t size = size_of(result.value_type);
  const std::byte* source = from_blocks ? impl.blocks->values.data() : impl.strips->values.data();
  const auto for_each = [&](auto&& visit) {
    if (from_blocks) {
      for_each_entry(*impl.blocks, visit);
    } else {
      for_each_entry(*impl.strips, visit);
    }
  };
  result.indptr.assign(static_cast<std::size_t>(impl.rows + 1), 0);
  result.indices.resize(static_cast<std::size_t>(impl.nnz));
  result.values = Buffer<std::byte>(impl.nnz * size);
  for_each([&](std::int64_t row, std::int64_t, std::int64_t) {
    ++result.indptr[static_cast<std::size_t>(row + 1)];
  });
  for (std::size_t i = 1; i < result.indptr.size(); ++i) result.indptr[i] += result.indptr[i - 1];
  std::vector<std::int64_t> next(result.indptr.begin(), result.indptr.end() - 1);
  for_each([&](std::int64_t row, std::int64_t column, std::int64_t at) {
    const std::int64_t p = next[static_cast<std::size_t>(row)]++;
    result.indices[static_cast<std::size_t>(p)] = column;
    std::memcpy(result.values.data() + p * size, source + at * size,
                static_cast<std::size_t>(size));
  });
  return result;
}

}  // namespace

double Packed::Impl::density() const {
  const double area = static_cast<double>(rows) * static_cast<double>(cols);
  return area > 0 ? static_cast<double>(nnz) / area : 0.0;
}

// Measured on Zen 4 at 4096 x 4096, 50 to 98 % sparsity, 1 to 512 columns.
Layout Packed::Impl::layout_for(std::int64_t n) const {
  const double d = density();
  const bool permutes = vector_bytes() == 64 && !is_f64(dtype);
  // Strips pay for each group of rows, blocks for each segment: with very few entries rows win, for
  // one column somewhat earlier, and earlier still where all of B is in cache anyway.
  if (d < (n == 1 ? 0.018 : n > 8 && cols <= 1024 ? 0.03 : 0.012)) return Layout::rows;
  if (permutes && (n <= 4 || (n <= 8 && d > kDense))) return Layout::strips;
  return n == 1 ? Layout::rows : Layout::blocks;
}

RowsView Packed::Impl::rows_view() const {
  return {.kind = by_rows->kind,
          .indptr = by_rows->indptr.data(),
          .indices = by_rows->indices.data(),
          .values = by_rows->values.data(),
          .value_type = dtype,
          .rows = rows,
          .cols = cols,
          .nnz = nnz};
}

const Packed::Impl& Packed::Impl::transposed() const {
  const std::lock_guard lock(transposed_mutex_);
  if (transposed_ == nullptr) {
    std::vector<std::int64_t> indptr, indices;
    Buffer<std::byte> values;
    DType type = dtype;
    if (by_rows.has_value()) {
      const RowsView view = rows_view();
      for (std::int64_t i = 0; i <= rows; ++i) indptr.push_back(view.pointer(i));
      indices.resize(static_cast<std::size_t>(nnz));
      for (std::int64_t p = 0; p < nnz; ++p) indices[static_cast<std::size_t>(p)] = view.index(p);
    } else {
      Unpacked unpacked = unpack(*this);
      indptr = std::move(unpacked.indptr);
      indices = std::move(unpacked.indices);
      values = std::move(unpacked.values);
      type = unpacked.value_type;
    }
    const void* stored = by_rows.has_value() ? by_rows->values.data() : values.data();
    const Csr a(make_view(static_cast<const void*>(indptr.data()), DType::i64, {rows + 1}),
                make_view(static_cast<const void*>(indices.data()), DType::i64, {nnz}),
                make_view(stored, type, {nnz}), rows, cols, Csr::Check::trust);
    std::vector<std::int64_t> indptr_t(static_cast<std::size_t>(cols + 1));
    std::vector<std::int64_t> indices_t(static_cast<std::size_t>(nnz));
    const Buffer<std::byte> values_t(nnz * size_of(type));
    csr_transpose(a, make_view(static_cast<void*>(indptr_t.data()), DType::i64, {cols + 1}),
                  make_view(static_cast<void*>(indices_t.data()), DType::i64, {nnz}),
                  make_view(static_cast<void*>(values_t.data()), type, {nnz}), std::nullopt);
    transposed_ = pack_view({.kind = IndexKind::i64_i64,
                             .indptr = indptr_t.data(),
                             .indices = indices_t.data(),
                             .values = values_t.data(),
                             .value_type = type,
                             .rows = cols,
                             .cols = rows,
                             .nnz = nnz},
                            options);
  }
  return *transposed_;
}

std::int64_t Packed::Impl::nbytes() const {
  std::int64_t total = 0;
  const auto add = [&](const auto&... buffers) { total += (buffers.bytes() + ...); };
  if (by_rows) add(by_rows->indptr, by_rows->indices, by_rows->values);
  if (strips) add(strips->groups, strips->counts, strips->indices, strips->values);
  if (blocks) {
    add(blocks->run_length, blocks->run_count, blocks->rows, blocks->indices, blocks->values);
    total += 3 * static_cast<std::int64_t>(blocks->run_begin.size() * sizeof(std::int64_t));
  }
  const std::lock_guard lock(transposed_mutex_);
  return total + (transposed_ ? transposed_->nbytes() : 0);
}

std::int64_t Packed::rows() const noexcept { return impl_->rows; }
std::int64_t Packed::cols() const noexcept { return impl_->cols; }
std::int64_t Packed::nnz() const noexcept { return impl_->nnz; }
DType Packed::dtype() const noexcept { return impl_->dtype; }
std::int64_t Packed::nbytes() const noexcept { return impl_->nbytes(); }

std::string Packed::layouts() const {
  std::string names;
  const auto add = [&](bool present, const char* name) {
    if (!present) return;
    if (!names.empty()) names += '+';
    names += name;
  };
  add(impl_->strips.has_value(), "strips");
  add(impl_->blocks.has_value(), "blocks");
  add(impl_->by_rows.has_value(), "rows");
  return names;
}

Packed pack(const Csr& a, const PackOptions& options) {
  if (a.device().type != DeviceType::cpu) {
    throw NotImplementedError("pack: a is on " + to_string(a.device()) +
                              ", which this build has no kernels for");
  }
  if (options.n.has_value() && *options.n < 1) {
    throw ValueError("pack: n is " + std::to_string(*options.n) + ", expected at least 1");
  }
  return Packed(pack_view(rows_view(a), options));
}

}  // namespace gossamer
