#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

#include "base/gil.h"
#include "base/hooks.h"
#include "base/import.h"
#include "base/output.h"
#include "gossamer/cuda.h"

namespace gossamer::python {

/// Where an operation is queued: the current stream of the framework of `like`.
class Launch {
 public:
  Launch(py::handle like, Where where);

  /// An operand, exported in the order of the stream.
  [[nodiscard]] Import read(py::handle array, Where where) const;
  [[nodiscard]] std::optional<Import> read_optional(py::handle array, Where where) const;
  /// `out`, or a new array of the framework of `like`.
  [[nodiscard]] Output output(const char* op, py::handle out, py::handle like, const Shape& shape,
                              DType dtype) const;

  [[nodiscard]] cuda::Stream stream() const noexcept;

  /// Calls `queue` without the interpreter lock. Frameworks that know nothing of streams then get
  /// their result when it is there.
  template <class F>
  void run(Device device, F&& queue) const {
    const GilRelease unlocked;
    queue();
    if (waits_ && device.type == DeviceType::cuda) cuda::synchronize(device, stream());
  }

 private:
  std::uintptr_t stream_;
  bool waits_;
};

/// Memory that an operation needs while it runs, from the framework of `like`. It is given back
/// when the operation is queued: its framework's allocator reuses memory in the stream's order.
class Workspace {
 public:
  Workspace(py::handle like, std::int64_t bytes);

  [[nodiscard]] const TensorView& view() const noexcept { return view_; }

 private:
  std::optional<Output> memory_;
  TensorView view_;
};

}  // namespace gossamer::python
