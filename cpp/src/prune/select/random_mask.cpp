#include "base/bits.h"
#include "base/buffer.h"
#include "base/floats.h"
#include "gossamer/prune/select.h"
#include "prune/select/operands.h"
#include "prune/select/random_select.h"

namespace gossamer::prune {
using namespace detail;

void random_mask(std::int64_t k, std::uint64_t seed, std::uint64_t step,
                 const std::optional<TensorView>& within, const TensorView& out, const Part& part) {
  const FloatEnvironment floats;
  const Checker check("random_mask");
  const std::int64_t total = check_random_mask(check, k, within, out, part);
  const std::int64_t n = out.numel(), first = part.offset;
  const std::int64_t candidates = within ? count_nonzero_of(bytes_of(*within), n) : total;
  check_drawn(check, k, candidates, within.has_value());
  ask_for_huge_pages(out.data, n);
  if (k == 0 || k == total) return fill_mask(bytes_of(out), n, k != 0, MaskFormat::bytes);
  select_random({.seed = seed,
                 .step = step,
                 .total = total,
                 .k = k,
                 .candidates = candidates,
                 .within = within ? bytes_of(*within) : nullptr,
                 .first = first,
                 .count = n,
                 .mask = bytes_of(out)});
}

}  // namespace gossamer::prune
