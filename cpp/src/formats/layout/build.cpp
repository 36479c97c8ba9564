// Layouts from patterns, masks and lists. A source lists the columns of one row; counting and
// filling go over the rows, in parallel.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "base/cut.h"
#include "base/floats.h"
#include "base/interrupt.h"
#include "formats/layout/layout_rows.h"
#include "gossamer/detail/check.h"
#include "gossamer/detail/layout_checks.h"
#include "gossamer/layout.h"
#include "simd/philox.h"

namespace gossamer {
using namespace detail;
namespace {

using Columns = std::vector<std::int32_t>;
/// Of which kind each column of a row is; not filled by sources that have no kinds.
using Kinds = std::vector<std::uint8_t>;

std::int32_t as_column(std::int64_t column) { return static_cast<std::int32_t>(column); }

void sort_unique(Columns& columns) {
  if (!std::is_sorted(columns.begin(), columns.end())) std::sort(columns.begin(), columns.end());
  columns.erase(std::unique(columns.begin(), columns.end()), columns.end());
}

/// A number of an index array.
std::int64_t integer(const TensorView& view, std::int64_t offset) {
  return view.dtype == DType::i64 ? static_cast<const std::int64_t*>(view.data)[offset]
                                  : static_cast<const std::int32_t*>(view.data)[offset];
}

/// What is listed of a row: columns, kinds where the source has any and, in `bits`, how many are of
/// kind `bits`.
struct Row {
  Columns columns;
  Kinds kinds;
  std::int64_t bits = 0;
  std::vector<std::int32_t> marks;  // the source's own, one for each column
};

struct LocalStrideRows {
  static constexpr bool kKinds = true, kBits = false;
  const LocalStride& s;

  void check() const { check_layout_source(Checker("BlockLayout.local_stride"), s); }
  void row(std::int64_t r, Row& out) const {
    const std::int64_t head = r / s.blocks, i = r % s.blocks;
    const std::int64_t first =
        head < s.dense_heads ? 0 : std::max<std::int64_t>(i - s.local + 1, 0);
    // The least j ≥ 0 with (j + 1 + head·shift) mod stride = 0.
    const std::int64_t phase = (1 + head % s.stride * (s.head_shift % s.stride)) % s.stride;
    for (std::int64_t j = (s.stride - phase) % s.stride; j < first; j += s.stride) {
      out.columns.push_back(as_column(j));
    }
    for (std::int64_t j = first; j <= i; ++j) out.columns.push_back(as_column(j));
    out.kinds.assign(out.columns.size(), 0);
    out.kinds.back() = 1;
  }
};

struct WindowGlobalRows {
  static constexpr bool kKinds = true, kBits = false;
  const WindowGlobal& s;
  Columns globals = {};

  explicit WindowGlobalRows(const WindowGlobal& source) : s(source) {
    check_layout_source(Checker("BlockLayout.window_global"), s);
    for (const std::int64_t g : s.globals) globals.push_back(as_column(g));
    sort_unique(globals);
  }
  void check() const {}
  void row(std::int64_t r, Row& out) const {
    const std::int64_t i = r % s.rows;
    const std::int64_t limit = s.causal ? std::min(i + 1, s.cols) : s.cols;
    Columns& columns = out.columns;
    if (std::binary_search(globals.begin(), globals.end(), as_column(i))) {
      for (std::int64_t j = 0; j < limit; ++j) columns.push_back(as_column(j));
    } else {
      const std::int64_t first = i > s.before ? i - s.before : 0;
      const std::int64_t last = s.after < limit - i ? i + s.after + 1 : limit;
      for (const std::int32_t g : globals) {
        if (g < limit) columns.push_back(g);
      }
      for (std::int64_t j = first; j < last; ++j) columns.push_back(as_column(j));
      sort_unique(columns);
      draw(r, limit, columns);
    }
    out.kinds.assign(columns.size(), 0);
    if (s.causal && !columns.empty() && columns.back() == i) out.kinds.back() = 1;
  }
  /// Adds random columns below `limit` that are not there yet.
  void draw(std::int64_t r, std::int64_t limit, Columns& columns) const {
    const std::int64_t there = static_cast<std::int64_t>(columns.size());
    const std::int64_t wanted = std::min(s.random, limit - there);
    if (wanted <= 0) return;
    // The k-th draw is a rank among the columns that are not kept; ranks are drawn without
    // repetition (Floyd).
    Columns ranks;
    for (std::int64_t k = 0, free = limit - there; k < wanted; ++k) {
      const std::int64_t top = free - wanted + k;
      const std::uint64_t word =
          random_word(s.seed, static_cast<std::uint64_t>(r), static_cast<std::uint64_t>(k));
      auto rank = as_column(
          static_cast<std::int64_t>((word * (static_cast<std::uint64_t>(top) + 1)) >> 32));
      if (std::find(ranks.begin(), ranks.end(), rank) != ranks.end()) rank = as_column(top);
      ranks.push_back(rank);
    }
    std::sort(ranks.begin(), ranks.end());
    const Columns kept = columns;
    std::size_t at = 0;
    for (const std::int32_t rank : ranks) {
      while (at < kept.size() && kept[at] <= rank + as_column(static_cast<std::int64_t>(at))) ++at;
      columns.push_back(rank + as_column(static_cast<std::int64_t>(at)));
    }
    std::sort(columns.begin(), columns.end());
  }
};

struct MaskRows {
  static constexpr bool kKinds = false, kBits = false;
  const TensorView& mask;

