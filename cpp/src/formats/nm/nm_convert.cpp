#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/cut.h"
#include "base/floats.h"
#include "formats/compressed.h"
#include "formats/nm/kernels.h"
#include "gossamer/detail/format_checks.h"
#include "gossamer/nm.h"

namespace gossamer {
using namespace detail;
namespace {

/// How many lines a task takes: of columns, whole cache lines.
EqualRanges cut_lines(std::int64_t lines, std::int64_t elements, int axis) {
  const std::int64_t tasks = axis == 1 ? lines : ceil_div(lines, 64);
  return {.size = lines, .count = std::min(tasks, task_count(elements))};
}

/// Throws for a group with more elements to keep than n.
[[noreturn]] void refuse_group(const Checker& check, const TensorView& w,
                               const std::optional<TensorView>& mask, std::int64_t n,
                               std::int64_t m, int axis, std::int64_t line, std::int64_t group) {
  const TensorView& source = mask ? *mask : w;
  const std::int64_t size = size_of(source.dtype);
  std::int64_t count = 0;
  for (std::int64_t e = group * m; e < (group + 1) * m; ++e) {
    const std::int64_t row = axis == 1 ? line : e, col = axis == 1 ? e : line;
    const auto* at =
        static_cast<const std::uint8_t*>(source.data) + (row * row_stride(source) + col) * size;
    bool kept = false;
    for (std::int64_t i = 0; i < size; ++i) {
      // The sign, in the last byte of a number, does not count.
      kept = kept || (mask || i + 1 < size ? at[i] : at[i] & 0x7fU) != 0;
    }
    count += kept;
  }
  check.value_error((mask ? "mask keeps " : "w has ") + text(count) + " elements" +
                    (mask ? "" : " other than 0") + " in the group from [" +
                    text(axis == 1 ? line : group * m) + ", " + text(axis == 1 ? group * m : line) +
                    "] along axis " + text(axis) + ", expected at most n = " + text(n));
}

}  // namespace

void nm_pack(const TensorView& w, const std::optional<TensorView>& mask, std::int64_t n,
             std::int64_t m, int axis, const TensorView& values, const TensorView& indices) {
  const FloatEnvironment floats;
  const Checker check("NM.from_dense");
  const NmShape shape = check_nm_pack(check, w, mask, n, m, axis, values, indices);
  if (w.numel() == 0) return;
  use_huge_pages(values);
  const std::int64_t groups = (axis == 1 ? w.shape[1] : w.shape[0]) / m;
  const std::int64_t stride = row_stride(w), mask_stride = mask ? row_stride(*mask) : 0;
  const EqualRanges ranges = cut_lines(shape.lines, w.numel(), axis);
  std::vector<std::int64_t> bad(static_cast<std::size_t>(ranges.count), -1);
  parallel_for(ranges.count, [&](std::int64_t task) {
    nm_kernels().nm_pack_lines({.dense = w.data,
                                .size = static_cast<int>(size_of(w.dtype)),
                                .line = axis == 1 ? stride : 1,
                                .step = axis == 1 ? 1 : stride,
                                .mask = mask_data(mask),
                                .mask_line = axis == 1 ? mask_stride : 1,
                                .mask_step = axis == 1 ? 1 : mask_stride,
                                .line0 = ranges.begin(task),
                                .line1 = ranges.end(task),
                                .groups = groups,
                                .n = n,
                                .m = m,
                                .bits = Nm::bits_of(m),
                                .values = values.data,
                                .indices = static_cast<std::uint8_t*>(indices.data),
                                .index_bytes = shape.index_bytes,
                                .bad = &bad[static_cast<std::size_t>(task)]});
  });
  for (const std::int64_t group : bad) {
    if (group >= 0) refuse_group(check, w, mask, n, m, axis, group / groups, group % groups);
  }
}

void nm_to_dense(const Nm& a, const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("NM.to_dense");
  check_nm_to_dense(check, a, out);
  if (out.numel() == 0) return;
  use_huge_pages(out);
  const std::int64_t stride = row_stride(out);
  const EqualRanges ranges = cut_lines(a.lines(), out.numel(), a.axis());
  parallel_for(ranges.count, [&](std::int64_t task) {
    nm_kernels().nm_unpack_lines({.dense = out.data,
                                  .size = static_cast<int>(size_of(a.dtype())),
                                  .line = a.axis() == 1 ? stride : 1,
                                  .step = a.axis() == 1 ? 1 : stride,
                                  .line0 = ranges.begin(task),
                                  .line1 = ranges.end(task),
                                  .groups = a.length() / a.m(),
                                  .n = a.n(),
                                  .m = a.m(),
                                  .bits = a.bits(),
                                  .values = a.values().data,
                                  .indices = static_cast<const std::uint8_t*>(a.indices().data),
                                  .index_bytes = a.indices().shape[1]});
  });
}

}  // namespace gossamer
