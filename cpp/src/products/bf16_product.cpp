#include "products/bf16_product.h"

#include <algorithm>
#include <vector>

#include "base/scratch.h"
#include "products/kernels.h"
#include "products/tiles.h"

namespace gossamer::detail {
namespace {

/// Elements from one row of a strip to the next: the tail behind k is zero.
std::int64_t bf16_pitch(std::int64_t k) { return ceil_div(k, 32) * 32; }

/// Rows of B that stay in L1 beside the rows of A that meet them: 32 KiB of the widest tile.
constexpr std::int64_t kDepth = 256;

/// Rows that stay in L2 beside a tile of B, and are a multiple of those that a kernel takes at
/// once.
std::int64_t strip_rows(std::int64_t pitch) {
  constexpr std::int64_t kBytes = 448 << 10;
  if (has_amx_tiles()) {
    return std::clamp<std::int64_t>(kBytes / (2 * std::max<std::int64_t>(pitch, 1)) / 32 * 32, 32,
                                    96);
  }
  return std::clamp<std::int64_t>(kBytes / (2 * std::max<std::int64_t>(pitch, 1)) / 24 * 24, 24,
                                  96);
}

double cost(const Product& product) {
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

void multiply_panel(const Bf16Source& a, const Product& product, const Bf16Panel& panel) {
  const std::int64_t pitch = bf16_pitch(product.k), height = strip_rows(pitch);
  std::int64_t columns = 0;
  for (const Tile& tile : panel.tiles) columns += tile.width;
  const double share = static_cast<double>(columns) / static_cast<double>(product.n);
  // AMX reads B from L2 as fast.
  const std::int64_t depth = has_amx_tiles() ? std::max<std::int64_t>(pitch, 1) : kDepth;
  const bool in_place = a.form == Bf16Source::Form::dense && a.cols == pitch;
  for_tasks(ceil_div(product.m, height), share * cost(product), [&](std::int64_t task) {
    const std::int64_t row = task * height, rows = std::min(height, product.m - row);
    const Scratch memory(in_place ? 0 : rows * pitch * 2), sums(rows * kWidestBf16 * 4);
    const std::byte* strip = in_place ? at(a.values, row * pitch * 2) : memory.data();
    if (!in_place) {
      product_kernels().bf16_rows(
          {.a = a, .row0 = row, .row1 = row + rows, .to = memory.data(), .ld = pitch});
    }
    const std::int64_t end = std::min(product.m, row + rows + height);
    Bytes ahead = row + rows < end ? bytes_of(a, row + rows, end) : Bytes{strip, 0};
    ahead.count = ahead.count / rows / std::max<std::int64_t>(ceil_div(pitch, depth), 1);
    for (std::size_t t = 0; t < panel.tiles.size(); ++t) {
      const Tile& tile = panel.tiles[t];
      std::int64_t k = 0;
      do {
        const Bf16Pair pair{at(strip, k * 2), panel.data(t) + k * tile.tile * 2};
        multiply_bf16_tile({.pairs = &pair,
                            .count = 1,
                            .rows = rows,
                            .depth = std::min(depth, pitch - k),
                            .lda = pitch,
                            .tile = tile.tile,
                            .c = sums.as<float>(),
                            .accumulate = k > 0,
                            .ahead = ahead.data,
                            .ahead_row = t == 0 ? ahead.count : 0});
        ahead.data = at(ahead.data, t == 0 ? ahead.count * rows : 0);
        k += depth;
      } while (k < pitch);
      store(product, Sums::row_major, sums.data(), tile.tile, row, rows, tile.first, tile.width);
    }
  });
}

/// B's columns side by side, with zeros behind them, and columns of zeros up to `count`.
void copy_columns(const Product& product, std::int64_t count, std::int64_t pitch,
                  std::uint16_t* to) {
  const auto* from = static_cast<const std::uint16_t*>(product.b.data);
  const std::int64_t stride = product.b.stride, k = product.k, n = product.n;
  if (product.b.transposed) {
    for (std::int64_t j = 0; j < n; ++j) std::copy_n(from + j * stride, k, to + j * pitch);
  } else {
    for (std::int64_t d = 0; d < k; ++d, from += stride) {
      for (std::int64_t j = 0; j < n; ++j) to[j * pitch + d] = from[j];
    }
  }
  for (std::int64_t j = 0; j < count; ++j) {
    std::fill(to + j * pitch + (j < n ? k : 0), to + (j + 1) * pitch, std::uint16_t{0});
  }
}

/// Does the kernel of a few columns read such rows itself?
bool reads(const Bf16Source& a) {
  switch (a.form) {
    case Bf16Source::Form::dense:
      return a.cols % 32 == 0;
    case Bf16Source::Form::bits:
      return true;
    default:
      return a.nm.n == 2 && a.nm.m == 4;
  }
}

/// A few columns: a strip of A is read for four or eight of them at a time.
void multiply_dots(const Bf16Source& a, const Product& product) {
  constexpr std::int64_t kRows = 48;
  const std::int64_t pitch = bf16_pitch(product.k), batch = product.n <= 4 ? 4 : 8;
  const std::int64_t count = ceil_div(product.n, batch) * batch;
  const Scratch columns(count * pitch * 2);
  copy_columns(product, count, pitch, columns.as<std::uint16_t>());
  const bool direct = reads(a);
  for_tasks(ceil_div(product.m, kRows), cost(product), [&](std::int64_t task) {
    const std::int64_t row = task * kRows, rows = std::min(kRows, product.m - row);
    const Scratch strip(direct ? 0 : rows * pitch * 2), sums(batch * rows * 4);
    if (!direct) {
      product_kernels().bf16_rows(
          {.a = a, .row0 = row, .row1 = row + rows, .to = strip.data(), .ld = pitch});
    }
    const Bf16Source expanded{
        .form = Bf16Source::Form::dense, .cols = pitch, .values = strip.data()};
    const std::int64_t row0 = direct ? row : 0;
    for (std::int64_t first = 0; first < product.n; first += batch) {
      product_kernels().bf16_dots({.a = direct ? a : expanded,
                                   .row0 = row0,
                                   .row1 = row0 + rows,
                                   .x = columns.data() + first * pitch * 2,
                                   .ldx = pitch,
                                   .y = sums.as<float>(),
                                   .ldy = rows,
                                   .batch = static_cast<int>(batch)});
      store(product, Sums::column_major, sums.data(), rows, row, rows, first,
            std::min(batch, product.n - first));
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
  // What is expanded in registers is read twice for 16 columns; other rows are faster by tiles
  // then.
  const std::int64_t few = reads(a) ? 16 : 8;
  if (product.n <= few && !has_amx_tiles()) return multiply_dots(a, product);
  for_bf16_panels(product, bf16_pitch(product.k),
                  [&](const Bf16Panel& panel) { multiply_panel(a, product, panel); });
}

}  // namespace gossamer::detail
