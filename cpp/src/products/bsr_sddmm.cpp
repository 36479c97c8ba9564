// sddmm at the blocks of a BSR pattern.

#include <algorithm>
#include <optional>
#include <vector>

#include "base/cut.h"
#include "base/floats.h"
#include "base/levels.h"
#include "base/scratch.h"
#include "formats/rows_view.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/products.h"
#include "products/compact.h"
#include "products/dense_rows.h"
#include "products/kernels.h"
#include "products/product.h"
#include "products/tiles.h"

namespace gossamer {
using namespace detail;
namespace {

struct Problem {
  RowsView grid;  // the blocks of the pattern as entries
  std::int64_t block_rows, block_cols, depth;
  TensorView b, out;
  bool accumulate;

  /// Bytes of the type of sums.
  [[nodiscard]] std::int64_t real() const noexcept { return b.dtype == DType::f64 ? 8 : 4; }
  [[nodiscard]] bool f64() const noexcept { return b.dtype == DType::f64; }
  /// About the nanoseconds of one thread.
  [[nodiscard]] double work() const noexcept {
    return 0.05 * static_cast<double>(grid.nnz * block_rows * block_cols) *
           static_cast<double>(depth);
  }
  /// Block p of the result, as the product of block_rows rows of a with bᵀ.
  [[nodiscard]] Product block(std::int64_t p) const {
    const std::int64_t size = block_rows * block_cols * size_of(out.dtype);
    return {.b = {b.data, b.dtype, b.strides[0], true},
            .out = {at(out.data, p * size), out.dtype, block_cols, false},
            .m = block_rows,
            .k = depth,
            .n = block_cols,
            .accumulate = accumulate};
  }
};

/// Calls body(row of blocks, p) for the blocks of a range of rows of blocks.
template <class F>
void for_blocks(const RowsView& grid, std::int64_t row0, std::int64_t row1, F&& body) {
  for (std::int64_t i = row0; i < row1; ++i) {
    for (std::int64_t p = grid.pointer(i); p < grid.pointer(i + 1); ++p) body(i, p);
  }
}

/// Narrow blocks, which would leave most of a tile empty: dot products of rows.
void sddmm_by_dots(const Problem& x, const DenseRows& a) {
  const DenseRows b(x.b, x.grid.nnz / x.grid.cols);
  const std::int64_t br = x.block_rows, bc = x.block_cols;
  for_ranges(cut_block_rows(x.grid), x.work(), [&](std::int64_t row0, std::int64_t row1) {
    const Scratch sums(br * bc * x.real());
    for_blocks(x.grid, row0, row1, [&](std::int64_t i, std::int64_t p) {
      product_kernels().bsr_dots({.a = at(a.data(), i * br * a.stride() * x.real()),
                                  .lda = a.stride(),
                                  .b = at(b.data(), x.grid.index(p) * bc * b.stride() * x.real()),
                                  .ldb = b.stride(),
                                  .rows = br,
                                  .cols = bc,
                                  .depth = x.depth,
                                  .out = sums.data(),
                                  .f64 = x.f64()});
      store(x.block(p), Sums::row_major, sums.data(), bc, 0, br, 0, bc);
    });
  });
}

/// A dense block is a product itself: rows of a times tiles of bᵀ, which are made once for each
/// column of blocks.
void sddmm_by_tiles(const Problem& x, const DenseRows& a) {
  const std::int64_t br = x.block_rows, bc = x.block_cols;
  const auto lanes = static_cast<int>(vector_bytes() / x.real());
  const std::vector<Tile> tiles = make_tiles(0, bc, std::max(2 * lanes, 8));
  std::int64_t width = 0;
  for (const Tile& tile : tiles) width += tile.tile;
  const std::int64_t panel = width * x.depth * x.real();  // bytes
  const Scratch panels(x.grid.cols * panel);
  const Product columns = x.block(0);
  const double loading = 0.3 * static_cast<double>(x.b.shape[0] * x.depth);
  for_tasks(x.grid.cols, loading, [&](std::int64_t j) {
    std::byte* to = panels.data() + j * panel;
    for (const Tile& tile : tiles) {
      load_tile(columns, {.first = j * bc + tile.first, .width = tile.width, .tile = tile.tile}, 0,
                x.depth, to);
      to += tile.tile * x.depth * x.real();
    }
  });

  for_ranges(cut_block_rows(x.grid), x.work(), [&](std::int64_t row0, std::int64_t row1) {
    const Scratch sums(br * width * x.real());
    for_blocks(x.grid, row0, row1, [&](std::int64_t i, std::int64_t p) {
      const std::byte* from = panels.data() + x.grid.index(p) * panel;
      for (const Tile& tile : tiles) {
        // A row of blocks with one block in it, as wide as the rows of a.
        static constexpr std::int32_t kOne[] = {0, 1};
        product_kernels().bsr_tile({.a = {.wide = false,
                                          .indptr = kOne,
                                          .indices = kOne,
                                          .order = nullptr,
                                          .values = at(a.data(), i * br * a.stride() * x.real()),
                                          .rows = br,
                                          .cols = x.depth,
                                          .pitch = a.stride(),
                                          .transposed = false},
                                    .row0 = 0,
                                    .row1 = 1,
                                    .b = from,
                                    .c = sums.data(),
                                    .tile = tile.tile,
                                    .f64 = x.f64()});
        store(x.block(p), Sums::row_major, sums.data(), tile.tile, 0, br, tile.first, tile.width);
        from += tile.tile * x.depth * x.real();
      }
    });
  });
}

}  // namespace

void sddmm(const TensorView& a, const TensorView& b, const Bsr& pattern, const TensorView& out,
           bool accumulate) {
  const FloatEnvironment floats;
  check_sddmm(Checker("sddmm"), a, b, pattern, out);
  sample(a, b, pattern, out, accumulate);
}

void detail::sample(const TensorView& a, const TensorView& b, const Bsr& pattern,
                    const TensorView& out, bool accumulate) {
  if (pattern.nnz() == 0) return;
  Problem problem{.grid = block_view(pattern),
                  .block_rows = pattern.block_rows(),
                  .block_cols = pattern.block_cols(),
                  .depth = a.shape[1],
                  .b = b,
                  .out = out,
                  .accumulate = accumulate};
  std::optional<CompactColumns> some_columns;
  if (is_hollow(problem.grid.cols, problem.grid.nnz, problem.block_cols)) {
    some_columns.emplace(problem.grid, as_b(b), problem.block_cols);
    problem.grid = some_columns->matrix();
    problem.b = b_of(some_columns->product());
  }
  TensorView left = a;
  std::optional<CompactRows> some_rows;
  if (size_of(a.dtype) == 2 && is_hollow(problem.grid.rows, problem.grid.nnz, problem.block_rows)) {
    some_rows.emplace(problem.grid, as_b(a), problem.block_rows);
    problem.grid = some_rows->matrix();
    left = b_of(some_rows->product());
  }
  const DenseRows rows(left);
  if (problem.block_cols < 8) {
    sddmm_by_dots(problem, rows);
  } else {
    sddmm_by_tiles(problem, rows);
  }
}

}  // namespace gossamer
