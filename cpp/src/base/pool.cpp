#include "base/pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/floats.h"
#include "base/fork_safe.h"
#include "base/interrupt.h"
#include "gossamer/error.h"
#include "gossamer/runtime.h"

namespace gossamer {
using namespace detail;
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxThreads = 1024;

/// How long an idle worker, and a caller with nothing left to claim, look before they sleep. A
/// layer's next operation should come within this time, so that it need not wake anyone.
constexpr std::chrono::microseconds kSpin(60);

/// How long after the system refused a thread it is asked again.
constexpr std::chrono::seconds kRefused(1);

/// How long the caller of a job waits for the last workers before it looks for an interrupt.
constexpr std::chrono::milliseconds kPatience(50);

/// The stack of a worker, whatever the process's limit is: kernels need less than a tenth of it.
constexpr std::size_t kStack = std::size_t{1} << 20;

inline void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
bool spin_until(Condition condition) {
  const auto deadline = Clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (condition()) return true;
      relax();
    }
  } while (Clock::now() < deadline);
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

#if defined(__linux__)
using Processors = cpu_set_t;
inline void add(int cpu, Processors& set) noexcept {
  if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(static_cast<std::size_t>(cpu), &set);
}
#else
struct Processors {};
inline void add(int, Processors&) noexcept {}
#endif

/// Moves this thread to a processor that is not `taken`, if it may run on any other, and leaves the
/// system free to move it again.
void leave_cpu(const Processors& taken) noexcept {
#if defined(__linux__)
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t others = allowed;
  for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &taken)) CPU_CLR(cpu, &others);
  }
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  static_cast<void>(sched_setaffinity(0, sizeof allowed, &allowed));
#else
  static_cast<void>(taken);
#endif
}

/// Blocks signals for this thread as long as it lives; a thread that is started meanwhile inherits
/// that for good. The program's signals belong to its own threads. What a thread's own fault raises
/// stays open, so that a crash is reported where it happens.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t all;
    sigfillset(&all);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) {
      sigdelset(&all, fault);
    }
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

/// Ends a task of a job in which another has failed.
struct JobFailed {};

