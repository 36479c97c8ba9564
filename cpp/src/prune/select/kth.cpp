// The k-th score of all, or of each segment.

#include <array>
#include <limits>
#include <vector>

#include "base/floats.h"
#include "gossamer/prune/select.h"
#include "prune/select/operands.h"
#include "prune/select/segments.h"
#include "prune/select/selector.h"

namespace gossamer::prune {
using namespace detail;
namespace {

Kth kth_of(const KeyRank& found, std::int64_t k, const KeyOrder& order) {
  return {
      .threshold = value_of(found.key, order), .n_strict = found.above, .n_tie = k - found.above};
}

/// Checks k, then calls ranked(keys, n, select) and returns its result; select(k) finds the k-th
/// key.
template <class F>
auto rank_all(const char* op, const Score& score, std::int64_t k, const SelectOptions& options,
              F&& ranked) {
  const Checker check(op);
  check_kth(check, score, k);
  const std::int64_t n = score.w.numel();
  const KeyStream keys(score, KeyStream::type_of(score), options);
  const std::vector<SelectPart> parts = {{&keys, 0, n, nullptr, nullptr}};
  return ranked(keys, n, [&](std::int64_t rank) {
    const KeyRank found = select(parts, n, rank, options.tie, MaskFormat::bytes);
    if (found.nan && options.nan == Nan::error) refuse_nan(check, parts);
    return found;
  });
}

}  // namespace

Kth kth(const Score& score, std::int64_t k, const SelectOptions& options) {
  const FloatEnvironment floats;
  return rank_all("kth", score, k, options,
                  [&](const auto& keys, std::int64_t, const auto& ranked) {
                    return kth_of(ranked(k), k, keys.order());
                  });
}

std::array<double, 2> kth_pair(const Score& score, std::int64_t k, const SelectOptions& options) {
  const FloatEnvironment floats;
  return rank_all(
      "kth_pair", score, k, options, [&](const auto& keys, std::int64_t n, const auto& ranked) {
        const KeyRank found = ranked(k);
        if (found.nan) {
          constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
          return std::array{kNan, kNan};
        }
        std::uint64_t next = found.key;
        if (k == found.above + found.equal && k < n) {
          next = found.next ? *found.next : ranked(k + 1).key;
        }
        return std::array{value_of(found.key, keys.order()), value_of(next, keys.order())};
      });
}

void kth(const Score& score, const Segments& segments, std::span<const std::int64_t> k,
         const SelectOptions& options, const TensorView& threshold, const TensorView& n_strict,
         const TensorView& n_tie) {
  const FloatEnvironment floats;
  const Checker check("kth");
  check_score(check, score);
  const std::int64_t n = score.w.numel();
  const SegmentPlan plan({check, segments, n}, k);
  plan.check_k(check, 1, nullptr);
  check_kth_results(check, score, plan.count(), threshold, n_strict, n_tie);
  const DType type = dtype_of(score);
  const KeyStream keys(score, KeyStream::type_of(score), options);
  if (options.nan == Nan::error) refuse_nan(check, {{&keys, 0, n, nullptr, nullptr}});
  const Factors factors(score);
  const auto write = [&](std::int64_t s, const KeyRank& found) {
    const Kth result = kth_of(found, plan.k(s), keys.order());
    if (type == DType::f64) {
      static_cast<double*>(threshold.data)[s] = result.threshold;
    } else {
      static_cast<float*>(threshold.data)[s] = static_cast<float>(result.threshold);
    }
    static_cast<std::int64_t*>(n_strict.data)[s] = result.n_strict;
    static_cast<std::int64_t*>(n_tie.data)[s] = result.n_tie;
  };
  plan.run(
      [&](std::int64_t s, SegmentGuess& guess) {
        write(s, select_short(keys, factors, plan.at(s), plan.length(s), nullptr, plan.k(s),
                              options.tie, nullptr, {}, guess));
      },
      [&](std::int64_t s) {
        write(s, select({{&keys, plan.at(s), plan.length(s), nullptr, nullptr}}, plan.length(s),
                        plan.k(s), options.tie, MaskFormat::bytes));
      });
}

std::int64_t count_nan(const Score& score) {
  const FloatEnvironment floats;
  check_score(Checker("count_nan"), score);
  const KeyStream keys(score, KeyStream::type_of(score), {});
  return count_nans({{&keys, 0, score.w.numel(), nullptr, nullptr}});
}

}  // namespace gossamer::prune
