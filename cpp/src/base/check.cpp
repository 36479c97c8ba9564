#include "gossamer/detail/check.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace gossamer::detail {
namespace {

struct Extent {
  std::intptr_t begin, end;
};

/// The bytes between the first and the last element of a view.
Extent bytes_of(const TensorView& view) {
  auto low = reinterpret_cast<std::intptr_t>(view.data);
  std::intptr_t high = low;
  for (int d = 0; d < view.rank; ++d) {
    const auto i = static_cast<std::size_t>(d);
    const std::int64_t span = (view.shape[i] - 1) * view.strides[i] * size_of(view.dtype);
    (span < 0 ? low : high) += span;
  }
  return {low, high + size_of(view.dtype)};
}

/// Two matrices of one row stride may lie side by side in a larger one.
bool disjoint_columns(const TensorView& a, const TensorView& b) {
  if (a.rank != 2 || b.rank != 2 || a.shape[0] < 2 || b.shape[0] < 2) return false;
  const std::int64_t pitch = a.strides[0] * size_of(a.dtype);
  if (pitch <= 0 || pitch != b.strides[0] * size_of(b.dtype)) return false;
  const std::int64_t width_a = a.shape[1] * size_of(a.dtype);
  const std::int64_t width_b = b.shape[1] * size_of(b.dtype);
  const auto distance =
      reinterpret_cast<std::intptr_t>(b.data) - reinterpret_cast<std::intptr_t>(a.data);
  const std::int64_t offset = ((distance % pitch) + pitch) % pitch;
  return offset >= width_a && offset + width_b <= pitch;
}

bool overlap(const TensorView& a, const TensorView& b) {
  if (a.numel() == 0 || b.numel() == 0) return false;
  const Extent x = bytes_of(a), y = bytes_of(b);
  return x.begin < y.end && y.begin < x.end && !disjoint_columns(a, b);
}

std::string number(std::int64_t n) { return std::to_string(n); }

/// The last of the leading axes that forms no single one with those behind it; -1 if there is none.
int axis_apart(const TensorView& view) {
  if (view.numel() == 0) return -1;
  std::int64_t rows = 1, stride = 1;
  for (int d = view.rank - 2; d >= 0; --d) {
    const auto axis = static_cast<std::size_t>(d);
    if (view.shape[axis] == 1) continue;
    if (rows == 1) {
      stride = view.strides[axis];
    } else if (view.strides[axis] != stride * rows) {
      return d;
    }
    rows *= view.shape[axis];
  }
  return -1;
}

}  // namespace

void Checker::value_error(const std::string& text) const {
  throw ValueError(std::string(op_) + ": " + text);
}

void Checker::type_error(const std::string& text) const {
  throw TypeError(std::string(op_) + ": " + text);
}

void Checker::not_implemented(const std::string& text) const {
  throw NotImplementedError(std::string(op_) + ": " + text);
}

void Checker::dtype(const Argument& argument, DType dtype, const char* like) const {
  if (argument.view.dtype == dtype) return;
  // What is of a type of its own, as lengths and sums are, is like none of the arguments.
  const std::string_view name = name_of(dtype);
  const std::string expected =
      name == like ? like : std::string(like) + ".dtype = " + name_of(dtype);
  type_error(std::string(argument.name) + ".dtype is " + name_of(argument.view.dtype) +
             ", expected " + expected);
}

void Checker::floating(const Argument& argument) const {
  if (is_floating(argument.view.dtype)) return;
  type_error(std::string(argument.name) + ".dtype is " + name_of(argument.view.dtype) +
             ", expected float32, float64, float16 or bfloat16");
}

void Checker::index(const Argument& argument) const {
  if (argument.view.dtype == DType::i32 || argument.view.dtype == DType::i64) return;
  type_error(std::string(argument.name) + ".dtype is " + name_of(argument.view.dtype) +
             ", expected int32 or int64");
}

void Checker::mask(const Argument& argument) const {
  if (argument.view.dtype == DType::boolean || argument.view.dtype == DType::u8) return;
  type_error(std::string(argument.name) + ".dtype is " + name_of(argument.view.dtype) +
             ", expected bool or uint8");
}

void Checker::device(const Argument& argument, Device device, const char* like) const {
  if (!(argument.view.device == device)) {
    value_error(std::string(argument.name) + " is on " + to_string(argument.view.device) +
                ", expected " + like + "'s device " + to_string(device));
  }
  if (device.type != backend_) {
    not_implemented(std::string(argument.name) + " is on " + to_string(device) +
                    ", which this backend has no kernels for");
  }
}

void Checker::extent(const Argument& argument, int axis, std::int64_t expected,
                     const char* what) const {
  const std::int64_t got = argument.view.shape[static_cast<std::size_t>(axis)];
  if (got == expected) return;
  value_error(std::string(argument.name) + ".shape[" + number(axis) + "] is " + number(got) +
              ", expected " + what + " = " + number(expected));
}

void Checker::rank(const Argument& argument, std::initializer_list<int> ranks) const {
  std::string wanted;
  for (const int rank : ranks) {
    if (argument.view.rank == rank) return;
    wanted += (wanted.empty() ? "" : " or ") + number(rank);
  }
  value_error(std::string(argument.name) + ".ndim is " + number(argument.view.rank) +
              ", expected " + wanted);
}

