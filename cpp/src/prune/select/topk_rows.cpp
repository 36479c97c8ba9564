#include <algorithm>
#include <cstring>

#include "base/buffer.h"
#include "base/floats.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/prune/select.h"
#include "prune/select/operands.h"
#include "prune/select/segments.h"

namespace gossamer::prune {
using namespace detail;

void topk_rows(const TensorView& x, std::int64_t k, const std::optional<TensorView>& key,
               const SelectOptions& options, const TensorView& values, const TensorView& indices) {
  const FloatEnvironment floats;
  const Checker check("topk_rows");
  check_topk_rows(check, x, k, key, values, indices);
  const TensorView& order = key ? *key : x;
  const std::int64_t rows = x.shape[0], cols = x.shape[1], item = size_of(x.dtype);
  if (rows == 0 || k == 0) return;
  const std::int64_t together =
      std::max<std::int64_t>(1, task_size(rows * cols) / std::max<std::int64_t>(cols, 1));
  const auto row_score = [&](std::int64_t row) {
    const auto* data = static_cast<const std::byte*>(order.data);
    return Score{.w = make_view(data + row * order.strides[0] * size_of(order.dtype), order.dtype,
                                {cols}, order.device),
                 .kind = ScoreKind::value};
  };
  if (options.nan == Nan::error) {
    std::int64_t nans = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
      const KeyStream keys(row_score(row), order.dtype, options);
      nans += count_nans({{&keys, 0, cols, nullptr, nullptr}});
    }
    if (nans != 0) check.value_error("key has " + text_of(nans) + " NaN, expected none");
  }
  auto* chosen = static_cast<std::int32_t*>(indices.data);
  auto* taken = static_cast<std::byte*>(values.data);
  ask_for_huge_pages(chosen, rows * k * 4);
  ask_for_huge_pages(taken, rows * k * item);
  parallel_for(ceil_div(rows, together), [&](std::int64_t task) {
    constexpr std::int64_t kOver = 64;  // the kernel may write this many entries past a row's k
    // Even, so that the indices that follow the values are aligned.
    const std::int64_t room = (k + kOver + 1) / 2 * 2;
    const Scratch scratch(room * (item + 4));
    SegmentGuess guess = {};
    const std::int64_t end = std::min(rows, (task + 1) * together);
    for (std::int64_t row = task * together; row < end; ++row) {
      const KeyStream keys(row_score(row), order.dtype, options);
      Taken to{.indices = chosen + row * k,
               .from = static_cast<const std::byte*>(x.data) + row * x.strides[0] * item,
               .values = taken + row * k * item,
               .item = item};
      // What is written past a row's k is overwritten by the task's next rows. Near the end of the
      // task, where it would reach the rows of another task, the row is written to scratch memory
      // first.
      const bool direct = (row + 1) * k + kOver <= end * k;
      if (!direct) {
        to.values = scratch.data();
        to.indices = reinterpret_cast<std::int32_t*>(scratch.data() + room * item);
      }
      select_short(keys, {}, 0, cols, nullptr, k, options.tie, nullptr, to, guess);
      if (direct) continue;
      std::memcpy(chosen + row * k, to.indices, static_cast<std::size_t>(4 * k));
      std::memcpy(taken + row * k * item, to.values, static_cast<std::size_t>(k * item));
    }
  });
}

}  // namespace gossamer::prune
