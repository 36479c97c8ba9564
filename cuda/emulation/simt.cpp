// Threads as fibers: one block runs at a time, and its threads are switched where they wait for
// each other.

#include "simt.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>

#include "fibers.h"
#include "gossamer/error.h"
#include "memory.h"
#include "trace.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// The addresses that the linker gives to the ends of the compiler's notes; see __launch_bounds__.
extern "C" [[gnu::weak, gnu::visibility(
                            "hidden")]] const std::uintptr_t __start___patchable_function_entries[];
extern "C" [[gnu::weak,
             gnu::visibility("hidden")]] const std::uintptr_t __stop___patchable_function_entries[];

namespace gossamer::simt {

__thread Fiber* running = nullptr;
Launch launch;
alignas(1024) static unsigned char shared_storage[128 + kDynamicSharedBytes];
unsigned char* const dynamic_shared = shared_storage + 128;

namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr std::size_t kGuardBytes = 4096;

/// A stack for each thread that a block can have, with a page below it that faults.
unsigned char* stacks() {
  static unsigned char* const memory = [] {
    constexpr std::size_t bytes = kMaxThreads * (kStackBytes + kGuardBytes);
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw CudaError("emulation", "no memory for stacks");
    auto* first = static_cast<unsigned char*>(mapped);
    for (std::size_t i = 0; i < kMaxThreads; ++i) {
      mprotect(first + i * (kStackBytes + kGuardBytes), kGuardBytes, PROT_NONE);
    }
    return first;
  }();
  return memory;
}

struct Warp {
  std::uint32_t waiting = 0;  // lanes that wait at a collective
};

/// Which of the threads that can run is the next.
enum class Order { oldest, youngest, any };

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::deque<Fiber*> ready;
  Order order = Order::any;
  unsigned ended = 0, at_barrier = 0;
  int votes = 0, verdict = 0;
  Vote vote = Vote::none;
  const Fiber* first_at_barrier = nullptr;
  std::string failure;
  cudaError_t error = cudaSuccess;
};
Block block;
Fiber host;  // the context that launched the kernel
std::uint64_t random_state = 1;

}  // namespace

