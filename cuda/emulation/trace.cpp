#include "trace.h"

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <sstream>
#include <string>

#include "memory.h"

namespace gossamer::simt {
namespace {

struct State {
  std::mutex lock;
  bool on = false;
  std::ostringstream calls;
  std::string read;  // the text that the last reader got
  std::map<std::string, cudaError_t> failures;
  std::map<const void*, std::string> names;
  cudaStream_t captured = nullptr;
  bool held = true;
};

State& state() {
  static State state;
  return state;
}

thread_local bool aside = false;

bool is_legacy(cudaStream_t stream) { return stream == nullptr || stream == cudaStreamLegacy; }

/// The rules of cudaStreamCaptureModeGlobal for a stream that the legacy stream waits for. Copies
/// between the host's pageable memory and a device count as waiting.
cudaError_t capture_rule(const State& s, Kind kind, cudaStream_t stream) {
  if (s.captured == nullptr || kind == Kind::asks) return cudaSuccess;
  if (kind == Kind::anywhere) return cudaErrorStreamCaptureUnsupported;
  if (is_legacy(stream)) return cudaErrorStreamCaptureImplicit;
  if (stream != s.captured) return cudaSuccess;
  if (kind == Kind::waits) return cudaErrorStreamCaptureUnsupported;
  return s.held ? cudaSuccess : cudaErrorStreamCaptureInvalidated;
}

}  // namespace

cudaError_t note(const char* call, Kind kind, cudaStream_t stream, const void* kernel) {
  if (aside) return cudaSuccess;
  if (kind != Kind::asks) make_context();
  int device = 0;
  static_cast<void>(cudaGetDevice(&device));
  State& s = state();
  const std::lock_guard guard(s.lock);
  if (s.on) {
    s.calls << call << ' ' << reinterpret_cast<std::uintptr_t>(stream) << ' ' << device << ' '
            << reinterpret_cast<std::uintptr_t>(kernel) << '\n';
  }
  if (const auto failure = s.failures.find(call); failure != s.failures.end()) {
    const cudaError_t error = failure->second;
    s.failures.erase(failure);
    return keep_error(error);
  }
  const cudaError_t answer = capture_rule(s, kind, stream);
  if (answer != cudaSuccess) s.held = false;
  return keep_error(answer);
}

cudaStreamCaptureStatus capture_of(cudaStream_t stream) {
  State& s = state();
  const std::lock_guard guard(s.lock);
  if (s.captured == nullptr || stream != s.captured) return cudaStreamCaptureStatusNone;
  return s.held ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusInvalidated;
}

const char* kernel_name(const void* kernel) {
  State& s = state();
  const std::lock_guard guard(s.lock);
  const auto [name, added] = s.names.try_emplace(kernel);
  if (added) name->second = function_at(kernel);
  return name->second.c_str();
}

}  // namespace gossamer::simt

#define GOSSAMER_TEST extern "C" [[gnu::visibility("default"), gnu::used]]

using gossamer::simt::State;
using gossamer::simt::state;

GOSSAMER_TEST void gossamer_emulation_trace(int on) {
  State& s = state();
  const std::lock_guard guard(s.lock);
  s.on = on != 0;
  s.calls.str("");
  s.failures.clear();
}

GOSSAMER_TEST const char* gossamer_emulation_calls() {
  State& s = state();
  const std::lock_guard guard(s.lock);
  s.read = s.calls.str();
  return s.read.c_str();
}

GOSSAMER_TEST const char* gossamer_emulation_kernel(const void* kernel) {
  return gossamer::simt::kernel_name(kernel);
}

GOSSAMER_TEST void gossamer_emulation_fail(const char* call, int error) {
  State& s = state();
  const std::lock_guard guard(s.lock);
  s.failures[call] = static_cast<cudaError_t>(error);
}

GOSSAMER_TEST int gossamer_emulation_capture(void* stream) {
  State& s = state();
  const std::lock_guard guard(s.lock);
  const bool held = s.held;
  s.captured = static_cast<cudaStream_t>(stream);
  s.held = true;
  return held ? 1 : 0;
}

GOSSAMER_TEST int gossamer_emulation_device(int index) {
  int device = index;
  if (index >= 0) {
    static_cast<void>(cudaSetDevice(index));
  } else {
    static_cast<void>(cudaGetDevice(&device));
  }
  return device;
}

GOSSAMER_TEST int gossamer_emulation_last_error() { return cudaGetLastError(); }

GOSSAMER_TEST void gossamer_emulation_aside(int on) { gossamer::simt::aside = on != 0; }

GOSSAMER_TEST void* gossamer_emulation_allocate(std::size_t bytes) {
  return gossamer::simt::allocate(bytes);
}

GOSSAMER_TEST void gossamer_emulation_release(void* memory) { gossamer::simt::release(memory); }
