#pragma once

#include <cstdint>

#include "gossamer/cuda.h"

// What operations need of the CUDA runtime, except launches.

namespace gossamer::cuda {

/// Makes a device current until the end of the scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(Device device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = -1;  // -1: the device was current already
};

/// Queues a write of zeros.
void fill_zero(void* data, std::int64_t bytes, Stream stream);

/// Queues a write of bytes of 0xff.
void fill_ones(void* data, std::int64_t bytes, Stream stream);

/// Queues a copy within the device.
void copy(void* to, const void* from, std::int64_t bytes, Stream stream);

/// Copies to host memory and waits for it.
void copy_to_host(void* to, const void* from, std::int64_t bytes, Stream stream);

/// Throws CudaError if `stream` is being captured into a CUDA graph: a graph cannot contain that
/// the host waits for `what`. `op` is the operation that would wait.
void require_waiting(Stream stream, const char* op, const char* what);

}  // namespace gossamer::cuda
