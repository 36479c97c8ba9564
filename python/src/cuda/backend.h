#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <type_traits>

#include "base/call.h"
#include "base/gil.h"
#include "gossamer/cuda.h"

namespace gossamer::python {

/// Memory that an operation on a GPU needs while it runs, from the framework of `like`. It is given
/// back when the operation is queued: its framework's allocator reuses memory in the stream's
/// order.
class Workspace {
 public:
  Workspace(py::handle like, std::int64_t bytes);

  [[nodiscard]] const TensorView& view() const noexcept { return view_; }

 private:
  std::optional<Output> memory_;
  TensorView view_;
};

/// The backend for GPUs: work is queued on the current stream of the framework of the first array.
class Cuda {
 public:
  static constexpr DeviceType kDevice = DeviceType::cuda;

  void follow(py::handle array, Where where);
  [[nodiscard]] MaybeStream stream() const noexcept { return stream_; }

  template <class F, class... Operands>
  [[nodiscard]] Workspace workspace(py::handle like, F&& bytes, const Operands&... operands) const {
    return {like, bytes(operands...)};
  }

  /// Calls operation(stream).
  template <class F>
  auto run(Device device, F&& operation) const {
    return queue(device, [&] { return operation(handle()); });
  }
  /// Calls operation(workspace, stream).
  template <class F>
  auto run(Device device, const Workspace& workspace, F&& operation) const {
    return queue(device, [&] { return operation(workspace.view(), handle()); });
  }

 private:
  [[nodiscard]] cuda::Stream handle() const noexcept {
    return reinterpret_cast<cuda::Stream>(stream_.value_or(0));
  }

  /// Frameworks that know nothing of streams get their result when it is there.
  template <class F>
  auto queue(Device device, F&& operation) const {
    const GilRelease unlocked;
    if constexpr (std::is_void_v<decltype(operation())>) {
      operation();
      if (waits_) wait(device);
    } else {
      auto result = operation();
      if (waits_) wait(device);
      return result;
    }
  }
  void wait(Device device) const;

  MaybeStream stream_;
  bool waits_ = false;
};

}  // namespace gossamer::python
