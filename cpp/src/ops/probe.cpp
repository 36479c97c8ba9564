#include "gossamer/probe.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "buffer.h"
#include "gossamer/error.h"
#include "gossamer/runtime.h"
#include "isa.h"
#include "kernels/args.h"
#include "pool.h"

namespace gossamer {
namespace {

using kernels::ProbeArgs;
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

/// One task for each thread; the kernels' results are written where nobody looks.
double timed(std::vector<ProbeArgs>& tasks, std::int64_t repeat) {
  for (ProbeArgs& task : tasks) task.repeat = repeat;
  const auto& table = kernel_table();
  const Clock::time_point start = Clock::now();
  parallel_for(static_cast<std::int64_t>(tasks.size()),
               [&](std::int64_t t) { table.probe(tasks[static_cast<std::size_t>(t)]); });
  return since(start);
}

}  // namespace

double read_bandwidth(std::int64_t bytes, double seconds) {
  check_seconds(seconds);
  if (bytes <= 0) throw ValueError("probe: bytes must be positive");
  const auto threads = static_cast<std::size_t>(num_threads());
  constexpr std::size_t kPage = 1024;  // floats
  const std::size_t size = (static_cast<std::size_t>(bytes) + kPage * 4 - 1) / (kPage * 4) * kPage;
  // On huge pages where there are any: misses of the TLB are no limit of the memory's.
  const Buffer<float> data(static_cast<std::int64_t>(size * threads + kPage));
  std::fill(data.data(), data.data() + data.size(), 1.0F);
  auto* aligned = data.data();
  while (reinterpret_cast<std::uintptr_t>(aligned) % (kPage * 4) != 0) ++aligned;
  std::vector<float> results(threads);
  std::vector<std::int64_t> flops(threads);
  std::vector<ProbeArgs> tasks;
  for (std::size_t t = 0; t < threads; ++t) {
    tasks.push_back({.what = ProbeArgs::What::read,
                     .data = aligned + t * size,
                     .size = static_cast<std::int64_t>(size),
                     .repeat = 1,
                     .flops = &flops[t],
                     .result = &results[t]});
  }
  const double time = best_time(seconds, [&](std::int64_t repeat) { return timed(tasks, repeat); });
  return static_cast<double>(size * threads) * sizeof(float) / time;
}

double fma_peak(double seconds) {
  check_seconds(seconds);
  constexpr std::int64_t kRounds = 1000;
  const auto threads = static_cast<std::size_t>(num_threads());
  std::vector<float> results(threads);
  std::vector<std::int64_t> flops(threads);
  std::vector<ProbeArgs> tasks;
  for (std::size_t t = 0; t < threads; ++t) {
    tasks.push_back({.what = ProbeArgs::What::fma,
                     .data = nullptr,
                     .size = 0,
                     .repeat = 1,
                     .flops = &flops[t],
                     .result = &results[t]});
  }
  const double time =
      best_time(seconds, [&](std::int64_t repeat) { return timed(tasks, repeat * kRounds); });
  double done = 0.0;
  for (const ProbeArgs& task : tasks) {
    done += static_cast<double>(*task.flops) / static_cast<double>(task.repeat);
  }
  return done * static_cast<double>(kRounds) / time;
}

}  // namespace gossamer
