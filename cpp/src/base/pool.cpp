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
#include "gossamer/detail/processors.h"
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
bool spin_until(Clock::time_point deadline, Condition condition) {
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
///
/// On a machine of many cores the costs are those of cache lines that several cores write. So no
/// lock is taken where nothing sleeps, a job wakes and lets in as many workers as are worth it, and
/// who comes when all tasks are taken finds that in one place.
class Pool {
 public:
  /// Starts no thread: see grow().
  explicit Pool(int workers)
      : workers_(static_cast<std::size_t>(workers)),
        shares_(workers_.size() + 1),
        cpus_(workers_.size() + 1) {
    for (auto& cpu : cpus_) cpu.store(-1, std::memory_order_relaxed);
  }

  ~Pool() {
    stopping_.store(true, std::memory_order_relaxed);
    epoch_.fetch_add(1);
    epoch_.notify_all();
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

  /// Runs the tasks on the caller and on up to `helpers` workers.
  void run(std::int64_t tasks, std::int64_t helpers, void (*fn)(void*, std::int64_t),
           void* context) {
    helpers = std::min({helpers, tasks - 1, static_cast<std::int64_t>(started_)});
    fn_ = fn;
    context_ = context;
    threads_ = static_cast<std::size_t>(helpers) + 1;
    const std::int64_t count = helpers + 1, each = tasks / count, more = tasks % count;
    std::int64_t begin = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      Share& share = shares_[static_cast<std::size_t>(i)];
      share.next.store(begin, std::memory_order_relaxed);
      share.end = begin += each + (i < more ? 1 : 0);
    }
    unclaimed_.store(static_cast<int>(count), std::memory_order_relaxed);
    error_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    gate_.store(kOpen | static_cast<std::uint32_t>(helpers) * kPlace, std::memory_order_release);
    epoch_.fetch_add(1);
    wake(helpers);
    spread(0);
    const InterruptPoll interrupt;
    claim(0, &interrupt);
    gate_.fetch_and(~kOpen, std::memory_order_relaxed);
    const auto done = [this] { return (gate_.load(std::memory_order_acquire) & kInside) == 0; };
    if (!spin_until(Clock::now() + kSpin, done)) {
      std::unique_lock lock(mutex_);
      while (!done_.wait_for(lock, kPatience, done)) {
        if (failed_.load(std::memory_order_relaxed)) continue;
        lock.unlock();
        attempt([&] { interrupt.look(); });
        lock.lock();
      }
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  /// The tasks of one thread, as long as it or another has not begun them.
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
  };

  struct Worker {
    Pool* pool = nullptr;
    std::size_t own = 0;  // its share
    pthread_t thread = {};
  };

  // The parts of gate_: workers inside the job, how many it takes, and whether it takes any more.
  static constexpr std::uint32_t kInside = 0xfff, kPlace = 0x1000, kOpen = 0x80000000;
  static_assert(kMaxThreads <= kInside && kMaxThreads < kOpen / kPlace);

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

  /// Wakes workers where fewer than so many are awake. One that is about to sleep sees that the
  /// epoch has changed.
  void wake(std::int64_t helpers) noexcept {
    const std::int64_t asleep = asleep_.load();
    if (asleep == 0) return;
    const std::int64_t missing = helpers - (static_cast<std::int64_t>(started_) - asleep);
    if (missing >= asleep) {
      epoch_.notify_all();
    } else {
      for (std::int64_t i = 0; i < missing; ++i) epoch_.notify_one();
    }
  }

  /// A scheduler may wake a worker on the processor of the caller, or of another worker, and leave
  /// both there for as long as they take turns (half a second was seen): the later one goes.
  void spread(std::size_t own) {
    const auto here = [&](int cpu) {
      // All look at these, so that they are written only where they change.
      if (cpus_[own].load(std::memory_order_relaxed) != cpu) {
        cpus_[own].store(cpu, std::memory_order_relaxed);
      }
    };
    const int cpu = current_cpu();
    here(cpu);
    if (own == 0 || cpu < 0) return;
    bool shared = false;
    for (std::size_t i = 0; i < own; ++i) {
      shared |= cpus_[i].load(std::memory_order_relaxed) == cpu;
    }
    if (!shared) return;
    Processors taken = {};
    for (const auto& other : cpus_) add(other.load(std::memory_order_relaxed), taken);
    leave_cpu(taken);
    here(current_cpu());
  }

  /// Does what is left of share `own`, then of the others: neighbouring tasks stay on one thread,
  /// and on the same one in the next job of as many, where what they touch may still be in cache.
  /// The caller of the job looks for an `interrupt` between tasks.
  void claim(std::size_t own, const InterruptPoll* interrupt) noexcept {
    attempt([&] {
      for (std::size_t i = 0; i < threads_; ++i) {
        if (unclaimed_.load(std::memory_order_relaxed) == 0) return;
        Share& share = shares_[(own + i) % threads_];
        while (share.next.load(std::memory_order_relaxed) < share.end) {
          const std::int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
          if (task >= share.end) break;
          if (task + 1 == share.end) unclaimed_.fetch_sub(1, std::memory_order_relaxed);
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
      for (std::size_t i = 0; i < threads_; ++i) {
        shares_[i].next.store(shares_[i].end, std::memory_order_relaxed);
      }
    }
  }

  /// What a worker's tasks find when they look for interrupts.
  static void leave_failed_job(void* pool) {
    if (static_cast<Pool*>(pool)->failed_.load(std::memory_order_relaxed)) throw JobFailed();
  }

  /// Enters the job that is open, if it takes one more worker.
  bool enter() noexcept {
    std::uint32_t gate = gate_.load(std::memory_order_relaxed);
    while ((gate & kOpen) != 0 && (gate & kInside) < (gate & ~kOpen) / kPlace) {
      if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }

  /// Leaves a job; the last to leave tells the caller, which may sleep.
  void leave() noexcept {
    const std::uint32_t before = gate_.fetch_sub(1, std::memory_order_release);
    if ((before & kOpen) != 0 || (before & kInside) != 1) return;
    // The caller looks and falls asleep under this lock, so that it is awake or hears of it.
    {
      const std::lock_guard lock(mutex_);
    }
    done_.notify_one();
  }

  void work(std::size_t own) noexcept {
    set_float_mode(kFloatMode);  // a thread begins with that of the thread that started it
    const InterruptScope interrupt(&leave_failed_job, this);
    std::uint32_t seen = 0;
    // Jobs that take no more workers do not keep it from its sleep.
    auto sleep_from = Clock::now() + kSpin;
    for (;;) {
      const auto changed = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
      if (!spin_until(sleep_from, changed)) {
        cpus_[own].store(-1, std::memory_order_relaxed);
        asleep_.fetch_add(1);
        epoch_.wait(seen);
        asleep_.fetch_sub(1);
      }
      // Before it looks for work: one that shares a processor with the caller comes too late.
      spread(own);
      seen = epoch_.load(std::memory_order_acquire);
      if (stopping_.load(std::memory_order_relaxed)) return;
      if (!enter()) continue;
      claim(own % threads_, nullptr);
      leave();
      sleep_from = Clock::now() + kSpin;
    }
  }

  // What changes with each job lies on lines of its own, apart from what is read with it.
  alignas(64) std::atomic<std::uint32_t> epoch_{0};  // of jobs
  alignas(64) std::atomic<std::uint32_t> gate_{0};
  alignas(64) std::atomic<int> unclaimed_{0};  // shares with tasks that nobody has begun
  alignas(64) void (*fn_)(void*, std::int64_t) = nullptr;
  void* context_ = nullptr;
  std::size_t threads_ = 1;      // of the current job, the caller included: those with a share
  std::vector<Worker> workers_;  // those from started_ on do not run yet
  std::vector<Share> shares_;    // the caller's, then one for each worker
  std::vector<std::atomic<int>> cpus_;  // where each thread was when it last began; -1: it sleeps
  std::size_t started_ = 0;
  Clock::time_point ask_again_;
  std::atomic<int> asleep_{0};
  std::atomic<bool> failed_{false};  // there is an error_
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;  // of error_, and of a caller that sleeps
  std::condition_variable done_;
  std::exception_ptr error_;  // the first of the job
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
  return std::min(processors(), kMaxThreads);
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

void detail::parallel_for(std::int64_t tasks, void (*fn)(void*, std::int64_t), void* context,
                          std::int64_t helpers) {
  if (const int threads = num_threads(); tasks > 1 && threads > 1) {
    const std::unique_lock lock(state.busy, std::try_to_lock);
    if (lock.owns_lock()) {
      if (Pool* pool = pool_of(threads - 1)) return pool->run(tasks, helpers, fn, context);
    }
  }
  const InterruptPoll interrupt;
  for (std::int64_t task = 0; task < tasks; ++task) {
    fn(context, task);
    interrupt.look();
  }
}

}  // namespace gossamer
