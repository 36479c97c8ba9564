#include "regrow/regrow_random.h"

#include <algorithm>
#include <vector>

#include "base/pool.h"

namespace gossamer::detail {
namespace {

constexpr std::int64_t kDraws = std::int64_t{1} << 14;  // ranks that a task draws or sorts

}  // namespace

Buffer<std::int64_t> draw_ranks(std::int64_t size, std::int64_t n,
                                const regrow::RandomGrowth& key) {
  if (n == 0) return {};
  // The ranks are spread evenly, so buckets of equal width hold about equally many: one pass
  // distributes them, then each bucket is sorted alone.
  int shift = 0;
  while (((size - 1) >> shift) >= std::max<std::int64_t>(n / kDraws, 1)) ++shift;
  const std::int64_t buckets = ((size - 1) >> shift) + 1;
  const std::int64_t tasks = (n + kDraws - 1) / kDraws;
  const auto bucket_of = [=](std::int64_t rank) { return static_cast<std::size_t>(rank >> shift); };
  const Permutation permutation(static_cast<std::uint64_t>(size), key.seed, key.step);
  Buffer<std::int64_t> drawn(n);
  parallel_for(tasks, [&](std::int64_t task) {
    for (std::int64_t i = task * kDraws; i < std::min(n, (task + 1) * kDraws); ++i) {
      drawn[i] = static_cast<std::int64_t>(permutation(static_cast<std::uint64_t>(i)));
    }
  });
  if (buckets == 1) {
    std::sort(drawn.data(), drawn.data() + n);
    return drawn;
  }
  std::vector<std::int64_t> begin(static_cast<std::size_t>(buckets) + 1, 0);
  for (std::int64_t i = 0; i < n; ++i) ++begin[bucket_of(drawn[i]) + 1];
  for (std::size_t b = 1; b < begin.size(); ++b) begin[b] += begin[b - 1];
  std::vector<std::int64_t> next(begin.begin(), begin.end() - 1);
  Buffer<std::int64_t> sorted(n);
  for (std::int64_t i = 0; i < n; ++i) sorted[next[bucket_of(drawn[i])]++] = drawn[i];
  parallel_for(buckets, [&](std::int64_t bucket) {
    const auto b = static_cast<std::size_t>(bucket);
    std::sort(sorted.data() + begin[b], sorted.data() + begin[b + 1]);
  });
  return sorted;
}

}  // namespace gossamer::detail
