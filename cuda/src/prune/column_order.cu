// The search of a column order: the host takes the steps, kernels add up what it compares.

#include <algorithm>
#include <bit>
#include <numeric>
#include <vector>

#include "base/carver.h"
#include "base/launch.h"
#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/column_order.h"
#include "prune/kernels/column_order.cuh"
#include "prune/parts.h"

namespace gossamer::cuda {
namespace {

using detail::PermutationPart;
using detail::PermutationSums;
using prune::PermutationMethod;

/// Lists of columns whose sets are added up before the host reads the sums.
constexpr std::int64_t kLists = 8192;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::int64_t padded_rows(std::int64_t rows) {
  return ceil_div(rows, detail::kPermutationRows) * detail::kPermutationRows;
}

struct Room {
  Room(void* base, std::int64_t rows, std::int64_t cols, std::int64_t m) {
    Carver carver(base);
    const std::int64_t ld = padded_rows(rows), part = std::min<std::int64_t>(cols, kOrderColumns);
    x = carver.take<float>(cols * ld);
    next = carver.take<float>(part * ld);
    numbers = carver.take<std::int32_t>(cols);
    largest = carver.take<unsigned long long>(1);
    const std::int64_t groups = part / m, pairs = std::min(groups * groups / 2 + 1, kLists);
    std::int64_t sums = std::max(part * (part + 2), cols / m);
    if (m == 4) sums = std::max({sums, pairs * detail::subsets_of(8), detail::subsets_of(12)});
    out = carver.take<double>(sums);
    bytes = carver.used();
  }

  float *x, *next;
  std::int32_t* numbers;  // of columns or places
  unsigned long long* largest;
  double* out;  // what the host reads
  std::int64_t bytes;
};

void bring(std::span<const std::int32_t> numbers, std::int32_t* to, Stream stream) {
  for (std::size_t first = 0; first < numbers.size(); first += OrderNumbersArgs::kMost) {
    OrderNumbersArgs args{};
    const std::size_t count =
        std::min<std::size_t>(numbers.size() - first, OrderNumbersArgs::kMost);
    args.to = to + first;
    args.count = static_cast<int>(count);
    std::copy_n(&numbers[first], count, args.number);
    launch(order_numbers, dim3(1), dim3(kOrderThreads), 0, stream, args);
  }
}

dim3 halves(std::int64_t count) { return dim3(grid_x(ceil_div(count, kOrderHalves))); }

/// What the search of a part whose columns begin at `x` compares.
PermutationSums sums_over(const float* x, const PermutationPart& part, const Room& room,
                          Stream stream) {
  const auto refresh = [=](std::span<const std::int32_t> order,
                           std::span<const std::int64_t> changed, double* sum, double* total,
                           double* pairs) {
    if (changed.empty()) return;
    OrderArgs args{};
    args.x = x;
    args.ld = part.rows;
    args.cols = static_cast<int>(part.cols);
    args.n = part.n;
    args.m = part.m;
    args.count = static_cast<int>(changed.size());
    args.next = room.next;
    args.out = room.out;
    std::transform(order.begin(), order.end(), args.order,
                   [](std::int32_t c) { return static_cast<std::uint16_t>(c); });
    std::transform(changed.begin(), changed.end(), args.changed,
                   [](std::int64_t g) { return static_cast<std::uint16_t>(g); });
    const std::int64_t count = args.count, positions = count * part.m;
    launch(part.m == 4 ? order_groups<4> : order_groups<0>, halves(count), dim3(kOrderThreads), 0,
           stream, args);
    launch(order_pairs, halves(positions * ceil_div(part.cols, kOrderPairs)), dim3(kOrderThreads),
           0, stream, args);
    std::vector<double> found(at(positions + count + positions * part.cols));
    copy_to_host(found.data(), room.out, static_cast<std::int64_t>(found.size()) * 8, stream);
    const double* const totals = found.data() + positions;
    const double* const rows = totals + count;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t g = changed[at(i)];
      std::copy_n(found.data() + i * part.m, part.m, sum + g * part.m);
      total[g] = totals[i];
      std::copy_n(rows + i * part.m * part.cols, part.m * part.cols,
                  pairs + g * part.m * part.cols);
    }
  };
  const auto subsets = [=](std::span<const std::int32_t> columns, int count, double* out) {
    const std::int64_t sets = detail::subsets_of(count);
    const std::int64_t lists = static_cast<std::int64_t>(columns.size()) / count;
    const std::int64_t most = OrderSubsetsArgs::kMost / count;
    for (std::int64_t begin = 0; begin < lists; begin += kLists) {
      const std::int64_t end = std::min(begin + kLists, lists);
      for (std::int64_t first = begin; first < end; first += most) {
        OrderSubsetsArgs args{};
        args.x = x;
        args.ld = part.rows;
        args.n = part.n;
        args.count = count;
        args.lists = static_cast<int>(std::min(most, end - first));
        args.sets = static_cast<int>(sets);
        args.out = room.out + (first - begin) * sets;
        std::transform(&columns[at(first * count)],
                       &columns[at(first * count)] + args.lists * count, args.column,
                       [](std::int32_t c) { return static_cast<std::uint16_t>(c); });
        launch(order_subsets, halves(args.lists * sets), dim3(kOrderThreads), 0, stream, args);
      }
      copy_to_host(out + begin * sets, room.out, (end - begin) * sets * 8, stream);
    }
  };
  return {.refresh = refresh, .subsets = subsets};
}

}  // namespace

