#include <algorithm>
#include <string>

#include "base/device.cuh"
#include "base/runtime.h"

namespace gossamer::cuda {

int device_count() noexcept {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  static_cast<void>(cudaGetLastError());
  return 0;
}

DeviceGuard::DeviceGuard(Device device) {
  int current = 0;
  check(cudaGetDevice(&current), "cudaGetDevice");
  if (current == device.index) return;
  check(cudaSetDevice(device.index), "cudaSetDevice");
  previous_ = current;
}

DeviceGuard::~DeviceGuard() {
  if (previous_ >= 0) static_cast<void>(cudaSetDevice(previous_));
}

void synchronize(Device device, Stream stream) {
  const DeviceGuard guard(device);
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

std::shared_ptr<void> allocate(Device device, std::int64_t bytes) {
  const DeviceGuard guard(device);
  void* data = nullptr;
  check(cudaMalloc(&data, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1))),
        "cudaMalloc");
  return {data, [](void* memory) { static_cast<void>(cudaFree(memory)); }};
}

void fill_zero(void* data, std::int64_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(data, 0, static_cast<std::size_t>(bytes), stream), "cudaMemsetAsync");
}

void fill_zero(const TensorView& to, Stream stream) {
  const DeviceGuard guard(to.device);
  fill_zero(to.data, to.numel() * size_of(to.dtype), stream);
}

void fill_ones(void* data, std::int64_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(data, 0xff, static_cast<std::size_t>(bytes), stream), "cudaMemsetAsync");
}

void copy(void* to, const void* from, std::int64_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(
      cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, stream),
      "cudaMemcpyAsync");
}

void copy_to_host(void* to, const void* from, std::int64_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

void copy_to_host(const TensorView& from, void* to, Stream stream) {
  if (!is_contiguous(from)) throw ValueError("copy_to_host: from is strided, expected one block");
  const DeviceGuard guard(from.device);
  require_waiting(stream, "copy_to_host", "a copy to the host");
  copy_to_host(to, from.data, from.numel() * size_of(from.dtype), stream);
}

void require_waiting(Stream stream, const char* op, const char* what) {
  if (!capturing(stream)) return;
  throw CudaError(op, std::string("cudaErrorStreamCaptureUnsupported: a CUDA graph is being "
                                  "captured, in which nothing can wait for ") +
                          what);
}

}  // namespace gossamer::cuda
