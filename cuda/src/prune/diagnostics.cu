// What a pruned layer holds and has held: counts, coverage, and the mean of equal patterns.

#include <algorithm>
#include <vector>

#include "base/launch.h"
#include "base/runtime.h"
#include "formats/bsr/bsr_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/diagnostics_checks.h"
#include "gossamer/detail/mask_checks.h"
#include "prune/kernels/counts.cuh"

namespace gossamer::cuda {
namespace {

using detail::Checker;
using detail::Grid;

/// Elements that a warp counts, about.
constexpr std::int64_t kWarpElements = 1 << 14;

dim3 each(std::int64_t count) { return dim3(grid_x(ceil_div(count, kCountThreads))); }
dim3 a_warp_each(std::int64_t count) { return dim3(grid_x(ceil_div(count, kCountWarps))); }

/// Calls f with an unsigned integer of an element's size and the bits that make it no zero: all but
/// the sign of floating types.
template <class F>
void with_counted_bits(DType dtype, F&& f) {
  if (size_of(dtype) == 1) return f(std::uint8_t{0xff});
  with_bits_of(dtype, [&]<class U>(U) {
    constexpr auto kAll = static_cast<U>(~U{0});
    f(static_cast<U>(is_floating(dtype) ? kAll >> 1 : kAll));
  });
}

WholeCount* counts_of(const TensorView& counts) { return static_cast<WholeCount*>(counts.data); }

template <class Entries>
void count_sparse(const Entries& entries, DType dtype, const Grid& grid, std::int64_t rows,
                  const TensorView& counts, Stream stream) {
  const std::int64_t size = grid.down * grid.across;
  if (size == 0) return;
  fill_zero(counts.data, size * 8, stream);
  with_counted_bits(dtype, [&]<class U>(U bits) {
    const CountEntriesArgs<U> args{
        .indptr = entries.indptr,
        .indices = entries.indices,
        .values = static_cast<const U*>(entries.values),
        .bits = bits,
        .rows = entries.rows,
        .block_rows = entries.block_rows,
        .block_cols = entries.block_cols,
        .height = grid.rows,
        .width = grid.cols,
        .across = grid.across,
        .alone = grid.across == 1 && (grid.rows >= rows || grid.rows % entries.block_rows == 0),
        .counts = counts_of(counts)};
    launch(count_entries<U>, a_warp_each(args.rows), dim3(kCountThreads), 0, stream, args);
  });
}

/// The entries of a matrix.
struct Entries {
  const int *indptr, *indices;
  const void* values;
  std::int64_t rows;
  int block_rows, block_cols;
};

}  // namespace

void nnz_stats(const TensorView& x, const prune::CountBlock& block, const TensorView& counts,
               Stream stream) {
  const Checker check("nnz_stats", DeviceType::cuda);
  const Grid grid = detail::check_nnz_stats(check, x, block, counts);
  const std::int64_t size = grid.down * grid.across;
  if (size == 0) return;
  const DeviceGuard guard(x.device);
  fill_zero(counts.data, size * 8, stream);
  if (x.numel() == 0) return;
  with_counted_bits(x.dtype, [&]<class U>(U bits) {
    const bool wide = grid.cols > 32;
    const std::int64_t span = wide ? std::min<std::int64_t>(grid.cols, 4096) : 32;
    const std::int64_t spans = wide ? ceil_div(x.shape[1], grid.cols) * ceil_div(grid.cols, span)
                                    : ceil_div(x.shape[1], 32);
    const CountBlocksArgs<U> args{
        .x = static_cast<const U*>(x.data),
        .stride = row_stride(x),
        .rows = x.shape[0],
        .cols = x.shape[1],
        .bits = bits,
        .height = grid.rows,
        .width = grid.cols,
        .across = grid.across,
        .down = grid.down,
        .pieces = std::clamp<std::int64_t>(grid.rows * span / kWarpElements, 1, grid.rows),
        .span = span,
        .spans = spans,
        .counts = counts_of(counts)};
    launch(count_blocks<U>, a_warp_each(args.down * args.pieces * args.spans), dim3(kCountThreads),
           0, stream, args);
  });
}

void nnz_stats(const Csr& a, const prune::CountBlock& block, const TensorView& counts,
               Stream stream) {
  const Checker check("nnz_stats", DeviceType::cuda);
  const Grid grid = detail::check_nnz_stats(check, a, block, counts);
  const CsrView view = view_of(check, "x", a);
  const DeviceGuard guard(a.device());
  count_sparse(Entries{.indptr = view.indptr,
                       .indices = view.indices,
                       .values = view.values,
                       .rows = view.rows,
                       .block_rows = 1,
                       .block_cols = 1},
               a.dtype(), grid, a.rows(), counts, stream);
}

void nnz_stats(const Bsr& a, const prune::CountBlock& block, const TensorView& counts,
               Stream stream) {
  const Checker check("nnz_stats", DeviceType::cuda);
  const Grid grid = detail::check_nnz_stats(check, a, block, counts);
  const BsrView view = view_of(check, "x", a);
  const DeviceGuard guard(a.device());
  count_sparse(Entries{.indptr = view.indptr,
                       .indices = view.indices,
                       .values = view.blocks,
                       .rows = view.rows,
                       .block_rows = view.block_rows,
                       .block_cols = view.block_cols},
               a.dtype(), grid, a.rows(), counts, stream);
}

std::int64_t coverage_or_(const TensorView& fired, const TensorView& mask,
                          const TensorView& workspace, Stream stream) {
  const Checker check("coverage_or_", DeviceType::cuda);
  detail::check_coverage(check, fired, mask);
  const std::int64_t n = fired.numel();
  if (n == 0) return 0;
  check.workspace(workspace, fired.device, kCountWorkspace);
  require_waiting(stream, "coverage_or_", "the count");
  const DeviceGuard guard(fired.device);
  fill_zero(workspace.data, sizeof(WholeCount), stream);
  auto* to = static_cast<std::uint8_t*>(fired.data);
  const auto* from = static_cast<const std::uint8_t*>(mask.data);
  launch(count_coverage, each(ceil_div(n, 16)), dim3(kCountThreads), 0, stream, to, from, n,
         aligned(to, 0, 1, 16) && aligned(from, 0, 1, 16), counts_of(workspace));
  std::int64_t count = 0;
  copy_to_host(&count, workspace.data, sizeof(count), stream);
  return count;
}

prune::NmViolations check_nm(const TensorView& x, std::int64_t n, std::int64_t m, int axis,
                             const TensorView& workspace, Stream stream) {
  const Checker check("check_nm", DeviceType::cuda);
  const detail::Axes axes = detail::check_nm_groups(check, x, n, m, axis);
  if (x.numel() == 0) return {};
  check.workspace(workspace, x.device, kCountWorkspace);
  require_waiting(stream, "check_nm", "the number of groups");
  const DeviceGuard guard(x.device);
  m = std::min(m, axes.length);
  WholeCount* found = counts_of(workspace);
  fill_zero(found, sizeof(WholeCount), stream);
  fill_ones(found + 1, sizeof(WholeCount), stream);
  with_counted_bits(x.dtype, [&]<class U>(U bits) {
    const std::int64_t groups = ceil_div(axes.length, m);
    const CountGroupsArgs<U> args{.x = static_cast<const U*>(x.data),
                                  .bits = bits,
                                  .n = n,
                                  .m = m,
                                  .length = axes.length,
                                  .cols = axes.cols,
                                  .groups = groups,
                                  .all = axes.parts * groups * axes.cols,
                                  .found = found};
    launch(count_groups<U>, each(args.all), dim3(kCountThreads), 0, stream, args);
  });
  std::int64_t result[2] = {};
  copy_to_host(result, found, sizeof(result), stream);
  prune::NmViolations violations{.count = result[0]};
  if (result[0] > 0) violations.first = result[1];
  return violations;
}

std::int64_t mean_same_pattern_workspace(std::span<const Csr> matrices) {
  const auto arrays = static_cast<std::int64_t>(matrices.size());
  if (arrays == 0) return 0;
  const std::int64_t real = matrices[0].dtype() == DType::f64 ? 8 : 4;
  return kCountWorkspace * arrays + (arrays > kMeanArrays ? matrices[0].nnz() * real : 0);
}

void mean_same_pattern(std::span<const Csr> matrices, const TensorView& values,
                       const TensorView& workspace, Stream stream) {
  const Checker check("mean_same_pattern", DeviceType::cuda);
  detail::check_mean(check, matrices, values);
  const Csr& first = matrices.front();
  const CsrView view = view_of(check, "matrices[0]", first);
  check.workspace(workspace, first.device(), mean_same_pattern_workspace(matrices));
  const DeviceGuard guard(first.device());
  const auto arrays = static_cast<std::int64_t>(matrices.size());
  // Arrays that are not the first one's are compared with them.
  std::vector<WholeCount> differs(matrices.size());
  WholeCount* there = counts_of(workspace);
  bool compares = false;
  for (const Csr& a : matrices) {
    compares |= a.indptr().data != view.indptr || a.indices().data != view.indices;
  }
  if (compares) {
    require_waiting(stream, "mean_same_pattern", "whether patterns are equal");
    fill_zero(there, arrays * 8, stream);
    for (std::size_t k = 0; k < matrices.size(); ++k) {
      const auto compare = [&](const void* own, const int* expected, std::int64_t count) {
        if (own == expected) return;
        launch(count_differences, each(count), dim3(kCountThreads), 0, stream,
               static_cast<const int*>(own), expected, count, there + k);
      };
      compare(matrices[k].indptr().data, view.indptr, view.rows + 1);
      compare(matrices[k].indices().data, view.indices, view.nnz);
    }
    copy_to_host(differs.data(), there, arrays * 8, stream);
  }
  for (std::size_t k = 0; k < matrices.size(); ++k) {
    detail::check_pattern(check, k, differs[k] == 0);
  }
  with_element_type(first.dtype(), [&]<class T>(T) {
    for (std::int64_t begin = 0; begin < arrays; begin += kMeanArrays) {
      const std::int64_t count = std::min<std::int64_t>(kMeanArrays, arrays - begin);
      MeanArgs<T> args{};
      for (std::int64_t k = 0; k < count; ++k) {
        args.from[k] =
            static_cast<const T*>(matrices[static_cast<std::size_t>(begin + k)].values().data);
      }
      args.arrays = static_cast<int>(count);
      args.count = view.nnz;
      args.sums = reinterpret_cast<Sum<T>*>(static_cast<std::byte*>(workspace.data) +
                                            kCountWorkspace * arrays);
      args.first = begin == 0;
      args.last = begin + count == arrays;
      args.divisor = static_cast<Sum<T>>(arrays);
      args.out = static_cast<T*>(values.data);
      launch(count_mean<T>, each(view.nnz), dim3(kCountThreads), 0, stream, args);
    }
  });
}

}  // namespace gossamer::cuda
