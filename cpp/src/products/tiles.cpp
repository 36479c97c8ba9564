#include "products/tiles.h"

#include <atomic>

#include "base/kernels.h"
#include "base/levels.h"
#include "base/scratch.h"

namespace gossamer::detail {

int widest_tile() { return vector_bytes() >= 32 ? 64 : 32; }

std::vector<Tile> make_tiles(std::int64_t first, std::int64_t last, int widest) {
  std::vector<Tile> tiles;
  while (first < last) {
    int tile = 8;
    while (tile < widest && tile < last - first) tile *= 2;
    // Of 65 to 96 columns two tiles take less than one that is a quarter empty.
    if (tile == 128 && last - first <= 96) tile = 64;
    const std::int64_t width = std::min<std::int64_t>(tile, last - first);
    tiles.push_back({first, width, tile});
    first += width;
  }
  return tiles;
}

void prepare_output(const Product& product) {
  const DenseView& out = product.out;
  const std::int64_t rows = out.transposed ? product.n : product.m;
  ask_for_huge_pages(out.data, rows * out.stride * size_of(out.type));
}

void store(const Product& product, Sums order, const void* sums, std::int64_t ld, std::int64_t row,
           std::int64_t rows, std::int64_t column, std::int64_t columns) {
  const DenseView& out = product.out;
  const bool by_rows = order == Sums::row_major;
  const std::int64_t size = size_of(out.type);
  const std::int64_t offset =
      out.transposed ? column * out.stride + row : row * out.stride + column;
  base_kernels().store_tile({.tile = sums,
                             .ld = ld,
                             .rows = by_rows ? rows : columns,
                             .cols = by_rows ? columns : rows,
                             .out = at(out.data, offset * size),
                             .out_type = out.type,
                             .stride = out.stride,
                             .transposed = out.transposed == by_rows,
                             .bias = product.bias ? at(product.bias, row * size) : nullptr,
                             .bias_by_row = by_rows,
                             .activation = product.activation,
                             .lo = product.lo,
                             .hi = product.hi,
                             .accumulate = product.accumulate,
                             .f64 = is_f64(product)});
}

void load_tile(const Product& product, const Tile& tile, std::int64_t k0, std::int64_t k1,
               void* dst) {
  const DenseView& b = product.b;
  const std::int64_t offset =
      b.transposed ? tile.first * b.stride + k0 : k0 * b.stride + tile.first;
  base_kernels().convert_tile({.src = at(b.data, offset * size_of(b.type)),
                               .src_type = b.type,
                               .stride = b.stride,
                               .transposed = b.transposed,
                               .rows = k1 - k0,
                               .cols = tile.width,
                               .dst = dst,
                               .ld = tile.tile,
                               .pad = true,
                               .f64 = is_f64(product)});
}

std::int64_t new_job() {
  static std::atomic<std::int64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

const std::byte* own_tile(const Product& product, const Tile& tile, std::int64_t job) {
  struct OwnTile {
    std::int64_t job = 0, first = 0;
    Buffer<std::byte> data;
  };
  static thread_local OwnTile packed;
  if (packed.job == job && packed.first == tile.first) return packed.data.data();
  const std::int64_t bytes = product.k * tile.tile * real_size(product);
  if (packed.data.size() < bytes || kAddressSanitizer) packed.data = Buffer<std::byte>(bytes);
  packed.job = job;
  packed.first = tile.first;
  load_tile(product, tile, 0, product.k, packed.data.data());
  return packed.data.data();
}

bool is_one_tile(const Product& product, int widest) {
  const DenseView& b = product.b;
  if (b.type != real_type(product) || b.transposed || b.stride != product.n) return false;
  const Tile tile = make_tiles(0, product.n, widest).front();
  const auto line =
      std::min<std::uintptr_t>(64, static_cast<std::uintptr_t>(tile.tile * real_size(product)));
  return tile.tile == product.n && reinterpret_cast<std::uintptr_t>(b.data) % line == 0;
}

bool columns_are_contiguous(const Product& product) {
  const DenseView& b = product.b;
  return b.type == real_type(product) && (b.transposed || (product.n == 1 && b.stride == 1));
}

Columns::Columns(const Product& product)
    : copy_(columns_are_contiguous(product) ? 0 : product.n * product.k * real_size(product)),
      data_(product.b.data),
      stride_(product.b.transposed ? product.b.stride : product.k) {
  if (columns_are_contiguous(product)) return;
  const DenseView& b = product.b;
  base_kernels().convert_tile({.src = b.data,
                               .src_type = b.type,
                               .stride = b.stride,
                               .transposed = !b.transposed,
                               .rows = product.n,
                               .cols = product.k,
                               .dst = copy_.data(),
                               .ld = product.k,
                               .pad = false,
                               .f64 = is_f64(product)});
  data_ = copy_.data();
  stride_ = product.k;
}

}  // namespace gossamer::detail