  void check() const { check_layout_source(Checker("BlockLayout.from_mask"), BlockMask{mask}); }
  void row(std::int64_t r, Row& out) const {
    const std::int64_t i = r % mask.shape[2], head = r / mask.shape[2];
    const auto* from = static_cast<const std::uint8_t*>(mask.data) + i * mask.strides[2] +
                       head % mask.shape[1] * mask.strides[1] +
                       head / mask.shape[1] * mask.strides[0];
    for (std::int64_t j = 0; j < mask.shape[3]; ++j) {
      if (from[j * mask.strides[3]] != 0) out.columns.push_back(as_column(j));
    }
  }
};

struct ListRows {
  static constexpr bool kKinds = false, kBits = false;
  const BlockLists& s;

  void check() const { check_layout_source(Checker(s.op), s); }
  void row(std::int64_t r, Row& out) const {
    const TensorView& x = s.indices;
    const std::int64_t i = r % x.shape[2], h = r / x.shape[2] % x.shape[1];
    const std::int64_t b = r / x.shape[2] / x.shape[1];
    std::int64_t n = x.shape[3];
    if (s.counts) {
      const auto& strides = s.counts->strides;
      n = integer(*s.counts, b * strides[0] + h * strides[1] + i * strides[2]);
      if (n < 0 || n > x.shape[3]) refuse_count(Checker(s.op), s, n);
    }
    const std::int64_t from = b * x.strides[0] + h * x.strides[1] + i * x.strides[2];
    for (std::int64_t k = 0; k < n; ++k) {
      const std::int64_t column = integer(x, from + k * x.strides[3]);
      if (column == -1) continue;
      if (column < 0 || column >= s.cols) refuse_column(Checker(s.op), s, column);
      out.columns.push_back(as_column(column));
    }
    sort_unique(out.columns);
  }
};

struct TileRows {
  static constexpr bool kKinds = true, kBits = true;
  const PatternTiles& s;
  std::int64_t tokens, rows, cols;

  explicit TileRows(const PatternTiles& source)
      : s(source),
        tokens(check_layout_source(Checker("BlockLayout.from_csr"), source)),
        rows(layout_shape(source).rows),
        cols(layout_shape(source).cols) {}
  void check() const {}
  [[nodiscard]] std::int64_t pointer(std::int64_t i) const { return integer(s.indptr, i); }

  /// Calls f(row in the block, column) for the entries of block row r.
  template <class F>
  void entries(std::int64_t r, F&& f) const {
    const std::int64_t head = r / rows, first = r % rows * s.block.rows;
    const std::int64_t count = std::min(s.block.rows, tokens - first);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t row = head * tokens + first + i;
      for (std::int64_t p = pointer(row); p < pointer(row + 1); ++p) f(i, integer(s.indices, p));
    }
  }
  void row(std::int64_t r, Row& out) const {
    out.marks.resize(static_cast<std::size_t>(cols));
    entries(r, [&](std::int64_t, std::int64_t column) {
      const std::int64_t c = column / s.block.cols;
      if (out.marks[static_cast<std::size_t>(c)]++ == 0) out.columns.push_back(as_column(c));
    });
    std::sort(out.columns.begin(), out.columns.end());
    const std::int64_t height = std::min(s.block.rows, tokens - r % rows * s.block.rows);
    for (const std::int32_t c : out.columns) {
      const std::int64_t width = std::min(s.block.cols, s.columns - c * s.block.cols);
      const bool full = out.marks[static_cast<std::size_t>(c)] == height * width;
      out.kinds.push_back(full ? 0 : 2);
      out.bits += !full;
      out.marks[static_cast<std::size_t>(c)] = 0;
    }
  }
  /// Sets the bits of a row whose columns are known; `marks` are zero and stay so.
  void set_bits(std::int64_t r, const std::int32_t* columns, const std::uint8_t* kinds,
                std::int64_t count, std::uint8_t* bits, std::vector<std::int32_t>& marks) const {
    marks.resize(static_cast<std::size_t>(cols));
    const std::int64_t pitch = (s.block.cols + 7) / 8;
    std::int32_t next = 0;
    for (std::int64_t k = 0; k < count; ++k) {
      if (kinds[k] == 2) marks[static_cast<std::size_t>(columns[k])] = ++next;
    }
    std::fill_n(bits, next * pitch * s.block.rows, std::uint8_t{0});
    entries(r, [&](std::int64_t i, std::int64_t column) {
      const std::int64_t c = column / s.block.cols, at = column % s.block.cols;
      const std::int32_t block = marks[static_cast<std::size_t>(c)];
      if (block == 0) return;
      std::uint8_t& byte = bits[((block - 1) * s.block.rows + i) * pitch + at / 8];
      byte = static_cast<std::uint8_t>(byte | 1 << (at % 8));
    });
    for (std::int64_t k = 0; k < count; ++k) marks[static_cast<std::size_t>(columns[k])] = 0;
  }
};

struct SlashRows {
  static constexpr bool kKinds = false, kBits = false;
  const Slashes& s;

