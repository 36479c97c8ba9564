#include "cuda/launch.h"

namespace gossamer::python {

Launch::Launch(py::handle like, Where where) {
  const auto answer = py::cast<py::tuple>(hooks().launch(like, where.op, where.argument));
  stream_ = py::cast<std::uintptr_t>(answer[0]);
  waits_ = py::cast<bool>(answer[1]);
}

Import Launch::read(py::handle array, Where where) const {
  return Import::to_read(array, where, stream_);
}

std::optional<Import> Launch::read_optional(py::handle array, Where where) const {
  return python::read_optional(array, where, stream_);
}

Output Launch::output(const char* op, py::handle out, py::handle like, const Shape& shape,
                      DType dtype) const {
  return {op, out, like, shape, dtype, stream_};
}

cuda::Stream Launch::stream() const noexcept { return reinterpret_cast<cuda::Stream>(stream_); }

Workspace::Workspace(py::handle like, std::int64_t bytes) {
  if (bytes == 0) return;
  memory_.emplace(Where{"workspace", "memory"}, like, Shape{bytes}, DType::u8);
  view_ = memory_->view();
}

}  // namespace gossamer::python
