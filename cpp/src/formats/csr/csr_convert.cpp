#include <algorithm>
#include <bitset>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/cut.h"
#include "base/floats.h"
#include "base/levels.h"
#include "base/scratch.h"
#include "formats/compressed.h"
#include "formats/csr/kernels.h"
#include "gossamer/csr.h"
#include "gossamer/detail/format_checks.h"

namespace gossamer {
using namespace detail;
namespace {

/// Adds to each chunk's running counts those of the chunks before it.
template <class I>
void join_counts(I* indptr, const EqualRanges& chunks, const std::vector<std::int64_t>& totals) {
  std::vector<std::int64_t> offsets(totals.size(), 0);
  for (std::size_t i = 1; i < totals.size(); ++i) offsets[i] = offsets[i - 1] + totals[i - 1];
  indptr[0] = 0;
  const auto shift = [&](std::int64_t task) {
    const auto offset = static_cast<I>(offsets[static_cast<std::size_t>(task)]);
    for (std::int64_t i = chunks.begin(task); i < chunks.end(task); ++i) {
      indptr[i + 1] += offset;
    }
  };
  if (chunks.size < kTaskElements) {
    for (std::int64_t task = 0; task < chunks.count; ++task) shift(task);
  } else {
    parallel_for(chunks.count, shift);
  }
}

}  // namespace

std::int64_t csr_count(const TensorView& w, const std::optional<TensorView>& mask,
                       const TensorView& indptr) {
  const FloatEnvironment floats;
  const Checker check("CSR.from_dense");
  check_csr_count(check, w, mask, indptr);

  const EqualRanges chunks = equal_rows(w.shape[0], w.numel());
  std::vector<std::int64_t> totals(static_cast<std::size_t>(chunks.count));
  const CsrKernels& table = csr_kernels();
  parallel_for(chunks.count, [&](std::int64_t task) {
    table.csr_count({.dense = w.data,
                     .type = w.dtype,
                     .stride = row_stride(w),
                     .mask = mask_data(mask),
                     .mask_stride = mask ? row_stride(*mask) : 0,
                     .row0 = chunks.begin(task),
                     .row1 = chunks.end(task),
                     .cols = w.shape[1],
                     .wide = indptr.dtype == DType::i64,
                     .indptr = indptr.data,
                     .total = &totals[static_cast<std::size_t>(task)]});
  });
  std::int64_t nnz = 0;
  for (const std::int64_t total : totals) nnz += total;
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
  if (indptr.dtype == DType::i32 && nnz > kMax) {
    check.value_error("w has " + text(nnz) + " entries to keep, expected at most " + text(kMax) +
                      " for int32 indices");
  }
  with_index_type(indptr.dtype, [&](auto type) {
    join_counts(static_cast<decltype(type)*>(indptr.data), chunks, totals);
  });
  return nnz;
}

void csr_fill(const TensorView& w, const std::optional<TensorView>& mask, const TensorView& indptr,
              const TensorView& indices, const TensorView& values) {
  const FloatEnvironment floats;
  const Checker check("CSR.from_dense");
  check_csr_fill(check, w, mask, indptr, indices, values);
  const std::int64_t nnz = indices.shape[0];
  check_indptr(check, indptr, w.shape[0], nnz);

  use_huge_pages(indices);
  use_huge_pages(values);
  const EqualRanges chunks = equal_rows(w.shape[0], w.numel());
  std::vector<std::int64_t> bad_rows(static_cast<std::size_t>(chunks.count));
  const CsrKernels& table = csr_kernels();
  parallel_for(chunks.count, [&](std::int64_t i) {
    // csr_count has just read the matrix: what it read last is the part still in the cache.
    const std::int64_t task = chunks.count - 1 - i;
    table.csr_fill({.dense = w.data,
                    .type = w.dtype,
                    .stride = row_stride(w),
                    .mask = mask_data(mask),
                    .mask_stride = mask ? row_stride(*mask) : 0,
                    .row0 = chunks.begin(task),
                    .row1 = chunks.end(task),
                    .cols = w.shape[1],
                    .wide = indptr.dtype == DType::i64,
                    .indptr = indptr.data,
                    .indices = indices.data,
                    .values = values.data,
                    .bad_row = &bad_rows[static_cast<std::size_t>(task)]});
  });
  for (const std::int64_t row : bad_rows) {
    if (row >= 0) {
      check.value_error("indptr does not match w in row " + text(row) +
                        ", expected csr_count's result for the same arguments, unchanged since");
    }
  }
}

void csr_to_dense(const Csr& a, const TensorView& out) {
  const FloatEnvironment floats;
  check_csr_to_dense(Checker("CSR.to_dense"), a, out);

  use_huge_pages(out);
  const EqualRanges chunks = equal_rows(a.rows(), out.numel());
  const CsrKernels& table = csr_kernels();
  parallel_for(chunks.count, [&](std::int64_t task) {
    table.csr_to_dense({.wide = a.index_dtype() == DType::i64,
                        .indptr = a.indptr().data,
                        .indices = a.indices().data,
                        .values = a.values().data,
                        .type = a.dtype(),
                        .row0 = chunks.begin(task),
                        .row1 = chunks.end(task),
                        .cols = a.cols(),
                        .out = out.data,
                        .stride = row_stride(out)});
  });
}

namespace {

/// indptr of the transpose: one histogram of the columns per range of entries, then their sums.
template <class I>
void transpose_indptr(const Csr& a, I* indptr) {
  const std::int64_t cols = a.cols(), nnz = a.nnz();
  // Each further range costs a pass over `cols` counters.
  const std::int64_t ranges =
      std::clamp<std::int64_t>(nnz / std::max(kTaskElements, 2 * cols), 1, num_threads());
  std::fill_n(indptr, cols + 1, I{0});
  Buffer<I> others((ranges - 1) * cols);
  const CsrKernels& table = csr_kernels();
  parallel_for(ranges, [&](std::int64_t range) {
    I* counts = indptr + 1;
    if (range > 0) {
      counts = others.data() + (range - 1) * cols;
      std::fill_n(counts, cols, I{0});
    }
    table.csr_histogram({.wide = sizeof(I) == 8,
                         .indices = a.indices().data,
                         .begin = nnz / ranges * range,
                         .end = range + 1 == ranges ? nnz : nnz / ranges * (range + 1),
                         .counts = counts});
  });
  for (std::int64_t range = 1; range < ranges; ++range) {
    const I* counts = others.data() + (range - 1) * cols;
    for (std::int64_t j = 0; j < cols; ++j) indptr[j + 1] += counts[j];
  }
  for (std::int64_t j = 0; j < cols; ++j) indptr[j + 1] += indptr[j];
}

struct TransposePlan {
  std::int64_t blocks, tile_rows, tile_cols, run_stride;  // run_stride 0: nothing is collected
};

/// Do the outputs of most tiles' columns begin in many sets of an L1 cache? Where the columns have
/// equal lengths near a power of two they do not, and evict each other.
template <class I>
bool columns_spread(const I* indptr, std::int64_t cols, std::int64_t tile_cols) {
  constexpr std::int64_t kSets = 64, kLine = 64;
  std::int64_t tiles = 0, spread = 0;
  for (std::int64_t col0 = 0; col0 < cols; col0 += tile_cols, ++tiles) {
    std::bitset<kSets> sets;
    for (std::int64_t j = col0; j < std::min(cols, col0 + tile_cols); ++j) {
      sets.set(static_cast<std::size_t>(indptr[j] * std::int64_t{sizeof(I)} / kLine % kSets));
    }
    spread += sets.count() >= kSets / 2 ? 1 : 0;
  }
  return 2 * spread >= tiles;
}

/// When entries are collected, and in runs of what length. The first is for all processors but
/// Intel's and measured on an EPYC (family 25 model 17); the second on a Xeon (family 6 model 207),
/// whose stores to many places are so slow that all but the shortest runs repay it.
struct TransposeLimits {
  double run, shortest_run;
  double direct_below;  // density up to which entries go straight to outputs that are well spread
  std::int64_t most_rows;
};
constexpr TransposeLimits kTransposeLimits = {
    .run = 32, .shortest_run = 8, .direct_below = 0.2, .most_rows = 1024};
constexpr TransposeLimits kIntelTransposeLimits = {
    .run = 128, .shortest_run = 16, .direct_below = 0, .most_rows = 4096};

/// A tile has 256 columns, or as many more as give its rows 8 entries each. Entries go straight to
/// the outputs where few share a tile; else they are collected in runs, one for each column.
template <class I>
TransposePlan plan_transpose(const Csr& a, const I* indptr) {
  constexpr std::int64_t kColumns = 256, kMinRows = 64, kMaxArea = std::int64_t{1} << 20;
  constexpr double kEntriesPerRow = 8.0;
  const TransposeLimits limits = is_intel() ? kIntelTransposeLimits : kTransposeLimits;
  const auto cols = static_cast<double>(a.cols());
  const double density = std::max(static_cast<double>(a.nnz()), 1.0) /
                         std::max(static_cast<double>(a.rows()) * cols, 1.0);
  TransposePlan plan = {};
  plan.blocks = std::min<std::int64_t>(num_threads(), task_count(a.nnz()));
  plan.tile_rows = std::max<std::int64_t>(a.rows(), 1);
  plan.tile_cols =
      std::max(kColumns, static_cast<std::int64_t>(std::min(cols, kEntriesPerRow / density)));
  const std::int64_t most_rows =
      std::clamp(kMaxArea / plan.tile_cols, std::int64_t{1024}, limits.most_rows);
  if (density * static_cast<double>(most_rows) < limits.shortest_run ||
      a.nnz() > std::numeric_limits<std::uint32_t>::max() ||  // a run holds 32 bits of a position
      (density < limits.direct_below && columns_spread(indptr, a.cols(), plan.tile_cols))) {
    return plan;
  }
  plan.tile_rows =
      std::min(plan.tile_rows,
               std::clamp(static_cast<std::int64_t>(limits.run / density), kMinRows, most_rows));
  // An odd number of cache lines, so that the runs do not begin in a few sets of the cache.
  plan.run_stride = ((plan.tile_rows + 7) / 8 | 1) * 8;
  return plan;
}

}  // namespace

void csr_transpose(const Csr& a, const TensorView& indptr, const TensorView& indices,
                   const std::optional<TensorView>& values,
                   const std::optional<TensorView>& permutation) {
  const FloatEnvironment floats;
  check_csr_transpose(Checker("CSR.transpose"), a, indptr, indices, values, permutation);

  for (const auto& out : {std::optional(indices), values, permutation}) {
    if (out) use_huge_pages(*out);
  }
  const CsrKernels& table = csr_kernels();
  with_index_type(a.index_dtype(), [&](auto type) {
    using I = decltype(type);
    auto* begin = static_cast<I*>(indptr.data);
    transpose_indptr(a, begin);
    const TransposePlan plan = plan_transpose(a, begin);
    // The transpose's rows are cut like any matrix's; every block of them reads all rows of `a`.
    const RowRanges blocks =
        cut_rows({begin, sizeof(I) == 8}, a.cols(), {.pieces = plan.blocks, .row_cost = 1});
    parallel_for(blocks.count(), [&](std::int64_t block) {
      const std::int64_t col0 = blocks.begin(block), col1 = blocks.end(block);
      const Buffer<I> next(col1 - col0), cursors(plan.tile_rows);
      std::copy_n(begin + col0, col1 - col0, next.data());
      const std::int64_t columns = plan.run_stride == 0 ? 0 : std::min(plan.tile_cols, col1 - col0);
      const std::int64_t entries = columns == 0 ? 0 : columns * plan.run_stride + kTransposeGroup;
      const std::int64_t run_bytes = entries * std::int64_t{sizeof(std::uint64_t)};
      const Scratch runs(run_bytes + entries * size_of(a.dtype()));
      const Buffer<std::int32_t> run_ends(columns);
      table.csr_transpose({.wide = sizeof(I) == 8,
                           .indptr = a.indptr().data,
                           .indices = a.indices().data,
                           .values = a.values().data,
                           .type = a.dtype(),
                           .rows = a.rows(),
                           .col0 = col0,
                           .col1 = col1,
                           .tile_rows = plan.tile_rows,
                           .tile_cols = plan.tile_cols,
                           .cursors = cursors.data(),
                           .next = next.data(),
                           .ends = begin + col0 + 1,
                           .runs = columns == 0 ? nullptr : runs.as<std::uint64_t>(),
                           .run_values = runs.data() + run_bytes,
                           .run_stride = plan.run_stride,
                           .run_ends = run_ends.data(),
                           .out_indices = indices.data,
                           .out_values = values ? values->data : nullptr,
                           .out_permutation = permutation ? permutation->data : nullptr});
    });
  });
}

void csr_transpose(const CsrPattern& a, const TensorView& indptr, const TensorView& indices,
                   const TensorView& permutation) {
  const FloatEnvironment floats;
  // Where no values are wanted, those of the matrix do not matter: any memory of their size does.
  const TensorView unread = make_view(std::as_const(a.indices().data), DType::f32, {a.nnz()});
  csr_transpose(a.with_values(unread), indptr, indices, std::nullopt, permutation);
}

void convert_indices(const TensorView& from, const TensorView& to) {
  const Checker check("convert_indices");
  check_convert_indices(check, from, to);
  const std::int64_t size = from.shape[0];
  if (from.dtype == to.dtype) {
    std::copy_n(static_cast<const std::byte*>(from.data), size * size_of(from.dtype),
                static_cast<std::byte*>(to.data));
    return;
  }
  const std::int64_t tasks = task_count(size);
  const std::int64_t share = (size + tasks - 1) / tasks;
  const std::unique_ptr<bool[]> fits(new bool[static_cast<std::size_t>(tasks)]);
  const CsrKernels& table = csr_kernels();
  parallel_for(tasks, [&](std::int64_t task) {
    const std::int64_t begin = std::min(size, share * task);
    table.convert_indices(
        {.from = static_cast<const std::byte*>(from.data) + begin * size_of(from.dtype),
         .to = static_cast<std::byte*>(to.data) + begin * size_of(to.dtype),
         .size = std::min(size, begin + share) - begin,
         .widen = from.dtype == DType::i32,
         .fits = &fits[static_cast<std::size_t>(task)]});
  });
  if (std::all_of(fits.get(), fits.get() + tasks, [](bool fit) { return fit; })) return;
  const auto* data = static_cast<const std::int64_t*>(from.data);
  for (std::int64_t i = 0; i < size; ++i) {
    if (data[i] == static_cast<std::int32_t>(data[i])) continue;
    check.value_error("from[" + text(i) + "] is " + text(data[i]) +
                      ", expected a value that int32 can hold");
  }
}

}  // namespace gossamer
