#include <string>

#include "base/index.h"
#include "gossamer/detail/format_checks.h"

namespace gossamer {
using namespace detail;
namespace {

void check_range(const Checker& check, const char* name, std::int64_t value, std::int64_t low,
                 std::int64_t high) {
  if (value >= low && value <= high) return;
  check.value_error(std::string(name) + " is " + text(value) + ", expected " + text(low) + " to " +
                    text(high));
}

}  // namespace

NmShape nm_shape(std::int64_t rows, std::int64_t cols, std::int64_t n, std::int64_t m, int axis) {
  return check_nm_sizes(Checker("NM.from_dense"), "w.shape", rows, cols, n, m, axis);
}

namespace detail {

NmShape check_nm_sizes(const Checker& check, const char* side, std::int64_t rows, std::int64_t cols,
                       std::int64_t n, std::int64_t m, int axis) {
  check_range(check, "m", m, 1, Nm::kMostM);
  if (n < 1 || n > m) {
    check.value_error("n is " + text(n) + ", expected 1 to m = " + text(m));
  }
  if (axis != 0 && axis != 1) {
    check.value_error("axis is " + text(axis) + ", expected 0 or 1");
  }
  const std::int64_t extents[] = {rows, cols};
  for (std::size_t d = 0; d < 2; ++d) {
    const std::string name = std::string(side) + "[" + text(static_cast<std::int64_t>(d)) + "]";
    check_range(check, name.c_str(), extents[d], 0, kMaxElements);
  }
  const std::int64_t length = extents[axis];
  if (length % m != 0) {
    check.value_error(std::string(side) + "[" + text(axis) + "] is " + text(length) +
                      ", expected a multiple of m = " + text(m));
  }
  const std::int64_t slots = length / m * n;
  return {.lines = extents[1 - axis], .slots = slots, .index_bytes = Nm::index_bytes(slots, m)};
}

NmShape check_nm_pack(const Checker& check, const TensorView& w,
                      const std::optional<TensorView>& mask, std::int64_t n, std::int64_t m,
                      int axis, const TensorView& values, const TensorView& indices) {
  check.floating({"w", w});
  check.rank({"w", w}, {2});
  check.device({"w", w}, w.device, "w");
  check.layout({"w", w});
  const NmShape shape = nm_shape(w.shape[0], w.shape[1], n, m, axis);
  if (mask) {
    const Argument argument{"mask", *mask};
    check.mask(argument);
    check.rank(argument, {2});
    check.extent(argument, 0, w.shape[0], "w.shape[0]");
    check.extent(argument, 1, w.shape[1], "w.shape[1]");
    check.device(argument, w.device, "w");
    check.layout(argument);
  }
  check.dtype({"values", values}, w.dtype, "w");
  if (indices.dtype != DType::u8) {
    check.type_error(std::string("indices.dtype is ") + name_of(indices.dtype) +
                     ", expected uint8");
  }
  check.shape({"values", values}, {shape.lines, shape.slots});
  check.shape({"indices", indices}, {shape.lines, shape.index_bytes});
  for (const Argument& out : {Argument{"values", values}, Argument{"indices", indices}}) {
    check.device(out, w.device, "w");
    check.contiguous(out);
    check.writable(out, {{"w", w}});
    if (mask) check.writable(out, {{"mask", *mask}});
  }
  check.writable({"indices", indices}, {{"values", values}});
  return shape;
}

void check_nm_to_dense(const Checker& check, const Nm& a, const TensorView& out) {
  check.dtype({"out", out}, a.dtype(), "a");
  check.rank({"out", out}, {2});
  check.extent({"out", out}, 0, a.rows(), "a.shape[0]");
  check.extent({"out", out}, 1, a.cols(), "a.shape[1]");
  check.device({"out", out}, a.device(), "a");
  check.layout({"out", out});
  check.writable({"out", out}, {{"a.values", a.values()}, {"a.indices", a.indices()}});
}

}  // namespace detail
}  // namespace gossamer
