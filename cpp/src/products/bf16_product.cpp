#include "products/bf16_product.h"

#include <algorithm>
#include <vector>

#include "base/scratch.h"
#include "products/kernels.h"
#include "products/tiles.h"

namespace gossamer::detail {
namespace {

/// Rows of B that stay in L1 beside the rows of A that meet them: 32 KiB of the tile.
std::int64_t depth_of(int tile) { return (std::int64_t{16} << 10) / tile / 32 * 32; }

/// Rows that stay in L2 beside a tile of B, and are a multiple of those that a kernel takes at
/// once.
std::int64_t bf16_strip_rows(std::int64_t pitch) {
  constexpr std::int64_t kBytes = 448 << 10;
  const std::int64_t at_once = has_amx_tiles() ? 32 : 24;
  return std::clamp<std::int64_t>(kBytes / (2 * pitch) / at_once * at_once, at_once, 96);
}

double bf16_cost(const Product& product) {
  return static_cast<double>(product.m) * static_cast<double>(product.k) *
         (0.03 + 0.006 * static_cast<double>(ceil_div(product.n, 16) * 16));
}

/// What a strip reads, which is prefetched while the one before it is multiplied.
struct Bytes {
  const void* data;
  std::int64_t count;
};

Bytes bytes_of(const Bf16Source& a, std::int64_t row0, std::int64_t row1) {
  switch (a.form) {
    case Bf16Source::Form::dense:
      return {at(a.values, row0 * a.cols * 2), (row1 - row0) * a.cols * 2};
    case Bf16Source::Form::bits:
      return {at(a.values, a.begin[row0] * 2), (a.begin[row1 - 1] - a.begin[row0]) * 2};
    default:
      return {at(a.nm.values, row0 * a.nm.slots * 2), (row1 - row0) * a.nm.slots * 2};
  }
}

/// Rows [row, row+rows) of A's `all` as kernels read them: lines of N:M as bits.
class SourceRows {
 public:
  SourceRows(const Bf16Source& a, std::int64_t all, std::int64_t row, std::int64_t rows)
      : lines_(a.form == Bf16Source::Form::nm),
        last_(lines_ && (all - row - rows) * a.nm.slots < 32),
        words_(ceil_div(a.cols, 64)),
        bits_(lines_ ? rows * words_ * 8 + 64 : 0),
        begin_(lines_ ? rows * 8 : 0),
        values_(last_ ? rows * a.nm.slots * 2 + 64 : 0),
        source_(a),
        row0_(row),
        rows_(rows) {
    if (!lines_) return;
    const NmLines& nm = a.nm;
    product_kernels().nm_bits({.a = nm,
                               .line0 = row,
                               .line1 = row + rows,
                               .to = bits_.as<std::uint64_t>(),
                               .words = words_});
    for (std::int64_t i = 0; i < rows; ++i) begin_.as<std::int64_t>()[i] = i * nm.slots;
    const std::byte* values = at(nm.values, row * nm.slots * 2);
    if (last_) {
      // Kernels read 32 values, even of the last.
      std::copy_n(values, rows * nm.slots * 2, values_.data());
      std::fill_n(values_.data() + rows * nm.slots * 2, 64, std::byte{0});
      values = values_.data();
    }
    source_ = {.form = Bf16Source::Form::bits,
               .cols = a.cols,
               .values = values,
               .bits = bits_.as<std::uint64_t>(),
               .words = words_,
               .begin = begin_.as<std::int64_t>()};
    row0_ = 0;
  }

  [[nodiscard]] const Bf16Source& source() const { return source_; }
  [[nodiscard]] std::int64_t begin() const { return row0_; }
  [[nodiscard]] std::int64_t end() const { return row0_ + rows_; }

  /// The rows as dense ones, `pitch` apart.
  void expand(void* to, std::int64_t pitch) const {
    product_kernels().bf16_rows(
        {.a = source_, .row0 = begin(), .row1 = end(), .to = to, .ld = pitch});
  }