std::uint64_t random_number() {  // splitmix64
  std::uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
std::vector<Fiber>& fibers() { return block.fibers; }

namespace {

std::uint64_t seed() {
  const char* value = std::getenv("GOSSAMER_EMULATION_SEED");
  return value == nullptr ? 1 : std::strtoull(value, nullptr, 10);
}

// --- switching ---

std::string triple(uint3 index) {
  char text[48];
  std::snprintf(text, sizeof(text), "(%u, %u, %u)", index.x, index.y, index.z);
  return text;
}

#if defined(__x86_64__)
extern "C" void gossamer_simt_switch(void** from, void* to);
// Saves the callee-saved registers on the stack that is left and restores them from the other one,
// without a system call.
asm(R"(
.text
.p2align 4
.hidden gossamer_simt_switch
.globl gossamer_simt_switch
.type gossamer_simt_switch, @function
gossamer_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gossamer_simt_switch, .-gossamer_simt_switch
)");

void prepare(Fiber& fiber, void (*entry)()) {
  auto** top = reinterpret_cast<void**>(fiber.stack + kStackBytes);
  top[-1] = nullptr;                               // return address of `entry`, which never returns
  top[-2] = reinterpret_cast<void*>(entry);        // where the first switch returns to
  for (int i = -8; i < -2; ++i) top[i] = nullptr;  // the six registers
  fiber.context = top - 8;
}

void switch_context(Fiber& from, Fiber& to) { gossamer_simt_switch(&from.context, to.context); }
#else
ucontext_t* context_of(Fiber& fiber) {
  if (fiber.context == nullptr) fiber.context = new ucontext_t;
  return static_cast<ucontext_t*>(fiber.context);
}

void prepare(Fiber& fiber, void (*entry)()) {
  ucontext_t* context = context_of(fiber);
  getcontext(context);
  context->uc_stack = {.ss_sp = fiber.stack, .ss_flags = 0, .ss_size = kStackBytes};
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
}

void switch_context(Fiber& from, Fiber& to) { swapcontext(context_of(from), context_of(to)); }
#endif

#if defined(__SANITIZE_ADDRESS__)
const void* host_stack = nullptr;
std::size_t host_stack_bytes = 0;

void before_switch(Fiber& from, const Fiber& to, bool for_ever) {
  const bool home = &to == &host;
  __sanitizer_start_switch_fiber(for_ever ? nullptr : &from.fake_stack,
                                 home ? host_stack : to.stack,
                                 home ? host_stack_bytes : kStackBytes);
}
void after_switch(const Fiber& self) {
  __sanitizer_finish_switch_fiber(self.fake_stack, nullptr, nullptr);
}
void first_entry() {
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (host_stack_bytes == 0) host_stack = bottom, host_stack_bytes = bytes;
}
void forget_host_stack() { host_stack_bytes = 0; }
void clean(const Fiber& fiber) { __asan_unpoison_memory_region(fiber.stack, kStackBytes); }

/// AddressSanitizer ends the process; this says before where the kernel was.
void report(const char*) {
  if (running == nullptr) return;
  const std::string text = "kernel " + function_at(launch.kernel.function) + ", block " +
                           triple(launch.block_index) + ", " + name_of(*running) + "\n";
  std::fputs(text.c_str(), stderr);
}
#else
void before_switch(Fiber&, const Fiber&, bool) {}
void after_switch(const Fiber&) {}
void first_entry() {}
void forget_host_stack() {}
void clean(const Fiber&) {}
#endif

/// Runs `to` until somebody switches back; with `for_ever`, nobody does.
void switch_to(Fiber& to, bool for_ever = false) {
  Fiber& from = running == nullptr ? host : *running;
  before_switch(from, to, for_ever);
  running = &to == &host ? nullptr : &to;
  switch_context(from, to);
  after_switch(from);
}

/// Whether asynchronous work is done now though threads could run.
bool now_or_later() {
  if (block.order == Order::any) return random_number() % 2 == 0;
  return block.order == Order::oldest;
}

/// The thread to run next; the host if none can run, because all have ended or wait for each other.
Fiber& next() {
  while (async_work_left() && (block.ready.empty() || now_or_later())) {
    do_async_work(random_number());
  }
  if (block.ready.empty()) return host;
  std::size_t pick = block.ready.size() - 1;
  if (block.order == Order::oldest) pick = 0;
  if (block.order == Order::any) pick = random_number() % block.ready.size();
  Fiber* fiber = block.ready[pick];
  if (pick == 0) {
    block.ready.pop_front();
  } else {
    block.ready[pick] = block.ready.back();
    block.ready.pop_back();
  }
  return *fiber;
}

}  // namespace

void resume(Fiber& fiber) {
  fiber.waiting = Waiting::no;
  block.ready.push_back(&fiber);
}

void wait(Waiting reason, const Where& where) {
  running->waiting = reason;
  running->where = where;
  switch_to(next());
}

namespace {

void thread_main() {
  first_entry();
  launch.kernel.call(launch.kernel.bound);
  end_async_thread(block.ended + 1 == block.fibers.size());
  running->waiting = Waiting::ended;
  ++block.ended;
  switch_to(next(), true);
}

// --- what threads wait at ---

/// Lists which threads wait where, when none can continue.
std::string deadlock() {
  std::string text = "threads wait for each other:";
  std::vector<std::pair<std::string, std::pair<unsigned, const Fiber*>>> groups;
  for (const Fiber& fiber : block.fibers) {
    std::string state = " returned";
    if (fiber.waiting == Waiting::for_block) state = " at the barrier of " + name_of(fiber.where);
    if (fiber.waiting == Waiting::for_warp) {
      char mask[16];
      std::snprintf(mask, sizeof(mask), "0x%08x", fiber.mask);
      state = " at " + name_of(fiber.where) + " for the lanes " + mask;
    }
    if (fiber.waiting == Waiting::for_mbarrier) {
      state = " at " + name_of(fiber.where) + " for " + mbarrier_state(fiber);
    }
    auto same = [&](const auto& group) { return group.first == state; };
    auto group = std::find_if(groups.begin(), groups.end(), same);
    if (group == groups.end()) {
      groups.push_back({state, {1, &fiber}});
    } else {
      ++group->second.first;
    }
  }
  for (const auto& [state, members] : groups) {
    text += (members.second == &block.fibers.front() ? " " : "; ") + std::to_string(members.first) +
            state + " (" + name_of(*members.second) + ")";
  }
  return text;
}

void finish_barrier() {
  for (Fiber& fiber : block.fibers) {
    if (&fiber != running) resume(fiber);
  }
  const int all = static_cast<int>(block.fibers.size());
  block.verdict = block.votes;
  if (block.vote == Vote::all) block.verdict = block.votes == all;
  if (block.vote == Vote::any) block.verdict = block.votes != 0;
  block.at_barrier = 0;
  block.votes = 0;
  order_block();
}

bool same_place(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         std::strcmp(a.file_name(), b.file_name()) == 0;
}

// --- what a warp does together ---

template <class Visit>
void for_lanes(std::uint32_t mask, const Visit& visit) {
  for (; mask != 0; mask &= mask - 1) visit(static_cast<unsigned>(std::countr_zero(mask)));
}

std::uint64_t value_of(const Exchange& exchange) {
  return exchange.in[0] | (static_cast<std::uint64_t>(exchange.in[1]) << 32);
}

Exchange exchange_of(std::uint64_t value) {
  Exchange exchange;
  exchange.in[0] = static_cast<std::uint32_t>(value);
  exchange.in[1] = static_cast<std::uint32_t>(value >> 32);
  return exchange;
}

using Lanes = std::array<Exchange*, kLanes>;

/// The lane that `lane` reads from: its own where the manual says that it keeps its value.
template <Shuffle kind>
int source_lane(int lane, int argument, int width) {
  const int first = lane & ~(width - 1);
  const int last = first + width - 1;
  int source = lane;
  if constexpr (kind == Shuffle::index) source = first + (argument & (width - 1));
  if constexpr (kind == Shuffle::up) source = lane - argument < first ? lane : lane - argument;
  if constexpr (kind == Shuffle::down) source = lane + argument > last ? lane : lane + argument;
  if constexpr (kind == Shuffle::exclusive_or) {
    source = (lane ^ argument) > last ? lane : lane ^ argument;
  }
  return source;
}

template <Shuffle kind>
void combine_shuffle(std::uint32_t mask, const Lanes& lanes) {
  for_lanes(mask, [&](unsigned lane) {
    const int source =
        source_lane<kind>(static_cast<int>(lane), lanes[lane]->argument, lanes[lane]->width);
    const Exchange* from = lanes[static_cast<unsigned>(source)];
    lanes[lane]->out[2] = from == nullptr ? 1u + static_cast<unsigned>(source) : 0u;
    if (from == nullptr) return;
    lanes[lane]->out[0] = from->in[0];
    lanes[lane]->out[1] = from->in[1];
  });
}

void combine_ballot(std::uint32_t mask, const Lanes& lanes) {
  std::uint32_t votes = 0;
  for_lanes(mask, [&](unsigned lane) { votes |= (lanes[lane]->in[0] & 1u) << lane; });
  for_lanes(mask, [&](unsigned lane) { lanes[lane]->out[0] = votes; });
}

void combine_match(std::uint32_t mask, const Lanes& lanes) {
  for_lanes(mask, [&](unsigned lane) {
    for_lanes(mask, [&](unsigned other) {
      const bool equal = value_of(*lanes[lane]) == value_of(*lanes[other]);
      lanes[lane]->out[0] |= static_cast<std::uint32_t>(equal) << other;
    });
  });
}

template <Reduce kind>
std::uint32_t fold(std::uint32_t a, std::uint32_t b) {
  const auto x = static_cast<std::int32_t>(a), y = static_cast<std::int32_t>(b);
  switch (kind) {
    case Reduce::add:
      return a + b;
    case Reduce::min_signed:
      return static_cast<std::uint32_t>(std::min(x, y));
    case Reduce::max_signed:
      return static_cast<std::uint32_t>(std::max(x, y));
    case Reduce::min_unsigned:
      return std::min(a, b);
    case Reduce::max_unsigned:
      return std::max(a, b);
    case Reduce::all:
      return a & b;
    case Reduce::any:
      return a | b;
    case Reduce::odd:
      return a ^ b;
  }
}

template <Reduce kind>
void combine_reduce(std::uint32_t mask, const Lanes& lanes) {
  const auto first = static_cast<unsigned>(std::countr_zero(mask));
  std::uint32_t result = lanes[first]->in[0];
  for_lanes(mask & (mask - 1), [&](unsigned l) { result = fold<kind>(result, lanes[l]->in[0]); });
  for_lanes(mask, [&](unsigned lane) { lanes[lane]->out[0] = result; });
}

// --- blocks and grids ---

void run_block() {
  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  block.warps.assign((threads + kLanes - 1) / kLanes, {});
  block.ready.clear();
  block.ended = block.at_barrier = 0;
  block.votes = 0;
  block.order = static_cast<Order>(random_number() % 3);
  begin_block();
  begin_async_block();
  for (Fiber& fiber : block.fibers) {
    fiber.copies.clear();
    fiber.accumulators.clear();
    fiber.fences.clear();
    fiber.group = fiber.bulk_group = 0;
    clean(fiber);
    prepare(fiber, thread_main);
    resume(fiber);
  }
  switch_to(next());
  if (block.error != cudaSuccess) return;
  if (block.ended != threads) {
    block.error = cudaErrorLaunchTimeout;
    const auto stuck = std::find_if(block.fibers.begin(), block.fibers.end(),
                                    [](const Fiber& f) { return f.waiting != Waiting::ended; });
    block.failure =
        "block " + triple(launch.block_index) + ", " + name_of(*stuck) + ": " + deadlock();
  }
}

void create_fibers() {
  const dim3 extent = launch.block;
  block.fibers.resize(extent.x * extent.y * extent.z);
  for (unsigned id = 0; id < block.fibers.size(); ++id) {
    Fiber& fiber = block.fibers[id];
    fiber.id = id;
    fiber.index = {id % extent.x, id / extent.x % extent.y, id / (extent.x * extent.y)};
    fiber.stack = stacks() + id * (kStackBytes + kGuardBytes) + kGuardBytes;
  }
}

bool can_launch(dim3 grid, dim3 extent, std::size_t shared_bytes) {
  const std::uint64_t threads = std::uint64_t{extent.x} * extent.y * extent.z;
  return threads > 0 && threads <= kMaxThreads && extent.z <= 64 && grid.x <= 0x7fffffffu &&
         grid.y <= 65535 && grid.z <= 65535 && shared_bytes <= kDynamicSharedBytes;
}

/// The threads that the kernel's __launch_bounds__ allow.
std::uint64_t thread_limit(const void* kernel) {
#if defined(__x86_64__)
  constexpr unsigned char kNothing = 0x90;
  const auto function = reinterpret_cast<std::uintptr_t>(kernel);
  std::uintptr_t first = 0;
  for (const auto* note = __start___patchable_function_entries;
       note != __stop___patchable_function_entries; ++note) {
    if (*note <= function && *note > first) first = *note;
  }
  const auto* end = static_cast<const unsigned char*>(kernel);
  const std::uintptr_t bytes = function - first;
  const auto nothing = [](unsigned char byte) { return byte == kNothing; };
  // Else the note is of another function, and this one has no bounds.
  if (bytes <= kMaxThreads && std::all_of(end - bytes, end, nothing)) return bytes;
#else
  static_cast<void>(kernel);
#endif
  return kMaxThreads;
}

}  // namespace

std::string name_of(const Fiber& fiber) { return "thread " + triple(fiber.index); }

std::string name_of(const Where& where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line());
}