/// One job at a time. A worker joins a job only while it is open, so that the caller never waits
/// for one that has not woken yet.
class Pool {
 public:
  /// Starts no thread: see grow().
  explicit Pool(int workers)
      : workers_(static_cast<std::size_t>(workers)), shares_(workers_.size() + 1) {}

  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::size_t i = 0; i < started_; ++i) pthread_join(workers_[i].thread, nullptr);
  }

  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  /// The workers that it should have.
  [[nodiscard]] int workers() const noexcept { return static_cast<int>(workers_.size()); }

  /// Starts those workers that are missing. A system that grants no more (limits on processes or
  /// memory) is not asked again for some time; the pool works with those that it has.
  void grow() noexcept {
    if (started_ == workers_.size()) return;
    const auto now = Clock::now();
    if (now < ask_again_) return;
    const SignalsBlocked blocked;
    while (started_ < workers_.size() && start(workers_[started_])) ++started_;
    ask_again_ = now + kRefused;
  }

  void run(std::int64_t tasks, void (*fn)(void*, std::int64_t), void* context) {
    bool sleepers = false;
    {
      const std::lock_guard lock(mutex_);
      fn_ = fn;
      context_ = context;
      threads_ = started_ + 1;
      const auto count = static_cast<std::int64_t>(threads_);
      const std::int64_t each = tasks / count, more = tasks % count;
      std::int64_t begin = 0;
      for (std::int64_t i = 0; i < count; ++i) {
        Share& share = shares_[static_cast<std::size_t>(i)];
        share.next.store(begin, std::memory_order_relaxed);
        share.end = begin += each + (i < more ? 1 : 0);
      }
      error_ = nullptr;
      failed_.store(false, std::memory_order_relaxed);
      open_ = true;
      sleepers = sleeping_ > 0;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    if (sleepers) wake_.notify_all();
    spread(0);
    const InterruptPoll interrupt;
    claim(0, &interrupt);
    {
      const std::lock_guard lock(mutex_);
      open_ = false;
    }
    const auto done = [this] { return inside_.load(std::memory_order_acquire) == 0; };
    if (!spin_until(done)) {
      std::unique_lock lock(mutex_);
      while (!done_.wait_for(lock, kPatience, done)) {
        if (failed_.load(std::memory_order_relaxed)) continue;
        lock.unlock();
        attempt([&] { interrupt.look(); });
        lock.lock();
      }
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

  struct Worker {
    Pool* pool = nullptr;
    std::size_t own = 0;  // its share
    pthread_t thread = {};
  };

  [[nodiscard]] bool start(Worker& worker) noexcept {
    worker.pool = this;
    worker.own = started_ + 1;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) return false;
    pthread_attr_setstacksize(&attributes, kStack);
    const auto body = [](void* context) -> void* {
      auto* self = static_cast<Worker*>(context);
      self->pool->work(self->own);
      return nullptr;
    };
    const bool done = pthread_create(&worker.thread, &attributes, body, &worker) == 0;
    pthread_attr_destroy(&attributes);
    return done;
  }

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
    Processors taken = {};
    for (const Share& share : shares_) add(share.cpu.load(std::memory_order_relaxed), taken);
    leave_cpu(taken);
    shares_[own].cpu.store(current_cpu(), std::memory_order_relaxed);
  }

  /// Does what is left of share `own`, then of the others: neighbouring tasks stay on one thread,
  /// and on the same one in the next job of as many, where what they touch may still be in cache.
  /// The caller of the job looks for an `interrupt` between tasks.
  void claim(std::size_t own, const InterruptPoll* interrupt) noexcept {
    attempt([&] {
      for (std::size_t i = 0; i < threads_; ++i) {
        Share& share = shares_[(own + i) % threads_];
        for (;;) {
          const std::int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
          if (task >= share.end) break;
          fn_(context_, task);
          if (interrupt != nullptr) interrupt->look();
        }
      }
    });
  }

  /// Calls body(). If it throws, the job fails: no further task is begun, and tasks that check for
  /// interrupts end early.
  template <class F>
  void attempt(F&& body) noexcept {
    try {
      body();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      failed_.store(true, std::memory_order_relaxed);
      for (Share& share : shares_) share.next.store(share.end, std::memory_order_relaxed);
    }
  }

  /// What a worker's tasks find when they look for interrupts.
  static void leave_failed_job(void* pool) {
    if (static_cast<Pool*>(pool)->failed_.load(std::memory_order_relaxed)) throw JobFailed();
  }

  void work(std::size_t own) noexcept {
    set_float_mode(kFloatMode);  // a thread begins with that of the thread that started it
    const InterruptScope interrupt(&leave_failed_job, this);
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
      claim(own, nullptr);
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
  std::vector<Worker> workers_;  // those from started_ on do not run yet
  std::vector<Share> shares_;    // the caller's, then one for each worker
  std::size_t started_ = 0;
  std::size_t threads_ = 1;  // of the current job, the caller included
  Clock::time_point ask_again_;
  std::exception_ptr error_;         // the first of the job
  std::atomic<bool> failed_{false};  // there is one
  int sleeping_ = 0;
  bool open_ = false, stopping_ = false;
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

/// The pool of the process. It is never destroyed, since its threads may outlive static objects,
/// and needs no initialisation, so that no thread ever waits for one.
struct State {
  ForkSafeMutex busy;  // held while a job runs
  Pool* pool = nullptr;
  std::atomic<int> threads{0};
};

constinit State state;

// A forked child has none of the threads: it forgets the pool and makes its own when it needs one.
[[maybe_unused]] const int registered =
    pthread_atfork(nullptr, nullptr, [] { state.pool = nullptr; });

/// The pool, with as many of the wanted workers as can be had; nullptr where memory is short. Call
/// it with `busy` locked.
Pool* pool_of(int workers) noexcept {
  if (state.pool == nullptr || state.pool->workers() != workers) {
    delete std::exchange(state.pool, nullptr);
    try {
      state.pool = new Pool(workers);
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
  }
  state.pool->grow();
  return state.pool;
}

}  // namespace

int num_threads() {
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
  state.threads.store(n, std::memory_order_relaxed);
}

void detail::parallel_for(std::int64_t tasks, void (*fn)(void*, std::int64_t), void* context) {
  if (const int threads = num_threads(); tasks > 1 && threads > 1) {
    const std::unique_lock lock(state.busy, std::try_to_lock);
    if (lock.owns_lock()) {
      if (Pool* pool = pool_of(threads - 1)) return pool->run(tasks, fn, context);
    }
  }
  const InterruptPoll interrupt;
  for (std::int64_t task = 0; task < tasks; ++task) {
    fn(context, task);
    interrupt.look();
  }
}

}  // namespace gossamer