std::int64_t permutation_search_workspace(const prune::Score& score, std::int64_t m) {
  if (score.w.rank != 2 || m < 1) return 0;
  return Room(nullptr, score.w.shape[0], score.w.shape[1], m).bytes;
}

double permutation_search(const prune::Score& score, std::int64_t n, std::int64_t m,
                          const prune::PermutationOptions& options, const TensorView& perm,
                          const TensorView& workspace, Stream stream) {
  const detail::Checker check("permutation_search", DeviceType::cuda);
  detail::check_permutation(check, score, n, m, options, perm);
  const std::int64_t rows = score.w.shape[0], cols = score.w.shape[1];
  if (cols == 0) return 0.0;
  check.workspace(workspace, score.w.device, permutation_search_workspace(score, m));
  require_waiting(stream, "permutation_search", "the sums that it compares");
  const DeviceGuard guard(score.w.device);
  const Room room(workspace.data, rows, cols, m);
  const std::vector<std::int32_t> column = detail::dealt_columns(cols, m);
  bring(column, room.numbers, stream);
  OrderLoadArgs load{.score = score_args(score),
                     .f64 = prune::dtype_of(score) == DType::f64,
                     .column = room.numbers,
                     .rows = rows,
                     .cols = cols,
                     .ld = padded_rows(rows),
                     .exponent = 0,
                     .x = room.x,
                     .largest = room.largest};
  const auto load_columns = [&] {
    launch(order_load, dim3(grid_x(ceil_div(cols * load.ld, kOrderThreads))), dim3(kOrderThreads),
           0, stream, load);
  };
  fill_zero(room.largest, 8, stream);
  load_columns();
  std::uint64_t bits = 0;
  copy_to_host(&bits, room.largest, 8, stream);
  load.exponent = detail::permutation_exponent(std::bit_cast<double>(bits));
  if (load.exponent != 0) load_columns();

  std::vector<std::int32_t> place(at(cols));
  std::iota(place.begin(), place.end(), 0);
  if (0 < n && n < m && rows > 0) {
    const std::vector<std::int64_t> first = detail::permutation_parts(cols, m);
    for (std::size_t i = 0; i + 1 < first.size(); ++i) {
      const std::int64_t begin = first[i];
      const PermutationPart part{.rows = load.ld,
                                 .cols = first[i + 1] - begin,
                                 .n = static_cast<int>(n),
                                 .m = static_cast<int>(m),
                                 .seed = options.seed,
                                 .number = i};
      if (part.cols == 0) continue;
      const PermutationSums sums = sums_over(room.x + begin * load.ld, part, room, stream);
      const std::vector<std::int32_t> order = detail::search_order(part, sums, options);
      for (std::int64_t c = 0; c < part.cols; ++c) {
        place[at(begin + c)] = static_cast<std::int32_t>(begin) + order[at(c)];
      }
    }
  }
  std::vector<std::int32_t> found(at(cols));
  std::transform(place.begin(), place.end(), found.begin(),
                 [&](std::int32_t p) { return column[at(p)]; });
  bring(found, static_cast<std::int32_t*>(perm.data), stream);
  bring(place, room.numbers, stream);
  const std::int64_t groups = cols / m;
  launch(order_kept, dim3(grid_x(ceil_div(groups, kOrderThreads))), dim3(kOrderThreads), 0, stream,
         OrderKeptArgs{.x = room.x,
                       .ld = load.ld,
                       .rows = rows,
                       .groups = groups,
                       .place = room.numbers,
                       .n = static_cast<int>(n),
                       .m = static_cast<int>(m),
                       .out = room.out});
  std::vector<double> kept(at(groups));
  copy_to_host(kept.data(), room.out, groups * 8, stream);
  return detail::permutation_total(kept, load.exponent);
}

}  // namespace gossamer::cuda
