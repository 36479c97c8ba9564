#pragma once

// What was asked of the emulated runtime, for tests of how the library uses it: each call is noted,
// and a test may have a call fail or capture a stream, as into a CUDA graph.
//
// Tests reach it by C functions of the emulated extension:
//   gossamer_emulation_trace(on)         forgets all calls; notes those that follow, or none
//   gossamer_emulation_calls()           a line each: "call stream device kernel"
//   gossamer_emulation_kernel(address)   the name of a kernel in those lines
//   gossamer_emulation_fail(call, error) the next call of this name fails
//   gossamer_emulation_capture(stream)   begins a capture; null ends it and says whether it held
//   gossamer_emulation_device(index)     makes a device current; -1 says which one is
//   gossamer_emulation_last_error()      what cudaGetLastError returns to this thread
//   gossamer_emulation_aside(on)         this thread is a framework at work: nothing is noted
//   gossamer_emulation_allocate(bytes)   memory of a framework's, which notes nothing
//   gossamer_emulation_release(memory)   takes it back

#include <driver_types.h>

#include <cstddef>

namespace gossamer::simt {

/// What a call does, as far as it matters to a capture.
enum class Kind {
  asks,     // asks about devices and streams
  queues,   // queues work on a stream
  waits,    // waits for a stream
  anywhere  // allocates, frees, or waits for a device
};

/// Notes a call. Returns its result, as far as that does not depend on its arguments.
cudaError_t note(const char* call, Kind kind, cudaStream_t stream = nullptr,
                 const void* kernel = nullptr);

/// What cudaStreamIsCapturing reports.
cudaStreamCaptureStatus capture_of(cudaStream_t stream);

/// Keeps the result of a call for cudaGetLastError, if it is an error. Returns it.
cudaError_t keep_error(cudaError_t error);

/// Whether the thread has a context, which functions of the driver use: it has made a device
/// current, or has called a function of the runtime that works on one.
bool has_context();
void make_context();

/// Whether a thread block of this kernel on the current device may have so much dynamic shared
/// memory beside its static arrays: both together 48 KiB, or as much as was asked for.
bool may_have_shared(const void* kernel, std::size_t dynamic, std::size_t statics);

/// A name that lives as long as the process.
const char* kernel_name(const void* kernel);

}  // namespace gossamer::simt
