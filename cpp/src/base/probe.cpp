#include "gossamer/probe.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/buffer.h"
#include "base/kernels.h"
#include "base/pool.h"
#include "gossamer/error.h"
#include "gossamer/runtime.h"

namespace gossamer {
using namespace detail;
namespace {

using Clock = std::chrono::steady_clock;

/// Long enough that starting the threads does not show in a sample.
constexpr double kSample = 2e-3;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void check_seconds(double seconds) {
  if (!(seconds > 0.0)) throw ValueError("probe: seconds must be positive");
}

/// Runs sample(repeat) -> seconds with a repeat that fills a sample; returns the least time of one
/// repeat. The first samples, which find `repeat`, also warm the machine up.
template <class Sample>
double best_time(double seconds, Sample&& sample) {
  const Clock::time_point start = Clock::now();
  std::int64_t repeat = 1;
  double time = sample(repeat);
  while (time < kSample) {
    repeat *= std::max<std::int64_t>(2, static_cast<std::int64_t>(kSample / std::max(time, 1e-6)));
    time = sample(repeat);
  }
  double best = time / static_cast<double>(repeat);
  while (since(start) < seconds) {
    best = std::min(best, sample(repeat) / static_cast<double>(repeat));
  }
  return best;
}

/// One task for each thread; the kernels' results are not used.
void run(std::vector<ProbeArgs>& tasks, std::int64_t repeat) {
  for (ProbeArgs& task : tasks) task.repeat = repeat;
  const BaseKernels& kernels = base_kernels();
  parallel_for(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t t) {
    const ProbeArgs& task = tasks[static_cast<std::size_t>(t)];
    (task.what == ProbeArgs::What::tiles ? kernels.probe_tiles : kernels.probe)(task);
  });
}

template <class Run>
double timed(Run&& run) {
  const Clock::time_point start = Clock::now();
  run();
  return since(start);
}

/// Operations per second of all threads, each on registers of its own.
double peak(ProbeArgs::What what, double seconds) {
  check_seconds(seconds);
  constexpr std::int64_t kRounds = 1000;
  const auto threads = static_cast<std::size_t>(num_threads());
  std::vector<float> results(threads);
  std::vector<std::int64_t> flops(threads);
  std::vector<ProbeArgs> tasks;
  for (std::size_t t = 0; t < threads; ++t) {
    tasks.push_back({.what = what,
                     .data = nullptr,
                     .size = 0,
                     .repeat = 1,
                     .flops = &flops[t],
                     .result = &results[t]});
  }
  const double time = best_time(
      seconds, [&](std::int64_t repeat) { return timed([&] { run(tasks, repeat * kRounds); }); });
  double done = 0.0;
  for (const ProbeArgs& task : tasks) {
    done += static_cast<double>(*task.flops) / static_cast<double>(task.repeat);
  }
  return done * static_cast<double>(kRounds) / time;
}

}  // namespace

struct ReadProbe::State {
  Buffer<float> data;
  std::vector<float> results;
  std::vector<ProbeArgs> tasks;
};

ReadProbe::ReadProbe(std::int64_t bytes) : state_(std::make_unique<State>()) {
  if (bytes <= 0) throw ValueError("probe: bytes must be positive");
  const std::int64_t threads = num_threads();
  constexpr std::int64_t kPage = 1024;  // floats
  const std::int64_t page_bytes = kPage * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t size = (bytes / threads + page_bytes - 1) / page_bytes * kPage;
  // On huge pages where there are any: misses of the TLB are no limit of the memory's.
  state_->data = Buffer<float>(size * threads + kPage);
  std::fill(state_->data.data(), state_->data.data() + state_->data.size(), 1.0F);
  auto* aligned = state_->data.data();
  while (reinterpret_cast<std::uintptr_t>(aligned) % static_cast<std::uintptr_t>(page_bytes) != 0) {
    ++aligned;
  }
  state_->results.resize(static_cast<std::size_t>(threads));
  for (std::int64_t t = 0; t < threads; ++t) {
    state_->tasks.push_back({.what = ProbeArgs::What::read,
                             .data = aligned + t * size,
                             .size = size,
                             .repeat = 1,
                             .flops = nullptr,
                             .result = &state_->results[static_cast<std::size_t>(t)]});
  }
}

ReadProbe::ReadProbe(ReadProbe&&) noexcept = default;
ReadProbe::~ReadProbe() = default;

std::int64_t ReadProbe::bytes() const noexcept {
  std::int64_t floats = 0;
  for (const ProbeArgs& task : state_->tasks) floats += task.size;
  return floats * static_cast<std::int64_t>(sizeof(float));
}

void ReadProbe::read(std::int64_t passes) { run(state_->tasks, passes); }

double read_bandwidth(std::int64_t bytes, double seconds) {
  check_seconds(seconds);
  ReadProbe probe(bytes * num_threads());
  const double time =
      best_time(seconds, [&](std::int64_t repeat) { return timed([&] { probe.read(repeat); }); });
  return static_cast<double>(probe.bytes()) / time;
}

double fma_peak(double seconds) { return peak(ProbeArgs::What::fma, seconds); }

double tile_peak(double seconds) {
  check_seconds(seconds);
  return base_kernels().probe_tiles == nullptr ? 0.0 : peak(ProbeArgs::What::tiles, seconds);
}

}  // namespace gossamer
