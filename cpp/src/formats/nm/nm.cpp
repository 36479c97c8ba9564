#include "gossamer/nm.h"

#include <memory>
#include <string>

#include "base/cut.h"
#include "base/index.h"
#include "formats/nm/kernels.h"
#include "gossamer/detail/format_checks.h"

namespace gossamer {
using namespace detail;
namespace {

/// Position s of a line.
std::int64_t position(const std::uint8_t* line, std::int64_t s, int bits) {
  const std::int64_t first = s * bits, last = first + bits - 1;
  unsigned word = line[first / 8];
  if (last / 8 != first / 8) word |= static_cast<unsigned>(line[last / 8]) << 8;
  return word >> (first % 8) & ((1U << bits) - 1);
}

/// Throws for the first wrong position of a line.
void check_line(const Checker& check, const std::uint8_t* indices, std::int64_t line,
                std::int64_t slots, std::int64_t n, std::int64_t m) {
  const int bits = Nm::bits_of(m);
  std::int64_t before = 0;
  for (std::int64_t s = 0; s < slots; ++s) {
    const std::int64_t now = position(indices, s, bits);
    const std::string got =
        "indices[" + text(line) + "]: position " + text(s) + " is " + text(now) + ", expected ";
    if (now >= m) check.value_error(got + "less than m = " + text(m));
    if (s % n != 0 && now <= before) {
      check.value_error(got + "more than the one before it in the group, " + text(before));
    }
    before = now;
  }
}

void check_structure(const Checker& check, const Nm& a) {
  // Of one position in a group of two, four, … elements nothing can be wrong.
  if (a.n() == 1 && (a.m() & (a.m() - 1)) == 0) return;
  const auto* indices = static_cast<const std::uint8_t*>(a.indices().data);
  const std::int64_t bytes = a.indices().shape[1];
  const EqualRanges ranges = equal_rows(a.lines(), a.nnz());
  const std::unique_ptr<bool[]> valid(new bool[static_cast<std::size_t>(ranges.count)]);
  parallel_for(ranges.count, [&](std::int64_t task) {
    nm_kernels().nm_check_lines({.indices = indices,
                                 .index_bytes = bytes,
                                 .line0 = ranges.begin(task),
                                 .line1 = ranges.end(task),
                                 .slots = a.slots(),
                                 .n = a.n(),
                                 .m = a.m(),
                                 .bits = a.bits(),
                                 .valid = &valid[static_cast<std::size_t>(task)]});
  });
  for (std::int64_t task = 0; task < ranges.count; ++task) {
    if (valid[static_cast<std::size_t>(task)]) continue;
    for (std::int64_t line = ranges.begin(task); line < ranges.end(task); ++line) {
      check_line(check, indices + line * bytes, line, a.slots(), a.n(), a.m());
    }
  }
}

}  // namespace

Nm::Nm(const TensorView& values, const TensorView& indices, std::int64_t rows, std::int64_t cols,
       std::int64_t n, std::int64_t m, int axis, Check check)
    : Nm(Unread{}, values, indices, rows, cols, n, m, axis) {
  const bool readable = values.device.type == DeviceType::cpu;
  if (check == Check::structure && readable && nnz() > 0) {
    check_structure(Checker("NM", values.device.type), *this);
  }
}

Nm Nm::transposed() const noexcept {
  Nm result = *this;
  result.axis_ = 1 - axis_;
  return result;
}

}  // namespace gossamer
