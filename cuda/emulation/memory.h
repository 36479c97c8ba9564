#pragma once

// Device memory of the emulation, and what every load and store of a kernel is checked against.

#include <cstddef>
#include <cstdint>
#include <string>

namespace gossamer::simt {

/// Emulated device memory: aligned to 256 bytes, filled with 0xff (NaN in every float type),
/// between zones that no kernel may touch.
void* allocate(std::size_t bytes);
void release(void* memory) noexcept;

/// Lets kernels use memory that somebody else allocated, until it is taken back.
void admit(const void* memory, std::size_t bytes);
void dismiss(const void* memory) noexcept;

enum class Access { read, write, atomic };

/// Fails the launch where the running thread may not access these bytes. `site` is the caller's
/// return address, for the message; null inside the emulation.
void check_access(const void* address, std::size_t bytes, Access access, const void* site);

/// Shared bytes that an asynchronous copy of the running thread will fill, or has filled.
void begin_copy(const void* shared, std::size_t bytes);
void end_copy(const void* shared, std::size_t bytes);

/// Nothing of the block's shared memory is written yet.
void begin_block();
/// All threads have arrived at a barrier; or those of one warp.
void order_block();
void order_warp(unsigned warp);

/// "kernel<float> (spmm.cuh:57)" of a code address, as far as the machine's tools can tell.
std::string function_at(const void* address);
std::string line_at(const void* address);

}  // namespace gossamer::simt
