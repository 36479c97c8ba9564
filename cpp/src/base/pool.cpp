#include "base/pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gossamer/error.h"
#include "gossamer/runtime.h"

namespace gossamer {
using namespace detail;
namespace {

constexpr int kMaxThreads = 1024;

/// How long an idle worker, and a caller with nothing left to claim, look before they sleep. A
/// layer's next operation should come within this time, so that it need not wake anyone.
constexpr std::chrono::microseconds kSpin(60);

inline void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
bool spin_until(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (condition()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return condition();
}

/// The processor that this thread runs on, -1 where the system does not tell.
int current_cpu() noexcept {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

/// Moves this thread to a processor that is not `taken`, if it may run on any other, and leaves the
/// system free to move it again.
void leave_cpu(const std::vector<int>& taken) noexcept {
#if defined(__linux__)
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t others = allowed;
  for (const int cpu : taken) {
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_CLR(static_cast<std::size_t>(cpu), &others);
  }
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  static_cast<void>(sched_setaffinity(0, sizeof allowed, &allowed));
#else
  static_cast<void>(taken);
#endif
}

/// One job at a time. A worker joins a job only while it is open, so that the caller never waits
/// for one that has not woken yet.
class Pool {
 public:
  explicit Pool(int workers) : shares_(static_cast<std::size_t>(workers) + 1) {
    threads_.reserve(static_cast<std::size_t>(workers));
    for (int i = 0; i < workers; ++i) {
      threads_.emplace_back([this, i] { work(static_cast<std::size_t>(i) + 1); });
    }
  }

  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  [[nodiscard]] int workers() const noexcept { return static_cast<int>(threads_.size()); }

  void run(std::int64_t tasks, void (*fn)(void*, std::int64_t), void* context) {
    bool sleepers = false;
    {
      const std::lock_guard lock(mutex_);
      fn_ = fn;
      context_ = context;
      const auto count = static_cast<std::int64_t>(shares_.size());
      const std::int64_t each = tasks / count, more = tasks % count;
      std::int64_t begin = 0;
      for (std::int64_t i = 0; i < count; ++i) {
        Share& share = shares_[static_cast<std::size_t>(i)];
        share.next.store(begin, std::memory_order_relaxed);
        share.end = begin += each + (i < more ? 1 : 0);
      }
      error_ = nullptr;
      open_ = true;
      sleepers = sleeping_ > 0;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    if (sleepers) wake_.notify_all();
    spread(0);
    claim(0);
    {
      const std::lock_guard lock(mutex_);
      open_ = false;
    }
    if (!spin_until([this] { return inside_.load(std::memory_order_acquire) == 0; })) {
      std::unique_lock lock(mutex_);
      done_.wait(lock, [this] { return inside_.load(std::memory_order_acquire) == 0; });
    }
    const std::lock_guard lock(mutex_);
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  /// The tasks of one thread, as long as it or another has not begun them.
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
    std::atomic<int> cpu{-1};  // where the thread was when it last began
  };

  /// A scheduler may wake a worker on the processor of the caller, or of another worker, and leave
  /// both there for as long as they take turns (half a second was seen): the later one goes.
  void spread(std::size_t own) {
    const int cpu = current_cpu();
    shares_[own].cpu.store(cpu, std::memory_order_relaxed);
    if (own == 0 || cpu < 0) return;
    bool shared = false;
    for (std::size_t i = 0; i < own; ++i) {
      shared |= shares_[i].cpu.load(std::memory_order_relaxed) == cpu;
    }
    if (!shared) return;
    std::vector<int> taken;
    for (const Share& share : shares_) taken.push_back(share.cpu.load(std::memory_order_relaxed));
    leave_cpu(taken);
    shares_[own].cpu.store(current_cpu(), std::memory_order_relaxed);
  }

  /// Does what is left of share `own`, then of the others: neighbouring tasks stay on one thread,
  /// and on the same one in the next job of as many, where what they touch may still be in cache.
  void claim(std::size_t own) noexcept {
    for (std::size_t i = 0; i < shares_.size(); ++i) {
      Share& share = shares_[(own + i) % shares_.size()];
      for (;;) {
        const std::int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= share.end) break;
        try {
          fn_(context_, task);
        } catch (...) {
          const std::lock_guard lock(mutex_);
          if (!error_) error_ = std::current_exception();
        }
      }
    }
  }

  void work(std::size_t own) {
    std::uint64_t seen = 0;
    for (;;) {
      const auto changed = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
      if (!spin_until(changed)) {
        std::unique_lock lock(mutex_);
        ++sleeping_;
        wake_.wait(lock, changed);
        --sleeping_;
      }
      // Before it looks for work: one that shares a processor with the caller comes too late.
      spread(own);
      {
        const std::lock_guard lock(mutex_);
        seen = epoch_.load(std::memory_order_acquire);
        if (stopping_) return;
        if (!open_) continue;
        inside_.fetch_add(1, std::memory_order_relaxed);
      }
      claim(own);
      const std::lock_guard lock(mutex_);
      if (inside_.fetch_sub(1, std::memory_order_release) == 1) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<std::uint64_t> epoch_{0};
  std::atomic<int> inside_{0};
  void (*fn_)(void*, std::int64_t) = nullptr;
  void* context_ = nullptr;
  std::vector<Share> shares_;
  std::exception_ptr error_;
  int sleeping_ = 0;
  bool open_ = false, stopping_ = false;
  std::vector<std::thread> threads_;
};

/// Reads a positive number of threads, or 0.
int from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return 0;
  char* end = nullptr;
  const long n = std::strtol(text, &end, 10);
  return end != text && n >= 1 ? static_cast<int>(std::min<long>(n, kMaxThreads)) : 0;
}

int default_threads() {
  if (const int n = from_environment("GOSSAMER_NUM_THREADS")) return n;
  if (const int n = from_environment("OMP_NUM_THREADS")) return n;
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// The process's pool. It is never destroyed (its threads may outlive static destructors), and a
/// forked child, which has none of its threads, forgets it and makes its own when it needs one.
struct State {
  std::mutex busy;  // held while a job runs
  Pool* pool = nullptr;
  std::atomic<int> threads{0};
};

State* make_state();

State*& state_slot() {
  static State* slot = make_state();
  return slot;
}

State* make_state() {
  static const int once = pthread_atfork(nullptr, nullptr, [] {
    const int threads = state_slot()->threads.load(std::memory_order_relaxed);
    state_slot() = new State;
    state_slot()->threads.store(threads, std::memory_order_relaxed);
  });
  static_cast<void>(once);
  return new State;
}

}  // namespace

int num_threads() {
  State& state = *state_slot();
  int n = state.threads.load(std::memory_order_relaxed);
  if (n == 0) {
    n = default_threads();
    state.threads.store(n, std::memory_order_relaxed);
  }
  return n;
}

void set_num_threads(int n) {
  if (n < 1 || n > kMaxThreads) {
    throw ValueError("set_num_threads: n is " + std::to_string(n) + ", expected 1 to 1024");
  }
  state_slot()->threads.store(n, std::memory_order_relaxed);
}

void detail::parallel_for(std::int64_t tasks, void (*fn)(void*, std::int64_t), void* context) {
  const int threads = num_threads();
  State& state = *state_slot();
  if (tasks > 1 && threads > 1) {
    const std::unique_lock lock(state.busy, std::try_to_lock);
    if (lock.owns_lock()) {
      if (state.pool == nullptr || state.pool->workers() != threads - 1) {
        delete state.pool;
        state.pool = nullptr;
        state.pool = new Pool(threads - 1);
      }
      state.pool->run(tasks, fn, context);
      return;
    }
  }
  for (std::int64_t task = 0; task < tasks; ++task) fn(context, task);
}

}  // namespace gossamer
