#include "gossamer/prune/diagnostics.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/floats.h"
#include "base/interrupt.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/diagnostics_checks.h"
#include "prune/diagnostics/kernels.h"

namespace gossamer::prune {
using namespace detail;
namespace {

std::int64_t pieces_of(std::int64_t n) { return ceil_div(n, kTaskElements); }

}  // namespace

void mean_same_pattern(std::span<const Csr> matrices, const TensorView& values) {
  const FloatEnvironment floats;
  const Checker check("mean_same_pattern");
  check_mean(check, matrices, values);
  const Csr& first = matrices.front();
  std::vector<const void*> inputs;
  for (std::size_t k = 0; k < matrices.size(); ++k) {
    const Csr& a = matrices[k];
    const auto equal = [](const TensorView& x, const TensorView& y) {
      const auto size = static_cast<std::size_t>(x.shape[0] * size_of(x.dtype));
      return x.data == y.data || size == 0 || std::memcmp(x.data, y.data, size) == 0;
    };
    check_pattern(check, k,
                  equal(a.indptr(), first.indptr()) && equal(a.indices(), first.indices()));
    inputs.push_back(a.values().data);
  }
  const std::int64_t nnz = first.nnz();
  for_tasks(pieces_of(nnz), 0.3 * static_cast<double>(nnz), [&](std::int64_t piece) {
    diagnostics_kernels().mean({.inputs = inputs.data(),
                                .count = static_cast<std::int64_t>(inputs.size()),
                                .type = first.dtype(),
                                .begin = piece * kTaskElements,
                                .end = std::min(nnz, (piece + 1) * kTaskElements),
                                .out = values.data});
  });
}

std::int64_t coverage_or_(const TensorView& fired, const TensorView& mask) {
  const FloatEnvironment floats;
  const Checker check("coverage_or_");
  check_coverage(check, fired, mask);
  const std::int64_t n = fired.numel(), pieces = pieces_of(n);
  const Scratch counts(pieces * 8);
  auto* count = counts.as<std::int64_t>();
  const Uninterrupted whole;
  for_tasks(pieces, 0.1 * static_cast<double>(n), [&](std::int64_t piece) {
    const std::int64_t begin = piece * kTaskElements;
    diagnostics_kernels().cover({.fired = static_cast<std::uint8_t*>(fired.data) + begin,
                                 .mask = static_cast<const std::uint8_t*>(mask.data) + begin,
                                 .size = std::min(kTaskElements, n - begin),
                                 .count = count + piece});
  });
  std::int64_t total = 0;
  for (std::int64_t piece = 0; piece < pieces; ++piece) total += count[piece];
  return total;
}

void nnz_stats(const TensorView& x, const CountBlock& block, const TensorView& counts) {
  const FloatEnvironment floats;
  const Checker check("nnz_stats");
  const Grid grid = check_nnz_stats(check, x, block, counts);
  const std::int64_t height = x.shape[0], width = x.shape[1];
  // Few tall blocks are cut along their columns, and where there are few of these too, along their
  // rows: then each piece counts for itself, and the sums are whole numbers in any order.
  constexpr std::int64_t kFew = 16;
  const std::int64_t strips = std::clamp<std::int64_t>(grid.across, 1, grid.down < 64 ? 64 : 1);
  const std::int64_t pieces = grid.down * strips < kFew ? kFew : 1;
  const std::int64_t size = grid.down * grid.across;
  auto* out = static_cast<std::int64_t*>(counts.data);
  std::vector<std::int64_t> apart(pieces > 1 ? static_cast<std::size_t>(pieces * size) : 0);
  const double work = 0.1 * static_cast<double>(x.numel());
  for_tasks(grid.down * strips * pieces, work, [&](std::int64_t task) {
    const std::int64_t piece = task % pieces, strip = task / pieces % strips;
    const std::int64_t i = task / pieces / strips;
    const std::int64_t first = grid.across * strip / strips;
    const std::int64_t last = grid.across * (strip + 1) / strips;
    std::int64_t* mine = (pieces > 1 ? apart.data() + piece * size : out) + i * grid.across + first;
    std::fill_n(mine, last - first, std::int64_t{0});
    if (first == last) return;
    const std::int64_t tall = std::min(grid.rows, height - i * grid.rows);
    const std::int64_t row = tall * piece / pieces, end = tall * (piece + 1) / pieces;
    const std::int64_t col = first * grid.cols;
    diagnostics_kernels().count_nonzero(
        {.x = static_cast<const std::byte*>(x.data) +
              ((i * grid.rows + row) * x.strides[0] + col) * size_of(x.dtype),
         .type = x.dtype,
         .stride = x.strides[0],
         .rows = end - row,
         .cols = std::min(last * grid.cols, width) - col,
         .run = grid.cols,
         .counts = mine});
  });
  if (pieces > 1) {
    std::fill_n(out, size, std::int64_t{0});
    for (std::int64_t at = 0; at < pieces * size; ++at) {
      out[at % size] += apart[static_cast<std::size_t>(at)];
    }
  }
}

}  // namespace gossamer::prune