void fail_with(cudaError_t error, std::string (*text)(void*), void* closure) {
  const Fiber& self = *std::exchange(running, nullptr);
  block.error = error;
  block.failure =
      "block " + triple(launch.block_index) + ", " + name_of(self) + ": " + text(closure);
  running = const_cast<Fiber*>(&self);
  switch_to(host, true);
  __builtin_unreachable();
}

uint3 thread_index() noexcept { return running->index; }
uint3 block_index() noexcept { return launch.block_index; }
dim3 block_extent() noexcept { return launch.block; }
dim3 grid_extent() noexcept { return launch.grid; }
void* dynamic_shared_memory() noexcept { return dynamic_shared; }

int barrier(Vote vote, bool predicate, Where where) {
  if (block.at_barrier == 0) {
    block.vote = vote;
    block.first_at_barrier = running;
    running->where = where;
  }
  const Fiber& first = *block.first_at_barrier;
  if (!same_place(first.where, where) || block.vote != vote) {
    fail(cudaErrorIllegalInstruction, [&] {
      return "divergent barrier: it is at " + name_of(where) + ", " + name_of(first) + " at " +
             name_of(first.where);
    });
  }
  block.votes += predicate ? 1 : 0;
  if (++block.at_barrier == block.fibers.size()) {
    finish_barrier();
  } else {
    wait(Waiting::for_block, where);
  }
  return block.verdict;
}