 private:
  bool lines_, last_;
  std::int64_t words_;
  Scratch bits_, begin_, values_;
  Bf16Source source_;
  std::int64_t row0_, rows_;
};

void multiply_panel(const Bf16Source& a, const Product& product, const Bf16Panel& panel) {
  const std::int64_t depth = bf16_depth(product.k);
  // Tiles of AMX read B from L2 as fast, and rows where they lie.
  const bool in_place = has_amx_tiles() && a.form == Bf16Source::Form::dense && a.cols == depth;
  const std::int64_t pitch = in_place ? depth : bf16_pitch(depth), height = bf16_strip_rows(pitch);
  std::int64_t columns = 0;
  for (const Tile& tile : panel.tiles) columns += tile.width;
  const double share = static_cast<double>(columns) / static_cast<double>(product.n);
  for_tasks(ceil_div(product.m, height), share * bf16_cost(product), [&](std::int64_t task) {
    const std::int64_t row = task * height, rows = std::min(height, product.m - row);
    // The kernel computes 12 rows at a time: the rest is filled with rows of zeros.
    const std::int64_t filled = has_amx_tiles() ? rows : ceil_div(rows, 12) * 12;
    const Scratch memory(in_place ? 0 : filled * pitch * 2), sums(filled * kWidestBf16 * 4);
    const std::byte* strip = in_place ? at(a.values, row * pitch * 2) : memory.data();
    if (!in_place) {
      SourceRows(a, product.m, row, rows).expand(memory.data(), pitch);
      std::fill_n(memory.data() + rows * pitch * 2, (filled - rows) * pitch * 2, std::byte{0});
    }
    const std::int64_t end = std::min(product.m, row + rows + height);
    Bytes ahead = row + rows < end ? bytes_of(a, row + rows, end) : Bytes{strip, 0};
    for (std::size_t t = 0; t < panel.tiles.size(); ++t) {
      const Tile& tile = panel.tiles[t];
      const std::int64_t step = has_amx_tiles() ? depth : depth_of(tile.tile);
      const std::int64_t ahead_row = t > 0 ? 0 : ahead.count / rows / ceil_div(depth, step);
      for (std::int64_t k = 0; k < depth; k += step) {
        const Bf16Pair pair{at(strip, k * 2), panel.data(t) + k * tile.tile * 2};
        multiply_bf16_tile({.pairs = &pair,
                            .count = 1,
                            .rows = filled,
                            .depth = std::min(step, depth - k),
                            .lda = pitch,
                            .tile = tile.tile,
                            .c = sums.as<float>(),
                            .accumulate = k > 0,
                            .ahead = ahead.data,
                            .ahead_row = ahead_row});
        ahead.data = at(ahead.data, ahead_row * rows);
      }
      store(product, Sums::row_major, sums.data(), tile.tile, row, rows, tile.first, tile.width);
    }
  });
}

/// A few columns.
void multiply_dots(const Bf16Source& a, const Product& product) {
  const std::int64_t depth = bf16_depth(product.k), batch = ceil_div(product.n, 4) * 4;
  const Scratch columns(batch * depth * 2);
  copy_bf16_columns(product, batch, depth, columns.as<std::uint16_t>());
  // The kernel reads whole vectors.
  const bool direct = a.form != Bf16Source::Form::dense || a.cols == depth;
  for_tasks(ceil_div(product.m, kMostDotRows), bf16_cost(product), [&](std::int64_t task) {
    const std::int64_t row = task * kMostDotRows, rows = std::min(kMostDotRows, product.m - row);
    const SourceRows from(a, product.m, row, rows);
    const Scratch strip(direct ? 0 : rows * depth * 2), partial(rows * batch * 64),
        sums(batch * rows * 4);
    if (!direct) from.expand(strip.data(), depth);
    const Bf16Source expanded{
        .form = Bf16Source::Form::dense, .cols = depth, .values = strip.data()};
    product_kernels().bf16_dots({.a = direct ? from.source() : expanded,
                                 .row0 = direct ? from.begin() : 0,
                                 .row1 = direct ? from.end() : rows,
                                 .x = columns.data(),
                                 .depth = depth,
                                 .partial = partial.as<float>(),
                                 .y = sums.as<float>(),
                                 .ldy = rows,
                                 .batch = static_cast<int>(batch)});
    store(product, Sums::column_major, sums.data(), rows, row, rows, 0, product.n);
  });
}

/// Blocks of N:M lines as bits.
class LineBlocks {
 public:
  static constexpr std::int64_t kLines = 64;

  LineBlocks(const NmLines& a, std::int64_t lines, std::int64_t length)
      : a_(a),
        lines_(lines),
        words_(ceil_div(length, 64)),
        // The kernel writes past the last line.
        pitch_(kLines * words_ + 8),
        bits_(count() * pitch_ * 8),
        last_(rows(count() - 1) * a.slots * 2 + 64) {
    const double nanoseconds = 0.05 * static_cast<double>(lines) * static_cast<double>(length);
    for_tasks(count(), nanoseconds, [&](std::int64_t block) {
      product_kernels().nm_bits({.a = a_,
                                 .line0 = block * kLines,
                                 .line1 = block * kLines + rows(block),
                                 .to = bits_.as<std::uint64_t>() + block * pitch_,
                                 .words = words_});
    });
    // Kernels read 32 values, even of the last.
    const std::int64_t bytes = rows(count() - 1) * a.slots * 2;
    std::copy_n(at(a.values, (count() - 1) * kLines * a.slots * 2), bytes, last_.data());
    std::fill_n(last_.data() + bytes, 64, std::byte{0});
  }