void Checker::layout(const Argument& argument) const {
  const TensorView& view = argument.view;
  if (view.numel() == 0) return;
  for (int d = 0; d < view.rank; ++d) {
    const auto i = static_cast<std::size_t>(d);
    if (view.shape[i] == 1) continue;
    if (d + 1 == view.rank && view.strides[i] != 1) {
      value_error(std::string(argument.name) + ".strides[-1] is " + number(view.strides[i]) +
                  ", expected 1 (make it contiguous)");
    }
    if (view.strides[i] < 0) {
      value_error(std::string(argument.name) + ".strides[" + number(d) + "] is " +
                  number(view.strides[i]) + ", expected no negative stride");
    }
  }
}

void Checker::contiguous(const Argument& argument) const {
  layout(argument);
  const TensorView& view = argument.view;
  std::int64_t inner = 1;
  for (int d = view.rank - 1; d >= 0 && view.numel() > 0; --d) {
    const auto i = static_cast<std::size_t>(d);
    if (view.shape[i] != 1 && view.strides[i] != inner) {
      value_error(std::string(argument.name) + ".strides[" + number(d) + "] is " +
                  number(view.strides[i]) + ", expected " + number(inner) +
                  " (make it contiguous)");
    }
    inner *= view.shape[i];
  }
}

void Checker::same_shape(const Argument& argument, const Argument& like) const {
  const TensorView &a = argument.view, &b = like.view;
  if (a.rank == b.rank && std::equal(a.shape.begin(), a.shape.begin() + a.rank, b.shape.begin())) {
    return;
  }
  value_error(std::string(argument.name) + ".shape is " + shape_string(a) + ", expected " +
              like.name + ".shape = " + shape_string(b));
}

void Checker::shape(const Argument& argument, std::initializer_list<std::int64_t> expected) const {
  const TensorView& view = argument.view;
  if (view.rank == static_cast<int>(expected.size()) &&
      std::equal(expected.begin(), expected.end(), view.shape.begin())) {
    return;
  }
  TensorView wanted;
  for (const std::int64_t n : expected) wanted.shape[static_cast<std::size_t>(wanted.rank++)] = n;
  value_error(std::string(argument.name) + ".shape is " + shape_string(view) + ", expected " +
              shape_string(wanted));
}

TensorView Checker::rows(const Argument& argument) const {
  const TensorView& view = argument.view;
  if (const int axis = axis_apart(view); axis >= 0) {
    value_error(std::string(argument.name) + ".strides[" + std::to_string(axis) + "] is " +
                number(view.strides[static_cast<std::size_t>(axis)]) +
                ", expected leading axes that form one (make it contiguous)");
  }
  const auto last = static_cast<std::size_t>(view.rank > 0 ? view.rank - 1 : 0);
  std::int64_t rows = 1, stride = view.rank > 0 ? view.shape[last] : 1;
  for (std::size_t d = last; d-- > 0;) {
    if (view.shape[d] == 1) continue;
    if (rows == 1) stride = view.strides[d];
    rows *= view.shape[d];
  }
  TensorView matrix = view;
  matrix.rank = 2;
  matrix.shape = {rows, view.rank > 0 ? view.shape[last] : 1};
  matrix.strides = {stride, 1};
  return matrix;
}

TensorView Checker::tokens(const Argument& argument) const {
  const bool kept = backend_ == DeviceType::cpu && axis_apart(argument.view) >= 0;
  return kept ? argument.view : rows(argument);
}

void Checker::workspace(const TensorView& workspace, Device device, std::int64_t bytes) const {
  if (bytes == 0) return;
  const std::int64_t size = workspace.numel() * size_of(workspace.dtype);
  if (size < bytes) {
    value_error("workspace has " + number(size) + " bytes, expected " + number(bytes));
  }
  this->device({"workspace", workspace}, device, "the operands");
  if (!is_contiguous(workspace) || workspace.readonly ||
      reinterpret_cast<std::uintptr_t>(workspace.data) % 16 != 0) {
    value_error("workspace is strided, read-only or unaligned, expected plain memory at 16 bytes");
  }
}

void Checker::writable(const Argument& out, std::initializer_list<Argument> inputs) const {
  if (out.view.readonly)
    value_error(std::string(out.name) + " is read-only, expected a writable array");
  // Axes by their strides, the smallest first: each must step over all that those before it span.
  std::array<std::size_t, kMaxRank> axes = {};
  std::size_t count = 0;
  for (auto d = static_cast<std::size_t>(out.view.rank); d-- > 0 && out.view.numel() > 0;) {
    if (out.view.shape[d] == 1) continue;
    std::size_t at = count++;
    for (; at > 0 && out.view.strides[axes[at - 1]] > out.view.strides[d]; --at) {
      axes[at] = axes[at - 1];
    }
    axes[at] = d;
  }
  std::int64_t inner = 1;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t d = axes[i];
    if (out.view.strides[d] < inner) {
      value_error(std::string(out.name) + ".strides[" + std::to_string(d) + "] is " +
                  number(out.view.strides[d]) + ", expected no element to be stored twice");
    }
    inner = out.view.strides[d] * out.view.shape[d];
  }
  for (const Argument& input : inputs) {
    if (overlap(out.view, input.view)) {
      value_error(std::string(out.name) + " overlaps " + input.name + ", expected separate memory");
    }
  }
}

}  // namespace gossamer::detail