  void check() const { check_layout_source(Checker("BlockLayout.vertical_slash"), s); }
  void row(std::int64_t r, Row& out) const {
    const std::int64_t rows = layout_shape(s).rows, head = r / rows;
    const std::int64_t first = r % rows * s.block.rows;
    const std::int64_t last = std::min(first + s.block.rows, s.tokens) - 1;
    const TensorView& x = s.slashes;
    const std::int64_t from = head / x.shape[1] * x.strides[0] + head % x.shape[1] * x.strides[1];
    for (std::int64_t k = 0; k < x.shape[2]; ++k) {
      const std::int64_t distance = integer(x, from + k * x.strides[2]);
      if (distance < -1 || distance >= s.tokens) {
        refuse_token("slashes", distance, s.tokens);
      }
      if (distance < 0 || distance > last) continue;
      const std::int64_t low = std::max<std::int64_t>(first - distance, 0) / s.block.cols;
      for (std::int64_t c = low; c <= (last - distance) / s.block.cols; ++c) {
        out.columns.push_back(as_column(c));
      }
    }
    sort_unique(out.columns);
  }
};

struct VerticalRows {
  static constexpr bool kKinds = false, kBits = false;
  const Verticals& s;

  void check() const { check_layout_source(Checker("BlockLayout.vertical_slash"), s); }
  void row(std::int64_t r, Row& out) const {
    const LayoutBlock block = s.slashes->block();
    const std::int64_t rows = s.slashes->shape().rows, head = r / rows;
    const std::int64_t last = std::min((r % rows + 1) * block.rows, s.tokens) - 1;
    const auto* indptr = static_cast<const std::int32_t*>(s.slashes->indptr().data);
    const auto* begin = static_cast<const std::int32_t*>(s.slashes->indices().data) + indptr[r];
    const auto* end = begin + (indptr[r + 1] - indptr[r]);
    const TensorView& x = s.columns;
    const std::int64_t from = head / x.shape[1] * x.strides[0] + head % x.shape[1] * x.strides[1];
    for (std::int64_t k = 0; k < x.shape[2]; ++k) {
      const std::int64_t column = integer(x, from + k * x.strides[2]);
      if (column < -1 || column >= s.tokens) {
        refuse_token("columns", column, s.tokens);
      }
      if (column < 0 || column > last) continue;
      if (std::binary_search(begin, end, as_column(column / block.cols))) continue;
      out.columns.push_back(as_column(column));
    }
    sort_unique(out.columns);
  }
};

LocalStrideRows rows_of(const LocalStride& source) { return {source}; }
WindowGlobalRows rows_of(const WindowGlobal& source) { return WindowGlobalRows(source); }
MaskRows rows_of(const BlockMask& source) { return {source.mask}; }
ListRows rows_of(const BlockLists& source) { return {source}; }
TileRows rows_of(const PatternTiles& source) { return TileRows(source); }
SlashRows rows_of(const Slashes& source) { return {source}; }
VerticalRows rows_of(const Verticals& source) { return {source}; }

const Checker kLayout("BlockLayout");

/// The rows of a source, once indptr has been found to be as long.
template <class Source>
std::int64_t row_count(const Source& source, const TensorView& indptr) {
  return check_layout_rows(layout_shape(source), indptr);
}

/// body(first, last) for ranges of rows.
template <class F>
void for_rows(std::int64_t rows, F&& body) {
  const EqualRanges ranges{.size = rows, .count = std::min<std::int64_t>(rows, 64)};
  for_tasks(ranges.count, static_cast<double>(rows) * 100, [&](std::int64_t task) {
    const InterruptPoll poll;
    constexpr std::int64_t kRows = 16;  // many random blocks take milliseconds a row
    const std::int64_t end = ranges.end(task);
    for (std::int64_t row = ranges.begin(task); row < end; row += kRows, poll.look()) {
      body(row, std::min(row + kRows, end));
    }
  });
}

template <class Source>
LayoutCount count(const Source& source, const TensorView& indptr) {
  const auto from = rows_of(source);
  from.check();
  const std::int64_t rows = row_count(source, indptr);
  auto* counts = static_cast<std::int32_t*>(indptr.data);
  std::vector<std::int64_t> bits(static_cast<std::size_t>(rows));
  for_rows(rows, [&](std::int64_t first, std::int64_t last) {
    Row row;
    for (std::int64_t r = first; r < last; ++r) {
      row.columns.clear();
      row.kinds.clear();
      row.bits = 0;
      from.row(r, row);
      counts[r + 1] = static_cast<std::int32_t>(row.columns.size());
      bits[static_cast<std::size_t>(r)] = row.bits;
    }
  });
  counts[0] = 0;
  LayoutCount total{.blocks = 0, .bits = 0};
  for (std::int64_t r = 0; r < rows; ++r) {
    total.blocks += counts[r + 1];
    total.bits += bits[static_cast<std::size_t>(r)];
    check_layout_blocks(total.blocks);
    counts[r + 1] = static_cast<std::int32_t>(total.blocks);
  }
  return total;
}

template <class Source>
void fill(const Source& source, const LayoutArrays& arrays) {
  const auto from = rows_of(source);
  from.check();
  const std::int64_t rows = row_count(source, arrays.indptr);
  const auto* indptr = static_cast<const std::int32_t*>(arrays.indptr.data);
  kLayout.dtype({"indices", arrays.indices}, DType::i32, "int32");
  kLayout.shape({"indices", arrays.indices}, {indptr[rows]});
  kLayout.writable({"indices", arrays.indices}, {{"indptr", arrays.indptr}});
  auto* indices = static_cast<std::int32_t*>(arrays.indices.data);
  std::uint8_t* kinds = nullptr;
  using Rows = std::remove_const_t<decltype(from)>;
  if (Rows::kKinds && arrays.kinds) {
    kLayout.shape({"kinds", *arrays.kinds}, {indptr[rows]});
    kinds = static_cast<std::uint8_t*>(arrays.kinds->data);
  }
  std::vector<std::int64_t> first_bits(static_cast<std::size_t>(rows) + 1);
  for_rows(rows, [&](std::int64_t first, std::int64_t last) {
    Row row;
    for (std::int64_t r = first; r < last; ++r) {
      row.columns.clear();
      row.kinds.clear();
      row.bits = 0;
      from.row(r, row);
      // What the source lists may have changed since it was counted.
      const auto n = static_cast<std::size_t>(indptr[r + 1] - indptr[r]);
      if (row.columns.size() != n) {
        kLayout.value_error("the source changed while it was read, expected the same blocks twice");
      }
      std::copy_n(row.columns.begin(), n, indices + indptr[r]);
      if (kinds != nullptr) std::copy_n(row.kinds.begin(), n, kinds + indptr[r]);
      first_bits[static_cast<std::size_t>(r) + 1] = row.bits;
    }
  });
  if constexpr (Rows::kBits) {
    if (kinds == nullptr || !arrays.bits) return;
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
      first_bits[r + 1] += first_bits[r];
    }
    const std::int64_t pitch = (source.block.cols + 7) / 8 * source.block.rows;
    kLayout.extent({"bits", *arrays.bits}, 0, first_bits.back(), "the blocks of kind 2");
    auto* bits = static_cast<std::uint8_t*>(arrays.bits->data);
    for_rows(rows, [&](std::int64_t first, std::int64_t last) {
      std::vector<std::int32_t> marks;
      for (std::int64_t r = first; r < last; ++r) {
        from.set_bits(r, indices + indptr[r], kinds + indptr[r], indptr[r + 1] - indptr[r],
                      bits + first_bits[static_cast<std::size_t>(r)] * pitch, marks);
      }
    });
  }
}

}  // namespace

LayoutCount layout_count(const LayoutSource& source, const TensorView& indptr) {
  const FloatEnvironment floats;
  return std::visit([&](const auto& one) { return count(one, indptr); }, source);
}

void layout_fill(const LayoutSource& source, const LayoutArrays& arrays) {
  const FloatEnvironment floats;
  std::visit([&](const auto& one) { fill(one, arrays); }, source);
}

}  // namespace gossamer