void collective(std::uint32_t mask, Exchange& mine, Combine combine, const Where& where) {
  Fiber& self = *running;
  const unsigned first = self.warp() * kLanes;
  const auto present = static_cast<unsigned>(block.fibers.size()) - first;
  const std::uint32_t lanes = present >= kLanes ? kAllLanes : (1u << present) - 1;
  if (((mask >> self.lane()) & 1u) == 0) {
    fail(cudaErrorIllegalInstruction,
         [&] { return name_of(where) + ": its lane is not in the mask"; });
  }
  if ((mask & ~lanes) != 0) {
    fail(cudaErrorIllegalInstruction,
         [&] { return name_of(where) + ": the mask names lanes beyond the block"; });
  }
  self.mask = mask;
  self.combine = combine;
  self.exchange = &mine;
  std::uint32_t& waiting = block.warps[self.warp()].waiting;
  waiting |= 1u << self.lane();
  if ((waiting & mask) != mask) {
    wait(Waiting::for_warp, where);
    return;
  }
  Lanes exchanges = {};
  for_lanes(mask, [&](unsigned lane) {
    const Fiber& other = block.fibers[first + lane];
    if (&other != &self &&
        (other.mask != mask || other.combine != combine || !same_place(other.where, where))) {
      fail(cudaErrorIllegalInstruction, [&] {
        return "divergent warp: it is at " + name_of(where) + ", " + name_of(other) + " at " +
               name_of(other.where) + (other.mask == mask ? "" : " with another mask");
      });
    }
    exchanges[lane] = other.exchange;
  });
  combine(mask, exchanges);
  waiting &= ~mask;
  for_lanes(mask, [&](unsigned lane) {
    if (lane != self.lane()) resume(block.fibers[first + lane]);
  });
}

