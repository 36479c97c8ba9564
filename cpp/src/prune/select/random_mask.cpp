#include <limits>
#include <string>

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
  const Argument result{"out", out};
  check.mask(result);
  check.device(result, out.device, "out");
  check.contiguous(result);
  check.writable(result, {});
  const std::int64_t n = out.numel();
  const std::int64_t first = part.offset;
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  if (part.total && *part.total < n) {
    check.value_error("total is " + text_of(*part.total) + ", expected at least " + text_of(n));
  }
  const std::int64_t last = part.total.value_or(kMost) - n;
  if (first < 0 || first > last) {
    check.value_error("offset is " + text_of(first) + ", expected 0 to total - " + text_of(n) +
                      " = " + text_of(last));
  }
  const std::int64_t total = part.total.value_or(first + n);
  std::int64_t candidates = total;
  if (within) {
    if (total != n) check.value_error("within is given for a part of a mask, expected None");
    const Argument allowed{"within", *within};
    check.mask(allowed);
    check.device(allowed, out.device, "out");
    check.same_shape(allowed, result);
    check.contiguous(allowed);
    check.writable(result, {allowed});
    candidates = count_nonzero_of(bytes_of(*within), n);
  }
  if (k < 0 || k > candidates) {
    check.value_error("k is " + text_of(k) + ", expected 0 to " + text_of(candidates) +
                      (within ? ", the entries of within" : ""));
  }
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
