#pragma once

// Internals of the emulation: the running block and its threads.
//
// A template that both the emulation and device sources instantiate exists once in the program, and
// the linker may keep the copy from the device sources, whose loads and stores are checked as a
// kernel's. Functions that kernels call therefore use templates with types of their own only, until
// fail() has ended the launch.

#include <array>
#include <string>
#include <vector>

#include "simt.h"

namespace gossamer::simt {

inline constexpr unsigned kLanes = 32;
inline constexpr std::uint32_t kAllLanes = 0xffffffffu;

// AddressSanitizer makes stack frames larger.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr std::size_t kStackBytes = 256 * 1024;
#else
inline constexpr std::size_t kStackBytes = 64 * 1024;
#endif

/// What a thread passes to a collective operation of its warp, and what it gets back.
struct Exchange {
  std::array<std::uint32_t, 13> in = {};
  std::array<std::uint32_t, 4> out = {};
  int argument = 0;
  int width = 0;
};

/// Computes the results of a collective once all lanes of `mask` have arrived; the other entries
/// are null.
using Combine = void (*)(std::uint32_t mask, const std::array<Exchange*, kLanes>& lanes);

struct PendingCopy {
  void* shared;
  const void* global;
  int bytes;
  bool valid;
  int group;
};

/// Registers of a thread that a wgmma is going to fill.
struct Accumulator {
  const void *first, *last;
};

/// When a thread called fence.proxy.async.
struct AsyncFence {
  std::uint32_t time;
};

enum class Waiting { no, for_block, for_warp, for_mbarrier, ended };

struct Fiber {
  void* context = nullptr;  // where it continues: its stack pointer, or an ucontext_t
  unsigned char* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  unsigned id = 0;             // threadIdx as one number
  uint3 index = {};
  Waiting waiting = Waiting::no;
  // About the barrier or collective at which it waits:
  Where where = {};
  std::uint32_t mask = 0;
  Combine combine = nullptr;
  Exchange* exchange = nullptr;
  // Its asynchronous copies:
  std::vector<PendingCopy> copies;
  int group = 0;
  // Of its asynchronous proxy:
  std::vector<Accumulator> accumulators;
  std::vector<AsyncFence> fences;
  int bulk_group = 0;
  const void* mbarrier = nullptr;  // at which it waits

  [[nodiscard]] unsigned lane() const noexcept { return id % kLanes; }
  [[nodiscard]] unsigned warp() const noexcept { return id / kLanes; }
};

// Null outside kernels, and so also in the other threads of the process.
extern __thread Fiber* running __attribute__((tls_model("initial-exec")));

// Aligned to 128 bytes and no more, as dynamic shared memory may be on hardware.
inline constexpr std::size_t kDynamicSharedBytes = 227 * 1024;
extern unsigned char* const dynamic_shared;

/// The launch that is running.
struct Launch {
  Kernel kernel = {};
  dim3 grid, block;
  uint3 block_index = {};
  std::size_t shared_bytes = 0;
};
extern Launch launch;

/// "thread (3, 0, 0)"
std::string name_of(const Fiber& fiber);
/// "csr.cuh:57"
std::string name_of(const Where& where);

/// Ends the launch with an error of the running thread, which does not continue. `text` makes the
/// message, with checks switched off.
[[noreturn]] void fail_with(cudaError_t error, std::string (*text)(void*), void* closure);
template <class Text>
[[noreturn]] void fail(cudaError_t error, Text text) {
  fail_with(error, [](void* closure) { return (*static_cast<Text*>(closure))(); }, &text);
}

/// Waits until resume() is called for the running thread.
void wait(Waiting reason, const Where& where);
void resume(Fiber& fiber);
/// The threads of the running block, in their order.
std::vector<Fiber>& fibers();
std::uint64_t random_number();

// What hopper.cpp does asynchronously: `work` is any number. Nothing is left when it returns false.
bool do_async_work(std::uint64_t work);
bool async_work_left() noexcept;
void begin_async_block();
/// The running thread has returned; `last`: as the last one of the block.
void end_async_thread(bool last);
/// What the thread waits for at its mbarrier, for messages.
std::string mbarrier_state(const Fiber& fiber);

/// Waits until all lanes of `mask` have called it from the same place; the last one runs `combine`.
void collective(std::uint32_t mask, Exchange& mine, Combine combine, const Where& where);

}  // namespace gossamer::simt