void sync_warp(std::uint32_t mask, Where where) {
  Exchange mine;
  const auto combine = [](std::uint32_t, const Lanes&) { order_warp(running->warp()); };
  collective(mask, mine, combine, where);
}

std::uint64_t shuffle(Shuffle kind, std::uint32_t mask, std::uint64_t value, int argument,
                      int width, Where where) {
  static constexpr Combine kCombine[] = {
      combine_shuffle<Shuffle::index>, combine_shuffle<Shuffle::up>, combine_shuffle<Shuffle::down>,
      combine_shuffle<Shuffle::exclusive_or>};
  const bool backwards = argument < 0 && kind != Shuffle::index;
  if (width < 1 || width > 32 || (width & (width - 1)) != 0 || backwards) {
    fail(cudaErrorIllegalInstruction, [&] {
      return name_of(where) + ": a shuffle of width " + std::to_string(width) + " by " +
             std::to_string(argument);
    });
  }
  Exchange mine = exchange_of(value);
  mine.argument = argument;
  mine.width = width;
  collective(mask, mine, kCombine[static_cast<int>(kind)], where);
  if (mine.out[2] != 0) {
    fail(cudaErrorIllegalInstruction, [&] {
      return name_of(where) + ": it reads lane " + std::to_string(mine.out[2] - 1) +
             ", not in the mask";
    });
  }
  return mine.out[0] | (static_cast<std::uint64_t>(mine.out[1]) << 32);
}

