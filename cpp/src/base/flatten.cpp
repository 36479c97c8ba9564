#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "base/work.h"
#include "gossamer/tensor.h"

namespace gossamer {
using namespace detail;
namespace {

constexpr std::int64_t kTask = 65536;  // elements
constexpr std::int64_t kSide = 16;     // of the squares that are turned at once

/// A view as planes of [rows, cols] elements. Rows are what lies closest in memory, so that a
/// transposed array is read along its cache lines.
struct Planes {
  std::array<std::int64_t, kMaxRank> extents = {}, steps = {}, offsets = {};  // the other axes
  int rank = 0;
  std::int64_t rows = 1, row_step = 0, row_offset = 0;  // offsets are the result's steps
  std::int64_t cols = 1, col_step = 1;

  explicit Planes(const TensorView& view) {
    std::int64_t offset = 1;
    for (auto d = static_cast<std::size_t>(view.rank); d-- > 0; offset *= view.shape[d]) {
      if (view.shape[d] == 1) continue;
      const auto last = static_cast<std::size_t>(rank - 1);
      if (rank > 0 && view.strides[d] == steps[last] * extents[last]) {
        extents[last] *= view.shape[d];  // goes on where the axis further in ends
        continue;
      }
      const auto at = static_cast<std::size_t>(rank++);
      extents[at] = view.shape[d];
      steps[at] = view.strides[d];
      offsets[at] = offset;
    }
    if (rank == 0) return;
    cols = extents[0];
    col_step = steps[0];
    int closest = rank > 1 ? 1 : 0;
    for (int d = 2; d < rank; ++d) {
      if (size(d) < size(closest)) closest = d;
    }
    if (closest > 0) {
      const auto at = static_cast<std::size_t>(closest);
      rows = extents[at];
      row_step = steps[at];
      row_offset = offsets[at];
      remove(closest);
    }
    remove(0);
  }

  [[nodiscard]] std::int64_t count() const {
    std::int64_t n = 1;
    for (int d = 0; d < rank; ++d) n *= extents[static_cast<std::size_t>(d)];
    return n;
  }

 private:
  [[nodiscard]] std::int64_t size(int d) const {
    const std::int64_t step = steps[static_cast<std::size_t>(d)];
    return step < 0 ? -step : step;
  }
  void remove(int d) {
    --rank;
    for (auto i = static_cast<std::size_t>(d); i < static_cast<std::size_t>(rank); ++i) {
      extents[i] = extents[i + 1];
      steps[i] = steps[i + 1];
      offsets[i] = offsets[i + 1];
    }
  }
};

/// Rows [first, last) of a plane, in squares: what is read and what is written are whole lines.
template <class T>
void copy_rows(const Planes& planes, const T* from, T* to, std::int64_t first, std::int64_t last) {
  if (planes.col_step == 1) {
    for (std::int64_t r = first; r < last; ++r) {
      std::memcpy(to + r * planes.row_offset, from + r * planes.row_step,
                  static_cast<std::size_t>(planes.cols) * sizeof(T));
    }
    return;
  }
  T square[kSide][kSide];
  for (std::int64_t row = first; row < last; row += kSide) {
    const std::int64_t height = std::min(kSide, last - row);
    for (std::int64_t col = 0; col < planes.cols; col += kSide) {
      const std::int64_t width = std::min(kSide, planes.cols - col);
      for (std::int64_t c = 0; c < width; ++c) {
        const T* line = from + (col + c) * planes.col_step + row * planes.row_step;
        for (std::int64_t r = 0; r < height; ++r) square[r][c] = line[r * planes.row_step];
      }
      for (std::int64_t r = 0; r < height; ++r) {
        std::copy(square[r], square[r] + width, to + (row + r) * planes.row_offset + col);
      }
    }
  }
}

template <class T>
void flatten_as(const TensorView& view, T* out) {
  const Planes planes(view);
  const std::int64_t step =
      std::max<std::int64_t>(kTask / planes.cols / kSide, 1) * kSide;  // rows of a task
  const std::int64_t cuts = (planes.rows + step - 1) / step;
  for_tasks(planes.count() * cuts, static_cast<double>(view.numel()), [&](std::int64_t task) {
    const T* from = static_cast<const T*>(view.data);
    T* to = out;
    std::int64_t plane = task / cuts;
    for (std::size_t d = 0; d < static_cast<std::size_t>(planes.rank); ++d) {
      const std::int64_t i = plane % planes.extents[d];
      plane /= planes.extents[d];
      from += i * planes.steps[d];
      to += i * planes.offsets[d];
    }
    const std::int64_t first = task % cuts * step;
    copy_rows(planes, from, to, first, std::min(planes.rows, first + step));
  });
}

}  // namespace

void flatten(const TensorView& view, void* out) {
  if (view.numel() == 0) return;
  switch (size_of(view.dtype)) {
    case 8:
      return flatten_as(view, static_cast<std::uint64_t*>(out));
    case 4:
      return flatten_as(view, static_cast<std::uint32_t*>(out));
    case 2:
      return flatten_as(view, static_cast<std::uint16_t*>(out));
    default:
      return flatten_as(view, static_cast<std::uint8_t*>(out));
  }
}

}  // namespace gossamer
