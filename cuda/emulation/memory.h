#pragma once

// The emulation's device memory, and the checks of every load and store of a kernel.

#include <array>
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

/// Those of the asynchronous proxy are made by bulk copies and wgmma on a thread's behalf.
enum class Access { read, write, atomic, async_read, async_write };

/// Fails the launch if the running thread may not access these bytes. `site` is the caller's return
/// address, for the message; null for calls from within the emulation.
void check_access(const void* address, std::size_t bytes, Access access, const void* site);

/// Shared memory that an asynchronous copy of the running thread is going to fill, or has filled.
void begin_copy(const void* shared, std::size_t bytes);
void end_copy(const void* shared, std::size_t bytes);

// --- the asynchronous proxy, and what mbarriers order: see hopper.cpp ---

/// A block has at most so many mbarriers.
inline constexpr unsigned kMbarriers = 64;

/// Until when one knows what each thread did, and which copies of each mbarrier are complete.
struct Knowledge {
  std::array<std::uint32_t, 1024 + kMbarriers> until;
};

/// From now on, until the block ends, threads are ordered by mbarriers too.
void use_mbarriers();
/// Adds what the running thread did and knows to `to`.
void publish(Knowledge& to);
/// The running thread knows what `from` has.
void learn(const Knowledge& from);
/// Whether the running thread knows what `thread` did at `time`.
bool knows(unsigned thread, std::uint32_t time);
/// The time of now; a later call, or what a thread does later, has a later one.
std::uint32_t tick();

/// What the running thread wrote to shared memory is ready for the asynchronous proxy.
void fence_async();
/// Whether `thread` has called fence_async since `time`, and the running thread knows it.
bool fenced(unsigned thread, std::uint32_t time);

/// Shared memory that a bulk copy of an mbarrier is going to fill, or has filled now.
void begin_bulk(const void* shared, std::size_t bytes, unsigned mbarrier);
void end_bulk(const void* shared, std::size_t bytes, unsigned mbarrier);
/// Shared memory that an asynchronous instruction of the running thread reads until the end, from
/// which on it counts as read by the thread, or by all threads of its warp.
void begin_async_read(const void* shared, std::size_t bytes);
void end_async_read(const void* shared, std::size_t bytes, bool warp);
/// Shared memory that holds an mbarrier, and so is not accessed by ordinary instructions.
void keep_mbarrier(const void* shared, std::size_t bytes, bool keep);
[[nodiscard]] bool in_shared_memory(const void* address, std::size_t bytes);

/// A new block begins: none of its shared memory has been written.
void begin_block();
/// Bytes of static shared memory that the block wrote: it has as many at least.
[[nodiscard]] std::size_t static_shared_bytes() noexcept;
/// All threads of the block, or of one warp, have arrived at a barrier.
void order_block();
void order_warp(unsigned warp);

/// Names a code address, such as "kernel<float> (spmm.cuh:57)", as far as the machine's tools
/// allow.
std::string function_at(const void* address);
std::string line_at(const void* address);

}  // namespace gossamer::simt
