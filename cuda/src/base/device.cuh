#pragma once

// The one header that device sources include: CUDA's own under nvcc, the emulation under the host
// compiler. It adds launch(), dynamic_shared() and check() to CUDA's names.

#ifdef GOSSAMER_EMULATED
#include "../../emulation/simt.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <cxxabi.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

#include "gossamer/error.h"

namespace gossamer::cuda {

/// Throws CudaError for a call that failed. The runtime keeps the error of a call until somebody
/// asks for it: a framework would report it of a later launch of its own.
[[noreturn]] inline void fail(const std::string& call, cudaError_t error) {
  static_cast<void>(cudaGetLastError());
  throw CudaError(call, cudaGetErrorName(error));
}

/// Throws CudaError if a call of the CUDA runtime failed.
inline void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) fail(call, error);
}

/// Whether GOSSAMER_CUDA_SYNC=1 asks to wait for every kernel, so that an error is reported where
/// it was made.
inline bool synchronous() {
  static const bool on = [] {
    const char* value = std::getenv("GOSSAMER_CUDA_SYNC");
    return value != nullptr && value[0] == '1';
  }();
  return on;
}

/// Whether work on `stream` is being captured into a CUDA graph and does not run now.
inline bool capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream, &status) == cudaSuccess) {
    return status != cudaStreamCaptureStatusNone;
  }
  static_cast<void>(cudaGetLastError());
  return false;
}

/// A kernel's name, for messages.
inline std::string kernel_name([[maybe_unused]] const void* kernel) {
#if CUDART_VERSION >= 12030
  const char* symbol = nullptr;
  if (cudaFuncGetName(&symbol, kernel) == cudaSuccess) {
    int status = 0;
    char* readable = abi::__cxa_demangle(symbol, nullptr, nullptr, &status);
    const std::string name = readable != nullptr ? readable : symbol;
    std::free(readable);
    return name;
  }
#endif
  return "a kernel";
}

/// Called after a launch. Throws CudaError if the launch failed, or, with GOSSAMER_CUDA_SYNC, if
/// the kernel did.
inline void finish_launch(const void* kernel, cudaError_t error, cudaStream_t stream) {
  if (error == cudaSuccess && synchronous() && !capturing(stream)) {
    error = cudaStreamSynchronize(stream);
  }
  if (error != cudaSuccess) fail("launch of " + kernel_name(kernel), error);
}

/// The block's dynamic shared memory, aligned to 128 bytes.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#ifdef GOSSAMER_EMULATED
  return static_cast<T*>(simt::dynamic_shared_memory());
#else
  extern __shared__ __align__(128) unsigned char gossamer_dynamic_shared[];
  return reinterpret_cast<T*>(gossamer_dynamic_shared);
#endif
}

/// Shared memory that a thread block gets without asking, static arrays and dynamic together.
inline constexpr std::size_t kDefaultSharedBytes = 48 * 1024;

/// Asks for dynamic shared memory of a kernel. What was asked for last holds for all threads of the
/// process, so the largest request of each kernel stands.
inline void ask_for_shared(const void* kernel, std::size_t bytes) {
  static std::mutex lock;
  static std::map<std::pair<int, const void*>, std::size_t> asked;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard guard(lock);
  std::size_t& most = asked[{device, kernel}];
  if (bytes <= most) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  most = bytes;
}

/// Queues kernel<<<grid, block, shared_bytes, stream>>>(args...). Does nothing for a grid without
/// blocks. Throws CudaError.
template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, Args&&... args) {
  static_assert(sizeof...(Parameters) == sizeof...(Args), "one argument for each parameter");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const auto* name = reinterpret_cast<const void*>(kernel);
  // Half is left for static arrays, of which no kernel that has dynamic memory has more.
  if (shared_bytes > kDefaultSharedBytes / 2) ask_for_shared(name, shared_bytes);
#ifdef GOSSAMER_EMULATED
  simt::Bound<std::remove_cv_t<Parameters>...> bound{kernel, {static_cast<Parameters>(args)...}};
  const cudaError_t error =
      simt::run({name, bound.call, &bound, sizeof(bound)}, grid, block, shared_bytes, stream);
#else
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(args)...);
#endif
  finish_launch(name, error, stream);
}

}  // namespace gossamer::cuda