  [[nodiscard]] std::int64_t count() const { return ceil_div(lines_, kLines); }
  [[nodiscard]] std::int64_t rows(std::int64_t block) const {
    return std::min(kLines, lines_ - block * kLines);
  }

  /// Columns [column0, column1) of a block as dense rows; column0 is a multiple of 64.
  void expand(std::int64_t block, std::int64_t column0, std::int64_t column1, void* to,
              std::int64_t pitch) const {
    std::int64_t begin[kLines];
    const std::int64_t block_slots = kLines * a_.slots,
                       bytes = (column1 - column0) / a_.m * a_.n * 2;
    for (std::int64_t i = 0; i < kLines; ++i) {
      begin[i] = i * a_.slots + column0 / a_.m * a_.n;
      // Prefetches the next block's values, which hardware prefetchers do not predict.
      const auto* next = at(a_.values, ((block + 1) * block_slots + begin[i]) * 2);
      for (std::int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(next + byte);
    }
    const Bf16Source source{.form = Bf16Source::Form::bits,
                            .cols = column1 - column0,
                            .values = block == count() - 1
                                          ? last_.data()
                                          : at(a_.values, block * kLines * a_.slots * 2),
                            .bits = bits_.as<std::uint64_t>() + block * pitch_ + column0 / 64,
                            .words = words_,
                            .begin = begin};
    product_kernels().bf16_rows(
        {.a = source, .row0 = 0, .row1 = rows(block), .to = to, .ld = pitch});
  }

 private:
  NmLines a_;
  std::int64_t lines_, words_, pitch_;
  Scratch bits_, last_;
};

/// Columns [first, last) of B as rows, `pitch` apart, with zeros behind them.
void copy_rows(const Product& product, std::int64_t first, std::int64_t last, std::int64_t pitch,
               std::uint16_t* to) {
  const auto* from = static_cast<const std::uint16_t*>(product.b.data);
  const std::int64_t stride = product.b.stride, k = product.k, n = last - first;
  for (std::int64_t j = 0; j < n; ++j) {
    if (product.b.transposed) std::copy_n(from + (first + j) * stride, k, to + j * pitch);
    std::fill(to + j * pitch + k, to + (j + 1) * pitch, std::uint16_t{0});
  }
  if (product.b.transposed) return;
  constexpr std::int64_t kPart = 32;
  for (std::int64_t d = 0; d < k; d += kPart) {
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t i = d; i < std::min(k, d + kPart); ++i) {
        to[j * pitch + i] = from[i * stride + first + j];
      }
    }
  }
}

/// Some columns of B: as rows, times the expanded lines in tiles.
void multiply_lines(const LineBlocks& lines, const Product& product, std::int64_t first,
                    std::int64_t last) {
  constexpr std::int64_t kTile = kWidestBf16, kBytes = 512 << 10;
  const std::int64_t depth = bf16_depth(product.k), pitch = bf16_pitch(depth);
  const std::int64_t filled = ceil_div(last - first, 12) * 12;
  const std::int64_t chunk =
      std::clamp<std::int64_t>(kBytes / (2 * depth) / kTile * kTile, kTile, 4 * kTile);
  const Scratch b(filled * pitch * 2);
  copy_rows(product, first, last, pitch, b.as<std::uint16_t>());
  std::fill_n(b.data() + (last - first) * pitch * 2, (filled - (last - first)) * pitch * 2,
              std::byte{0});
  const double share = static_cast<double>(last - first) / static_cast<double>(product.n);
  for_tasks(ceil_div(product.m, chunk), share * bf16_cost(product), [&](std::int64_t task) {
    const std::int64_t column = task * chunk, columns = std::min(chunk, product.m - column);
    const Scratch rows(LineBlocks::kLines * chunk * 2), tiles(depth * chunk * 2),
        sums(filled * kTile * 4);
    for (std::int64_t block = 0; block < lines.count(); ++block) {
      const std::int64_t line = block * LineBlocks::kLines;
      lines.expand(block, column, column + columns, rows.data(), chunk);
      for (std::int64_t j = 0; j < columns; j += kTile) {
        product_kernels().bf16_columns({.from = rows.data() + j * 2,
                                        .stride = chunk,
                                        .transposed = false,
                                        .depth = lines.rows(block),
                                        .cols = std::min(kTile, columns - j),
                                        .tile = static_cast<int>(kTile),
                                        .padded = std::min(LineBlocks::kLines, depth - line),
                                        .to = tiles.data() + (j * depth + line * kTile) * 2});
      }
    }
    for (std::int64_t j = 0; j < columns; j += kTile) {
      const std::int64_t step = depth_of(kTile);
      for (std::int64_t d = 0; d < depth; d += step) {
        const Bf16Pair pair{b.data() + d * 2, tiles.data() + (j * depth + d * kTile) * 2};
        product_kernels().bf16_tile({.pairs = &pair,
                                     .count = 1,
                                     .rows = filled,
                                     .depth = std::min(step, depth - d),
                                     .lda = pitch,
                                     .tile = static_cast<int>(kTile),
                                     .c = sums.as<float>(),
                                     .accumulate = d > 0,
                                     .ahead = b.data(),
                                     .ahead_row = 0});
      }
      store(product, Sums::column_major, sums.data(), kTile, column + j,
            std::min(kTile, columns - j), first, last - first);
    }
  });
}

}  // namespace

