// spmm, linear and sampled products of N:M matrices: how they are cut, and which kernel runs. Where
// the lines of A, along which its groups lie, are rows, A·B sums along them; where they are
// columns, they add to the sums of several rows.

#include "gossamer/nm.h"

#include <algorithm>

#include "base/caches.h"
#include "base/cut.h"
#include "base/floats.h"
#include "base/levels.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/products.h"
#include "products/bf16_product.h"
#include "products/dense_product.h"
#include "products/dense_rows.h"
#include "products/kernels.h"
#include "products/product.h"
#include "products/tiles.h"

namespace gossamer {
using namespace detail;
namespace {

/// Rows of a tile that a part of a line meets, in bytes: they share the 32 KiB of L1 (48 on Zen 5)
/// with what streams past. With AVX2, which reads them slower, the fewer loads of sums that come
/// with longer parts gain less: 24 KiB are 1.1 times as fast as 32 (Zen 3).
std::int64_t part_bytes() { return (vector_bytes() == 32 ? 24 : 32) << 10; }
/// Lines of a strip, at most, where sums do not bound them.
constexpr std::int64_t kStrip = 256;

NmLines lines_of(const Nm& a) {
  return {.values = a.values().data,
          .value_type = a.dtype(),
          .indices = static_cast<const std::uint8_t*>(a.indices().data),
          .index_bytes = a.indices().shape[1],
          .slots = a.slots(),
          .n = a.n(),
          .m = a.m(),
          .bits = a.bits()};
}

/// About the nanoseconds that one thread takes.
double cost(const Nm& a, const Product& product) {
  return static_cast<double>(a.nnz()) * (0.15 + 0.03 * static_cast<double>(product.n));
}

/// Up to how many columns of B are multiplied as vectors: the fewer, the longer the part of a
/// column is that sixteen values (with AVX2, eight) pick from. At 1:16, tiles of 8 take as long as
/// two columns do (Zen 5). On Intel's processors 12 columns take three quarters of a tile's time
/// where sixteen values pick from two registers by positions of one or two bits (family 6 model
/// 207). With AVX2, tiles of 8 take as long as four columns at 2:4 and two at 1:4 do (Zen 3); where
/// elements are loaded one by one, as two.
std::int64_t most_vectors(const Nm& a, const Product& product) {
  if (vector_bytes() == 16 || is_f64(product)) return 2;
  const std::int64_t span = ceil_div(16 * a.m(), a.n());
  if (vector_bytes() == 32) return span <= 32 ? 4 : span <= 64 ? 2 : 1;
  const std::int64_t most = is_intel() && vector_bytes() == 64 && a.bits() <= 2 ? 12 : 8;
  return span <= 32 ? most : span <= 64 ? 4 : 1;
}

constexpr bool is_power(std::int64_t x) { return (x & (x - 1)) == 0; }

/// Is it faster to expand the lines and to multiply pairs of bfloat16, zeros included? Lines are
/// expanded in registers for a few columns, and as a strip for more. The other kernels are faster
/// for one or two columns if a vector's values come from few neighbouring groups, and for one
/// column if most elements are zeros, which they skip (Zen 5, 2048 × 4096).
bool expands(const Nm& a, const Product& product) {
  if (!has_bf16(product)) return false;
  if (has_amx_tiles()) return product.n > 1 && a.m() <= 8 * a.n();
  const bool close = is_power(a.n()) && is_power(a.m()) && a.m() <= 4 * a.n();
  const std::int64_t vectors = close ? 2 : a.m() > 8 * a.n() ? 1 : 0;
  const std::int64_t most = product.n <= 4 ? 16 : product.n <= 12 ? 8 : 4;
  return product.n > vectors && a.m() <= most * a.n();
}

/// The same where lines are columns of A: from half of entries on.
bool scatters_slowly(const Nm& a, const Product& product) {
  return has_bf16(product) && !has_amx_tiles() && is_power(a.m()) && a.m() <= 2 * a.n() &&
         a.slots() >= 32;
}

/// Values of a line that are multiplied at a time, at least: its sums are loaded and stored for
/// each part, so that it has a few, even if not all rows that it meets stay in L1.
constexpr std::int64_t kLeastValues = 16;

/// How many groups of a line are taken at a time: a multiple of eight, so that their positions
/// begin with a byte; `row_bytes` is what a row of the tile takes.
std::int64_t part_groups(const Nm& a, std::int64_t row_bytes) {
  std::int64_t groups = std::max<std::int64_t>(part_bytes() / (a.m() * row_bytes) / 8 * 8, 8);
  while (groups * a.n() < kLeastValues) groups *= 2;
  return std::min(groups, kMostSlots / (8 * a.n()) * 8);
}

/// Lines in ranges of at most `most`, a few for each thread.
std::int64_t strip_of(std::int64_t lines, std::int64_t most = kStrip) {
  const std::int64_t even = ceil_div(lines, std::int64_t{4} * num_threads());
  return std::clamp<std::int64_t>(ceil_div(even, 16) * 16, 16, most);
}

void multiply_vectors(const Nm& a, const Product& product) {
  const std::int64_t real = real_size(product);
  const Columns columns(product);
  // Values that stay in L2 while several batches of columns read them.
  const std::int64_t line_bytes = a.slots() * size_of(a.dtype()) + a.indices().shape[1];
  const std::int64_t fitting =
      (std::int64_t{256} << 10) / std::max<std::int64_t>(line_bytes, 1) / 16 * 16;
  const std::int64_t strip = std::clamp<std::int64_t>(fitting, 16, strip_of(product.m));
  for_tasks(ceil_div(product.m, strip), cost(a, product), [&](std::int64_t task) {
    const std::int64_t row = task * strip, rows = std::min(strip, product.m - row);
    const Scratch sums(4 * rows * real);
    for (std::int64_t first = 0; first < product.n;) {
      const std::int64_t left = product.n - first;
      const std::int64_t batch = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      product_kernels().nm_vectors({.a = lines_of(a),
                                    .line0 = row,
                                    .line1 = row + rows,
                                    .x = at(columns.data(), first * columns.stride() * real),
                                    .ldx = columns.stride(),
                                    .length = a.length(),
                                    .y = sums.data(),
                                    .ldy = rows,
                                    .batch = static_cast<int>(batch),
                                    .f64 = is_f64(product)});
      store(product, Sums::column_major, sums.data(), rows, row, rows, first, batch);
      first += batch;
    }
  });
}

/// The widest tile whose sums for one line the registers hold. On Intel's processors half of it
/// where the rows of a part would take more than 64 KiB, since they read rows from L2 slowly;
/// float64 gains nothing (measured on family 6 model 207).
int widest_nm_tile(const Nm& a, std::int64_t real) {
  if (vector_bytes() < 64) return widest_tile();
  constexpr std::int64_t kBytes = std::int64_t{64} << 10;
  const bool slow = is_intel() && real == 4 && kLeastValues * a.m() * 128 * real > kBytes * a.n();
  return slow ? 64 : 128;
}

void multiply_tiles(const Nm& a, const Product& product) {
  const std::int64_t real = real_size(product);
  const int widest = widest_nm_tile(a, real);
  // Each strip reads all of B again; its sums stay in L2 beside what streams past.
  const std::int64_t fitting = level2_cache() / 8 / (widest * real) / 16 * 16;
  const std::int64_t strip = strip_of(product.m, std::max(fitting, kStrip));
  const auto run = [&](const Tile& tile, const std::byte* b, std::int64_t chunk) {
    const std::int64_t row = chunk * strip, rows = std::min(strip, product.m - row);
    const Scratch sums(rows * tile.tile * real);
    const std::int64_t part = part_groups(a, tile.tile * real) * a.n();
    for (std::int64_t slot = 0; slot < a.slots(); slot += part) {
      product_kernels().nm_tile({.a = lines_of(a),
                                 .line0 = row,
                                 .line1 = row + rows,
                                 .slot0 = slot,
                                 .slot1 = std::min(a.slots(), slot + part),
                                 .b = b + slot / a.n() * a.m() * tile.tile * real,
                                 .c = sums.data(),
                                 .tile = tile.tile,
                                 .accumulate = slot > 0,
                                 .f64 = is_f64(product)});
    }
    if (a.slots() == 0) std::fill_n(sums.data(), rows * tile.tile * real, std::byte{0});
    store(product, Sums::row_major, sums.data(), tile.tile, row, rows, tile.first, tile.width);
  };
  for_tiles(product, widest, ceil_div(product.m, strip), cost(a, product), run);
}

/// Lines that are columns of A: some rows of the product at a time.
void multiply_scattered(const Nm& a, const Product& product) {
  const std::int64_t real = real_size(product), groups = a.length() / a.m();
  const auto scatter = [&](const Tile& tile, const void* b, std::int64_t group0,
                           std::int64_t group1) {
    const std::int64_t row = group0 * a.m(), rows = (group1 - group0) * a.m();
    const Scratch sums(rows * tile.tile * real);
    std::fill_n(sums.data(), rows * tile.tile * real, std::byte{0});
    product_kernels().nm_scatter({.a = lines_of(a),
                                  .line0 = 0,
                                  .line1 = a.lines(),
                                  .slot0 = group0 * a.n(),
                                  .slot1 = group1 * a.n(),
                                  .b = b,
                                  .c = sums.data(),
                                  .tile = tile.tile,
                                  .f64 = is_f64(product)});
    if (tile.tile == 1) {
      store(product, Sums::column_major, sums.data(), rows, row, rows, tile.first, 1);
    } else {
      store(product, Sums::row_major, sums.data(), tile.tile, row, rows, tile.first, tile.width);
    }
  };
  if (product.n == 1) {
    const Columns columns(product);
    const std::int64_t part = std::clamp<std::int64_t>(
        ceil_div(ceil_div(groups, std::int64_t{4} * num_threads()), 8) * 8, 8, 1024);
    return for_tasks(ceil_div(groups, part), cost(a, product), [&](std::int64_t task) {
      scatter({.first = 0, .width = 1, .tile = 1}, columns.data(), task * part,
              std::min(groups, (task + 1) * part));
    });
  }
  const std::vector<Tile> tiles = make_tiles(0, product.n, widest_tile());
  const std::int64_t part = part_groups(a, tiles.front().tile * real);
  for_tiles(product, widest_tile(), ceil_div(groups, part), cost(a, product),
            [&](const Tile& tile, const std::byte* b, std::int64_t chunk) {
              scatter(tile, b, chunk * part, std::min(groups, (chunk + 1) * part));
            });
}

}  // namespace

void detail::multiply(const Nm& a, const Product& product, bool transpose) {
  compute(product, [&] {
    if ((a.axis() == 0) != transpose) {
      if (scatters_slowly(a, product) && all_finite(product)) {
        return multiply_bf16_lines(lines_of(a), product);
      }
      return multiply_scattered(a, product);
    }
    if (expands(a, product) && all_finite(product)) {
      return multiply_bf16({.form = Bf16Source::Form::nm, .cols = a.length(), .nm = lines_of(a)},
                           product);
    }
    product.n <= most_vectors(a, product) ? multiply_vectors(a, product)
                                          : multiply_tiles(a, product);
  });
}

void detail::sample(const TensorView& a, const TensorView& b, const Nm& pattern,
                    const TensorView& out, bool accumulate) {
  if (pattern.nnz() == 0) return;
  const bool f64 = a.dtype == DType::f64;
  const std::int64_t depth = a.shape[1], real = f64 ? 8 : 4, slots = pattern.slots();
  const TensorView &by_line = pattern.axis() == 1 ? a : b, &by_place = pattern.axis() == 1 ? b : a;
  const DenseRows x(by_line), y(by_place, pattern.nnz() / by_place.shape[0]);
  // Rows on both sides are taken some columns at a time, so that those on the right stay in L1.
  constexpr std::int64_t kColumns = 128;
  const std::int64_t part =
      part_groups(pattern, std::clamp<std::int64_t>(depth, 1, kColumns) * real) * pattern.n();
  const bool direct = size_of(out.dtype) == real && !accumulate;
  const std::int64_t lines = pattern.lines(), strip = std::min<std::int64_t>(strip_of(lines), 128);
  const double work = 0.05 * static_cast<double>(pattern.nnz()) * static_cast<double>(depth);
  for_tasks(ceil_div(lines, strip), work, [&](std::int64_t task) {
    const std::int64_t line = task * strip, count = std::min(strip, lines - line);
    std::byte* to = at(out.data, line * slots * size_of(out.dtype));
    const Scratch sums(direct ? 0 : count * slots * real);
    for (std::int64_t slot = 0; slot < slots; slot += part) {
      std::int64_t column = 0;
      do {
        product_kernels().nm_sample({.a = lines_of(pattern),
                                     .line0 = line,
                                     .line1 = line + count,
                                     .slot0 = slot,
                                     .slot1 = std::min(slots, slot + part),
                                     .left = at(x.data(), column * real),
                                     .ldl = x.stride(),
                                     .right = at(y.data(), column * real),
                                     .ldr = y.stride(),
                                     .depth = std::min(kColumns, depth - column),
                                     .out = direct ? to : sums.data(),
                                     .ldo = slots,
                                     .accumulate = column > 0,
                                     .f64 = f64});
        column += kColumns;
      } while (column < depth);
    }
    if (!direct) narrow(sums.data(), count * slots, to, out.dtype, accumulate);
  });
}

void spmm(const Nm& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Checker check("spmm");
  const Product product = check_spmm(check, describe(a), b, out, transpose_a, epilogue);
  check_apart(check, "a", a, out);
  multiply(a, product, transpose_a);
}

void linear(const TensorView& x, const Nm& w, const TensorView& out, const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Checker check("linear");
  const Product product = check_linear(check, x, describe(w), out, epilogue);
  check_apart(check, "w", w, out);
  for_parts(product, [&](const Product& part) { multiply(w, part, false); });
}

}  // namespace gossamer
