#include <algorithm>
#include <cstring>
#include <string>

#include "base/buffer.h"
#include "base/floats.h"
#include "base/interrupt.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/score.h"
#include "gossamer/prune/patterns.h"
#include "prune/masks.h"
#include "prune/patterns/kernels.h"

namespace gossamer::prune {
using namespace detail;
namespace {

constexpr std::int64_t kMost = 64;

std::uint8_t* mask_of(const TensorView& out) {
  ask_for_huge_pages(out.data, out.numel());
  return static_cast<std::uint8_t*>(out.data);
}

}  // namespace

void nm_mask_transposable(const Score& score, std::int64_t n, std::int64_t m, MaskMethod method,
                          const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("nm_mask_transposable");
  check_transposable(check, score, n, m, out);
  const std::int64_t cols = score.w.shape[1], size = score.w.numel();
  if (size == 0) return;
  std::uint8_t* mask = mask_of(out);
  if (n == 0 || n == m) {
    std::memset(mask, n != 0, static_cast<std::size_t>(size));
    return;
  }
  const ScoreTiles tiles(score);
  for_tasks(score.w.shape[0] / m, 2.0 * static_cast<double>(size), [&](std::int64_t row) {
    const std::int64_t begin = row * m * cols;
    const ScoreTile tile(tiles, begin, m * cols);
    const Scratch cells(kTransposableScratch);
    pattern_kernels().transposable({.score = tile.data(),
                                    .type = tile.type(),
                                    .magnitude = tile.magnitude(),
                                    .n = n,
                                    .m = m,
                                    .blocks = cols / m,
                                    .stride = cols,
                                    .mask = mask + begin,
                                    .greedy = method == MaskMethod::greedy,
                                    .scratch = cells.data()});
  });
}

void vnm_mask(const Score& score, std::int64_t v, std::int64_t n, std::int64_t m, MaskMethod method,
              const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("vnm_mask");
  check_vnm_mask(check, score, v, n, m, out);
  if (m == 4) return nm_mask(score, n, m, {}, out);
  const std::int64_t cols = score.w.shape[1], size = score.w.numel();
  if (size == 0) return;
  std::uint8_t* mask = mask_of(out);
  if (n == 0) {
    std::memset(mask, 0, static_cast<std::size_t>(size));
    return;
  }
  const ScoreTiles tiles(score);
  const std::int64_t scratch = kVnmScratch * ((v + 15) / 16 * 16) * 8;
  for_tasks(score.w.shape[0] / v, 10.0 * static_cast<double>(size), [&](std::int64_t row) {
    const std::int64_t begin = row * v * cols;
    const ScoreTile tile(tiles, begin, v * cols);
    const Scratch columns(scratch);
    // One panel of the kernel takes up to half a second.
    const InterruptPoll poll;
    const auto* const scores = static_cast<const std::byte*>(tile.data());
    const std::int64_t width = kMost / m * m;
    for (std::int64_t col = 0; col < cols; col += width, poll.look()) {
      pattern_kernels().vnm_mask({.score = scores + col * size_of(tile.type()),
                                  .type = tile.type(),
                                  .magnitude = tile.magnitude(),
                                  .v = v,
                                  .n = n,
                                  .m = m,
                                  .blocks = std::min(width, cols - col) / m,
                                  .stride = cols,
                                  .mask = mask + begin + col,
                                  .greedy = method == MaskMethod::greedy,
                                  .scratch = columns.data()});
    }
  });
}

}  // namespace gossamer::prune