bool has_bf16(const Product& product) {
  return product.b.type == DType::bf16 && product.k > 0 && product_kernels().bf16_tile != nullptr;
}

bool has_amx_tiles() { return product_kernels().bf16_tile_amx != nullptr; }

void multiply_bf16_tile(const Bf16TileArgs& args) {
  has_amx_tiles() ? product_kernels().bf16_tile_amx(args) : product_kernels().bf16_tile(args);
}

void copy_bf16_columns(const Product& product, std::int64_t batch, std::int64_t depth,
                       std::uint16_t* to) {
  const auto* from = static_cast<const std::uint16_t*>(product.b.data);
  const std::int64_t stride = product.b.stride, k = product.k, n = product.n;
  for (std::int64_t d = 0; d < depth; d += 32, to += 32 * batch) {
    const std::int64_t some = std::clamp<std::int64_t>(k - d, 0, 32);
    if (some < 32 || n < batch) std::fill_n(to, 32 * batch, std::uint16_t{0});
    if (product.b.transposed) {
      for (std::int64_t j = 0; j < n; ++j) std::copy_n(from + j * stride + d, some, to + j * 32);
    } else {
      for (std::int64_t i = 0; i < some; ++i) {
        for (std::int64_t j = 0; j < n; ++j) to[j * 32 + i] = from[(d + i) * stride + j];
      }
    }
  }
}

Bf16Panel::Bf16Panel(const Product& product, std::int64_t rows, std::int64_t first,
                     std::int64_t last)
    : rows_(rows), memory_(rows * 2 * (ceil_div(last - first, 16) * 16)) {
  for (std::int64_t column = first; column < last; column += kWidestBf16) {
    const std::int64_t width = std::min(kWidestBf16, last - column);
    tiles.push_back({column, width, static_cast<int>(ceil_div(width, 16) * 16)});
  }
  constexpr std::int64_t kRows = 512;
  const std::int64_t chunks = std::max<std::int64_t>(ceil_div(rows, kRows), 1);
  const double nanoseconds =
      0.05 * static_cast<double>(product.k) * static_cast<double>(last - first);
  for_tasks(chunks * static_cast<std::int64_t>(tiles.size()), nanoseconds, [&](std::int64_t task) {
    load(product, static_cast<std::size_t>(task / chunks), task % chunks * kRows,
         std::min(rows, (task % chunks + 1) * kRows));
  });
}

void Bf16Panel::load(const Product& product, std::size_t t, std::int64_t k0,
                     std::int64_t k1) const {
  const Tile& tile = tiles[t];
  const DenseView& b = product.b;
  const std::int64_t offset =
      b.transposed ? tile.first * b.stride + k0 : k0 * b.stride + tile.first;
  const std::int64_t place = static_cast<std::int64_t>(t) * kWidestBf16 * rows_;
  product_kernels().bf16_columns({.from = at(b.data, offset * 2),
                                  .stride = b.stride,
                                  .transposed = b.transposed,
                                  .depth = std::clamp<std::int64_t>(product.k - k0, 0, k1 - k0),
                                  .cols = tile.width,
                                  .tile = tile.tile,
                                  .padded = k1 - k0,
                                  .to = memory_.data() + (place + k0 * tile.tile) * 2});
}

void multiply_bf16(const Bf16Source& a, const Product& product) {
  if (product.n <= kMostDots && !has_amx_tiles()) return multiply_dots(a, product);
  for_bf16_panels(product, bf16_depth(product.k),
                  [&](const Bf16Panel& panel) { multiply_panel(a, product, panel); });
}

void multiply_bf16_lines(const NmLines& a, const Product& product) {
  constexpr std::int64_t kColumns = 264;
  const LineBlocks lines(a, product.k, product.m);
  for (std::int64_t first = 0; first < product.n; first += kColumns) {
    multiply_lines(lines, product, first, std::min(product.n, first + kColumns));
  }
}

}  // namespace gossamer::detail
