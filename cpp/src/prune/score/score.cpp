#include "gossamer/prune/score.h"

#include <algorithm>

#include "base/buffer.h"
#include "base/floats.h"
#include "base/work.h"
#include "gossamer/detail/score.h"
#include "prune/score/score_reader.h"

namespace gossamer::prune {
using namespace detail;

void evaluate(const Score& score, const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("score");
  check_evaluate(check, score, out);
  const DType type = dtype_of(score);
  const std::int64_t n = out.numel();
  if (n == 0) return;
  ask_for_huge_pages(out.data, n * size_of(type));
  const ScoreReader reader(score);
  parallel_for(ceil_div(n, kTaskElements), [&](std::int64_t piece) {
    const std::int64_t first = piece * kTaskElements;
    reader.read(first, std::min(kTaskElements, n - first),
                static_cast<std::byte*>(out.data) + first * size_of(type));
  });
}

}  // namespace gossamer::prune