std::uint32_t ballot(std::uint32_t mask, bool predicate, Where where) {
  Exchange mine = exchange_of(predicate ? 1 : 0);
  collective(mask, mine, combine_ballot, where);
  return mine.out[0];
}

std::uint32_t match_any(std::uint32_t mask, std::uint64_t value, Where where) {
  Exchange mine = exchange_of(value);
  collective(mask, mine, combine_match, where);
  return mine.out[0];
}

std::uint32_t match_all(std::uint32_t mask, std::uint64_t value, Where where) {
  return match_any(mask, value, where) == mask ? mask : 0;
}

std::uint32_t reduce(Reduce kind, std::uint32_t mask, std::uint32_t value, Where where) {
  static constexpr Combine kCombine[] = {
      combine_reduce<Reduce::add>,          combine_reduce<Reduce::min_signed>,
      combine_reduce<Reduce::max_signed>,   combine_reduce<Reduce::min_unsigned>,
      combine_reduce<Reduce::max_unsigned>, combine_reduce<Reduce::all>,
      combine_reduce<Reduce::any>,          combine_reduce<Reduce::odd>};
  Exchange mine = exchange_of(value);
  collective(mask, mine, kCombine[static_cast<int>(kind)], where);
  return mine.out[0];
}

std::uint32_t active_mask() noexcept { return 1u << running->lane(); }

void check_atomic(const void* address, std::size_t bytes, const void* site) {
  check_access(address, bytes, Access::atomic, site);
}

cudaError_t run(const Kernel& kernel, dim3 grid, dim3 extent, std::size_t shared_bytes,
                cudaStream_t stream) {
  if (!can_launch(grid, extent, shared_bytes)) return keep_error(cudaErrorInvalidConfiguration);
  if (!may_have_shared(kernel.function, shared_bytes, 0)) return keep_error(cudaErrorInvalidValue);
  if (std::uint64_t{extent.x} * extent.y * extent.z > thread_limit(kernel.function)) {
    return keep_error(cudaErrorLaunchOutOfResources);
  }
  const cudaError_t answer = note("launch", Kind::queues, stream, kernel.function);
  if (answer != cudaSuccess) return answer;
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  launch = {kernel, grid, extent, {}, shared_bytes};
  random_state = seed();
  block.error = cudaSuccess;
  forget_host_stack();
#if defined(__SANITIZE_ADDRESS__)
  __asan_set_error_report_callback(report);
#endif
  create_fibers();
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  // A step coprime to the number of blocks visits each of them once.
  std::uint64_t step = random_number() % blocks + 1;
  while (std::gcd(step, blocks) != 1) ++step;
  std::uint64_t at = random_number() % blocks;
  for (std::uint64_t i = 0; i < blocks && block.error == cudaSuccess;
       ++i, at = (at + step) % blocks) {
    launch.block_index = {static_cast<unsigned>(at % grid.x),
                          static_cast<unsigned>(at / grid.x % grid.y),
                          static_cast<unsigned>(at / grid.x / grid.y)};
    run_block();
    // How much static memory a kernel has is not known before.
    if (block.error == cudaSuccess &&
        !may_have_shared(kernel.function, shared_bytes, static_shared_bytes())) {
      return keep_error(cudaErrorInvalidValue);
    }
  }
  if (block.error != cudaSuccess) {
    throw CudaError("launch of " + function_at(kernel.function),
                    std::string(cudaGetErrorName(block.error)) + ": " + block.failure);
  }
  return cudaSuccess;
}

}  // namespace gossamer::simt
