#include "cuda/backend.h"

namespace gossamer::python {

void Cuda::follow(py::handle array, Where where) {
  if (stream_) return;
  const auto answer = py::cast<py::tuple>(hooks().launch(array, where.op, where.argument));
  stream_ = py::cast<std::uintptr_t>(answer[0]);
  waits_ = py::cast<bool>(answer[1]);
}

void Cuda::wait(Device device) const {
  if (device.type == DeviceType::cuda) cuda::synchronize(device, handle());
}

Workspace::Workspace(py::handle like, std::int64_t bytes) {
  if (bytes == 0) return;
  memory_.emplace(Where{"workspace", "memory"}, like, Shape{bytes}, DType::u8);
  view_ = memory_->view();
}

}  // namespace gossamer::python
