#pragma once

// The dense sides of a product with a sparse matrix: tiles of B in, tiles of sums out through the
// epilogue.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/args.h"
#include "base/cut.h"
#include "base/scratch.h"
#include "base/work.h"
#include "formats/rows_view.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/runtime.h"

namespace gossamer::detail {

inline constexpr std::int64_t kPanelBytes = 16 << 20;

inline bool is_f64(const Product& product) { return product.b.type == DType::f64; }
inline std::int64_t real_size(const Product& product) { return is_f64(product) ? 8 : 4; }
inline DType real_type(const Product& product) { return is_f64(product) ? DType::f64 : DType::f32; }

inline std::byte* at(void* base, std::int64_t bytes) {
  return static_cast<std::byte*>(base) + bytes;
}
inline const std::byte* at(const void* base, std::int64_t bytes) {
  return static_cast<const std::byte*>(base) + bytes;
}

struct Tile {
  std::int64_t first;
  std::int64_t width;  // columns of B
  int tile;            // columns of the kernel, padded
};

/// The widest tile whose sums this level's registers hold.
int widest_tile();

/// Columns [first, last) in tiles of at most `widest`.
std::vector<Tile> make_tiles(std::int64_t first, std::int64_t last, int widest);

/// Asks for huge pages under a large result, which is mostly new memory.
void prepare_output(const Product& product);

/// Ranges of rows of blocks for the threads.
inline RowRanges cut_block_rows(const RowsView& blocks) {
  const std::int64_t pieces = std::max<std::int64_t>(4 * num_threads(), blocks.nnz / 4096);
  return cut_rows(blocks.pointers(), blocks.rows, {.pieces = pieces});
}

/// Calls body() where the product has a result to write.
template <class F>
void compute(const Product& product, F&& body) {
  if (product.m == 0 || product.n == 0) return;
  prepare_output(product);
  body();
}

/// How a tile of sums lies: element (row, column) at row*ld + column, or at column*ld + row.
enum class Sums : std::uint8_t { row_major, column_major };

/// Writes a tile of sums through the epilogue: rows [row, row+rows) × columns [column,
/// column+columns).
void store(const Product& product, Sums order, const void* sums, std::int64_t ld, std::int64_t row,
           std::int64_t rows, std::int64_t column, std::int64_t columns);

/// Rows [k0, k1) of a tile of B, in the type of sums, to dst [k1-k0, tile].
void load_tile(const Product& product, const Tile& tile, std::int64_t k0, std::int64_t k1,
               void* dst);

/// B's tiles, one after the other, each [k, tile] in the type of sums.
struct Panel {
  std::vector<Tile> tiles;
  std::vector<std::int64_t> offset;  // bytes
  const std::byte* data;

  [[nodiscard]] const std::byte* tile_data(std::size_t t) const { return data + offset[t]; }
};

/// Whether B is a tile as it lies in memory. One whose rows straddle cache lines is better copied:
/// reading it in place costs up to half as much again.
bool is_one_tile(const Product& product, int widest);

/// Calls body(panel) for panels of B's columns, packed in parallel.
template <class F>
void for_panels(const Product& product, int widest, F&& body) {
  const std::int64_t real = real_size(product);
  if (is_one_tile(product, widest)) {
    return body(Panel{make_tiles(0, product.n, widest), {0}, at(product.b.data, 0)});
  }
  std::int64_t columns = kPanelBytes / (std::max<std::int64_t>(product.k, 1) * real);
  columns = std::max<std::int64_t>(columns / widest, 1) * widest;
  for (std::int64_t first = 0; first < product.n; first += columns) {
    Panel panel;
    panel.tiles = make_tiles(first, std::min(product.n, first + columns), widest);
    std::int64_t bytes = 0;
    for (const Tile& tile : panel.tiles) {
      panel.offset.push_back(bytes);
      bytes += product.k * tile.tile * real;
    }
    const Scratch scratch(bytes);
    panel.data = scratch.data();
    constexpr std::int64_t kRows = 256;
    const std::int64_t chunks = (product.k + kRows - 1) / kRows;
    for_tasks(chunks * static_cast<std::int64_t>(panel.tiles.size()),
              0.1 * static_cast<double>(product.k) * static_cast<double>(product.n),
              [&](std::int64_t task) {
                const auto t = static_cast<std::size_t>(task / chunks);
                const std::int64_t k0 = task % chunks * kRows;
                const std::int64_t k1 = std::min(product.k, k0 + kRows);
                load_tile(product, panel.tiles[t], k0, k1,
                          scratch.data() + panel.offset[t] + k0 * panel.tiles[t].tile * real);
              });
    body(panel);
  }
}

/// A tile of B that this thread packed for itself; it is the same until the thread packs another.
/// `job` tells one product's tiles from another's.
const std::byte* own_tile(const Product& product, const Tile& tile, std::int64_t job);

/// A number for a product, for `own_tile`.
std::int64_t new_job();

/// Calls body(tile, its data, chunk) for each tile of B and each chunk in [0, chunks), in parallel,
/// chunk by chunk of one tile after the other; `nanoseconds` is what one thread needs for all.
///
/// What one core has written another reads slowly, and out of order at some 100 ns a line. So each
/// thread packs the tiles that it uses, where there are enough for all or all of B is small.
template <class F>
void for_tiles(const Product& product, int widest, std::int64_t chunks, double nanoseconds,
               F&& body) {
  constexpr std::int64_t kSmallBytes = 1 << 20, kTileBytes = 4 << 20;
  const std::int64_t real = real_size(product);
  const std::vector<Tile> tiles = make_tiles(0, product.n, widest);
  const auto count = static_cast<std::int64_t>(tiles.size());
  const bool enough = count >= num_threads() && product.k * tiles[0].tile * real <= kTileBytes;
  if (!is_one_tile(product, widest) && (enough || product.k * product.n * real <= kSmallBytes)) {
    const std::int64_t job = new_job();
    for_tasks(chunks * count, nanoseconds, [&](std::int64_t task) {
      const Tile& tile = tiles[static_cast<std::size_t>(task / chunks)];
      body(tile, own_tile(product, tile, job), task % chunks);
    });
    return;
  }
  for_panels(product, widest, [&](const Panel& panel) {
    const auto in_panel = static_cast<std::int64_t>(panel.tiles.size());
    for_tasks(chunks * in_panel, nanoseconds, [&](std::int64_t task) {
      const auto t = static_cast<std::size_t>(task / chunks);
      body(panel.tiles[t], panel.tile_data(t), task % chunks);
    });
  });
}

/// Do B's columns lie in memory as vectors in the type of sums?
bool columns_are_contiguous(const Product& product);

/// The columns of B as vectors in the type of sums: the caller's memory where it has that form,
/// else a copy.
class Columns {
 public:
  explicit Columns(const Product& product);

  [[nodiscard]] const void* data() const noexcept { return data_; }
  /// Elements from one column to the next.
  [[nodiscard]] std::int64_t stride() const noexcept { return stride_; }

 private:
  Scratch copy_;
  const void* data_;
  std::int64_t stride_;
};

}  // namespace gossamer::detail
