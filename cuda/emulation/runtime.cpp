// The calls of the CUDA runtime that the library makes, for two devices in the host's memory and
// streams on which all work is done at once. Each call is noted (trace.h).

#include <cuda_runtime_api.h>

#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "hopper.h"
#include "memory.h"
#include "trace.h"

namespace {

using gossamer::simt::keep_error;
using gossamer::simt::Kind;
using gossamer::simt::note;

constexpr int kDevices = 2;
thread_local int current_device = 0;
thread_local bool context_made = false;
thread_local cudaError_t kept_error = cudaSuccess;

constexpr int kSharedPerBlock = 48 * 1024;
constexpr int kSharedPerBlockOptIn = 227 * 1024;

/// The dynamic shared memory that was asked for last for kernels, on each device.
std::mutex asked_mutex;
std::map<std::pair<int, const void*>, int> asked;

/// Few multiprocessors, so that grids that are sized to the device stay small.
int attribute(cudaDeviceAttr kind) {
  switch (kind) {
    case cudaDevAttrMultiProcessorCount:
      return 4;
    case cudaDevAttrComputeCapabilityMajor:
      return 9;
    case cudaDevAttrComputeCapabilityMinor:
      return 0;
    case cudaDevAttrWarpSize:
      return 32;
    case cudaDevAttrMaxThreadsPerBlock:
      return 1024;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      return 2048;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return kSharedPerBlock;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return kSharedPerBlockOptIn;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return 228 * 1024;
    case cudaDevAttrL2CacheSize:
      return 1 << 20;
    default:
      return -1;
  }
}

/// A copy from or to the host's memory, which is pageable here, returns only when it is done.
Kind copies(cudaMemcpyKind kind) {
  return kind == cudaMemcpyDeviceToDevice ? Kind::queues : Kind::waits;
}

}  // namespace

bool gossamer::simt::may_have_shared(const void* kernel, std::size_t dynamic, std::size_t statics) {
  const std::lock_guard lock(asked_mutex);
  const auto found = asked.find({current_device, kernel});
  if (found == asked.end()) return dynamic + statics <= kSharedPerBlock;
  const auto limit = static_cast<std::size_t>(found->second);
  return dynamic <= limit && limit + statics <= kSharedPerBlockOptIn;
}

cudaError_t gossamer::simt::keep_error(cudaError_t error) {
  if (error != cudaSuccess) kept_error = error;
  return error;
}

bool gossamer::simt::has_context() { return context_made; }
void gossamer::simt::make_context() { context_made = true; }

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return keep_error(cudaErrorInvalidDevice);
  const int before = std::exchange(current_device, device);
  const cudaError_t answer = note("cudaSetDevice", Kind::asks);
  gossamer::simt::make_context();
  if (answer != cudaSuccess) current_device = before;
  return answer;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr kind, int device) {
  if (device < 0 || device >= kDevices) return keep_error(cudaErrorInvalidDevice);
  *value = attribute(kind);
  return keep_error(*value < 0 ? cudaErrorInvalidValue : cudaSuccess);
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  const cudaError_t answer = note("cudaMalloc", Kind::anywhere);
  if (answer != cudaSuccess) return answer;
  *memory = bytes == 0 ? nullptr : gossamer::simt::allocate(bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  const cudaError_t answer = note("cudaFree", Kind::anywhere);
  if (answer == cudaSuccess) gossamer::simt::release(memory);
  return answer;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  const cudaError_t answer = note("cudaMemcpy", Kind::anywhere);
  if (answer == cudaSuccess) std::memcpy(to, from, bytes);
  return answer;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const cudaError_t answer = note("cudaMemcpyAsync", copies(kind), stream);
  if (answer == cudaSuccess) std::memcpy(to, from, bytes);
  return answer;
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  const cudaError_t answer = note("cudaMemcpy2DAsync", copies(kind), stream);
  for (std::size_t i = 0; answer == cudaSuccess && i < height; ++i) {
    std::memcpy(static_cast<char*>(to) + i * to_pitch,
                static_cast<const char*>(from) + i * from_pitch, width);
  }
  return answer;
}
cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
  const cudaError_t answer = note("cudaMemset", Kind::anywhere);
  if (answer == cudaSuccess) std::memset(memory, value, bytes);
  return answer;
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  const cudaError_t answer = note("cudaMemsetAsync", Kind::queues, stream);
  if (answer == cudaSuccess) std::memset(memory, value, bytes);
  return answer;
}
cudaError_t cudaMemset2DAsync(void* memory, std::size_t pitch, int value, std::size_t width,
                              std::size_t height, cudaStream_t stream) {
  const cudaError_t answer = note("cudaMemset2DAsync", Kind::queues, stream);
  for (std::size_t i = 0; answer == cudaSuccess && i < height; ++i) {
    std::memset(static_cast<char*>(memory) + i * pitch, value, width);
  }
  return answer;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute kind, int value) {
  const bool shared = kind == cudaFuncAttributeMaxDynamicSharedMemorySize;
  if (shared && (value < 0 || value > kSharedPerBlockOptIn)) {
    return keep_error(cudaErrorInvalidValue);
  }
  const cudaError_t answer = note("cudaFuncSetAttribute", Kind::asks, nullptr, kernel);
  if (shared && answer == cudaSuccess) {
    const std::lock_guard lock(asked_mutex);
    asked[{current_device, kernel}] = value;
  }
  return answer;
}
cudaError_t cudaFuncGetName(const char** name, const void* kernel) {
  *name = gossamer::simt::kernel_name(kernel);
  return cudaSuccess;
}

#if CUDART_VERSION >= 12050
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
#else
cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** function, unsigned long long,
                                    cudaDriverEntryPointQueryResult* result) {
#endif
  const bool found = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = found ? reinterpret_cast<void*>(gossamer::simt::encode_tiled) : nullptr;
  *result = found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return note("cudaGetDriverEntryPoint", Kind::asks);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = gossamer::simt::capture_of(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return note("cudaStreamSynchronize", Kind::waits, stream);
}
cudaError_t cudaDeviceSynchronize() { return note("cudaDeviceSynchronize", Kind::anywhere); }
cudaError_t cudaGetLastError() { return std::exchange(kept_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return kept_error; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorMisalignedAddress:
      return "cudaErrorMisalignedAddress";
    case cudaErrorIllegalInstruction:
      return "cudaErrorIllegalInstruction";
    case cudaErrorLaunchOutOfResources:
      return "cudaErrorLaunchOutOfResources";
    case cudaErrorLaunchTimeout:
      return "cudaErrorLaunchTimeout";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureImplicit:
      return "cudaErrorStreamCaptureImplicit";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
    default:
      return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

}  // extern "C"
