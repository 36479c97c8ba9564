#pragma once

// The emulation's device memory, and the checks of every load and store of a kernel.

#include <cstddef>
#include <cstdint>
#include <string>

namespace gossamer::simt {

/// Allocates emulated device memory: aligned to 256 bytes, filled with 0xff (NaN in every float
/// type), with a zone on either side that no kernel may access.
void* allocate(std::size_t bytes);
void release(void* memory) noexcept;

/// Lets kernels use memory that was allocated elsewhere, until it is taken back.
void admit(const void* memory, std::size_t bytes);
void dismiss(const void* memory) noexcept;

enum class Access { read, write, atomic };

/// Fails the launch if the running thread may not access these bytes. `site` is the caller's return
/// address, for the message; null for calls from within the emulation.
void check_access(const void* address, std::size_t bytes, Access access, const void* site);

/// Shared memory that an asynchronous copy of the running thread is going to fill, or has filled.
void begin_copy(const void* shared, std::size_t bytes);
void end_copy(const void* shared, std::size_t bytes);

/// A new block begins: none of its shared memory has been written.
void begin_block();
/// All threads of the block, or of one warp, have arrived at a barrier.
void order_block();
void order_warp(unsigned warp);

/// Names a code address, such as "kernel<float> (spmm.cuh:57)", as far as the machine's tools
/// allow.
std::string function_at(const void* address);
std::string line_at(const void* address);

}  // namespace gossamer::simt
