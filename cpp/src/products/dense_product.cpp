#include "products/dense_product.h"

#include <algorithm>

#include "base/levels.h"
#include "base/scratch.h"
#include "base/work.h"
#include "products/block_product.h"
#include "products/kernels.h"
#include "products/tiles.h"
#include "simd/types.h"

namespace gossamer::detail {
namespace {

/// Rows that stay in L2 beside a tile of B, and are a multiple of those that a kernel takes at
/// once.
std::int64_t strip_rows(const Product& product) {
  constexpr std::int64_t kBytes = 512 << 10;
  const std::int64_t row = std::max<std::int64_t>(product.k, 1) * real_size(product);
  return std::clamp<std::int64_t>(kBytes / row / 8 * 8, 8, 32);
}

double cost(const Product& product) {
  return 0.03 * static_cast<double>(product.m) * static_cast<double>(product.k) *
         (1 + 0.5 * static_cast<double>(product.n));
}

// The strip as a matrix of one block.
constexpr std::int32_t kPointers[] = {0, 1}, kIndex[] = {0};

BsrMatrix one_block(const void* values, std::int64_t rows, std::int64_t cols) {
  return {.wide = false,
          .indptr = kPointers,
          .indices = kIndex,
          .order = nullptr,
          .values = values,
          .rows = rows,
          .cols = cols,
          .pitch = cols,
          .transposed = false};
}

/// Calls body(first row, rows, their values) for the strips of A, in parallel.
template <class F>
void for_strips(const DenseStrip& strip, const Product& product, double nanoseconds, F&& body) {
  const std::int64_t height = strip_rows(product);
  for_tasks(ceil_div(product.m, height), nanoseconds, [&](std::int64_t task) {
    const std::int64_t row = task * height, rows = std::min(height, product.m - row);
    const Scratch memory(rows * product.k * real_size(product));
    body(row, rows, strip(row, rows, memory.data()));
  });
}

void multiply_dense_vectors(const DenseStrip& strip, const Product& product) {
  const std::int64_t real = real_size(product);
  const Columns columns(product);
  for_strips(
      strip, product, cost(product), [&](std::int64_t row, std::int64_t rows, const void* values) {
        const Scratch sums(kBatch * rows * real);
        for (std::int64_t first = 0; first < product.n; first += kBatch) {
          const std::int64_t batch = std::min(kBatch, product.n - first);
          product_kernels().bsr_vectors({.a = one_block(values, rows, product.k),
                                         .row0 = 0,
                                         .row1 = 1,
                                         .x = at(columns.data(), first * columns.stride() * real),
                                         .ldx = columns.stride(),
                                         .y = sums.data(),
                                         .ldy = rows,
                                         .batch = static_cast<int>(batch),
                                         .f64 = is_f64(product)});
          store(product, Sums::column_major, sums.data(), rows, row, rows, first, batch);
        }
      });
}

void multiply_dense_tiles(const DenseStrip& strip, const Product& product) {
  const std::int64_t real = real_size(product);
  const int widest = std::max(2 * static_cast<int>(vector_bytes() / real), 8);
  for_panels(product, widest, [&](const Panel& panel) {
    std::int64_t columns = 0;
    for (const Tile& tile : panel.tiles) columns += tile.width;
    const double share = static_cast<double>(columns) / static_cast<double>(product.n);
    for_strips(strip, product, share * cost(product),
               [&](std::int64_t row, std::int64_t rows, const void* values) {
                 const Scratch sums(rows * widest * real);
                 for (std::size_t t = 0; t < panel.tiles.size(); ++t) {
                   const Tile& tile = panel.tiles[t];
                   product_kernels().bsr_tile({.a = one_block(values, rows, product.k),
                                               .row0 = 0,
                                               .row1 = 1,
                                               .b = panel.tile_data(t),
                                               .c = sums.data(),
                                               .tile = tile.tile,
                                               .f64 = is_f64(product)});
                   store(product, Sums::row_major, sums.data(), tile.tile, row, rows, tile.first,
                         tile.width);
                 }
               });
  });
}

}  // namespace

void multiply_dense(const DenseStrip& strip, const Product& product) {
  const bool vectors = product.n <= kVectors && product.k * real_size(product) % 16 == 0;
  vectors ? multiply_dense_vectors(strip, product) : multiply_dense_tiles(strip, product);
}

bool all_finite(const Product& product) {
  const DenseView& b = product.b;
  const std::int64_t lines = b.transposed ? product.n : product.k;
  const std::int64_t length = b.transposed ? product.k : product.n;
  const auto look = [&](auto type, std::uint64_t infinity) {
    using T = decltype(type);
    const T exponent = static_cast<T>(infinity);
    for (std::int64_t i = 0; i < lines; ++i) {
      const T* line = static_cast<const T*>(b.data) + i * b.stride;
      // Of the numbers' own width, so that compilers vectorise the loop.
      T infinite = 0;
      for (std::int64_t j = 0; j < length; ++j) {
        infinite = static_cast<T>(infinite | T{(line[j] & exponent) == exponent});
      }
      if (infinite != 0) return false;
    }
    return true;
  };
  const std::uint64_t infinity = infinity_bits(b.type);
  if (size_of(b.type) == 8) return look(std::uint64_t{}, infinity);
  return size_of(b.type) == 4 ? look(std::uint32_t{}, infinity) : look(std::uint16_t{}, infinity);
}

}  // namespace gossamer::detail
