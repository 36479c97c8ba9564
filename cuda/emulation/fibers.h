#pragma once

// Inside the emulation: the running block and its threads.
//
// A template that device sources instantiate as well may be linked from there, with its loads and
// stores checked as a kernel's. What kernels call therefore uses templates over types of its own
// only, until fail() has ended the launch.

#include <array>
#include <string>
#include <vector>

#include "simt.h"

namespace gossamer::simt {

inline constexpr unsigned kLanes = 32;
inline constexpr std::uint32_t kAllLanes = 0xffffffffu;

// AddressSanitizer's frames are wide.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr std::size_t kStackBytes = 256 * 1024;
#else
inline constexpr std::size_t kStackBytes = 64 * 1024;
#endif

/// What a thread gives to and takes from a collective of its warp.
struct Exchange {
  std::array<std::uint32_t, 10> in = {};
  std::array<std::uint32_t, 4> out = {};
  int argument = 0;
  int width = 0;
};

/// What a collective does once the lanes of `mask` have arrived; the others are null.
using Combine = void (*)(std::uint32_t mask, const std::array<Exchange*, kLanes>& lanes);

struct PendingCopy {
  void* shared;
  const void* global;
  int bytes;
  bool valid;
  int group;
};

enum class Waiting { no, for_block, for_warp, ended };

struct Fiber {
  void* context = nullptr;  // where it goes on: its stack pointer, or an ucontext_t
  unsigned char* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  unsigned id = 0;             // threadIdx, linear
  uint3 index = {};
  Waiting waiting = Waiting::no;
  // Of the barrier or collective at which it waits:
  Where where = {};
  std::uint32_t mask = 0;
  Combine combine = nullptr;
  Exchange* exchange = nullptr;
  // Its asynchronous copies:
  std::vector<PendingCopy> copies;
  int group = 0;

  [[nodiscard]] unsigned lane() const noexcept { return id % kLanes; }
  [[nodiscard]] unsigned warp() const noexcept { return id / kLanes; }
};

// Null outside kernels, so also for the other threads of the process.
extern __thread Fiber* running __attribute__((tls_model("initial-exec")));

inline constexpr std::size_t kDynamicSharedBytes = 227 * 1024;
extern unsigned char dynamic_shared[kDynamicSharedBytes];

/// The launch under way.
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

/// Ends the launch with an error of the running thread, which never goes on; `what` is a function
/// that makes the text, with checks off.
[[noreturn]] void fail_with(cudaError_t error, std::string (*text)(void*), void* closure);
template <class Text>
[[noreturn]] void fail(cudaError_t error, Text text) {
  fail_with(error, [](void* closure) { return (*static_cast<Text*>(closure))(); }, &text);
}

/// Waits for the lanes of `mask` to call it from the same place and lets the last one combine.
void collective(std::uint32_t mask, Exchange& mine, Combine combine, const Where& where);

}  // namespace gossamer::simt
