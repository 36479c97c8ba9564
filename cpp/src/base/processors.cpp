#include "gossamer/detail/processors.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <string>
#include <thread>

namespace gossamer {
namespace {

/// The quota of time in a period over the period's length, as the files of one control group tell
/// it; 0 where it has none.
double quota_of_group(const std::string& group) {
  double quota = 0, period = 0;
  // Version 2 has both numbers in one file, where "max" stands for no limit.
  std::ifstream both(group + "/cpu.max");
  if (!(both >> quota >> period)) {
    std::ifstream first(group + "/cpu.cfs_quota_us"), second(group + "/cpu.cfs_period_us");
    if (!(first >> quota) || !(second >> period)) return 0;
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

/// Whether a list of names that commas separate has this one.
bool has_name(const std::string& list, const std::string& name) {
  return ("," + list + ",").find("," + name + ",") != std::string::npos;
}

}  // namespace

int detail::processors_of_quota(const std::string& root) {
  double least = 0;
  // Each line is "number:controllers:path"; version 2 has the number 0 and no controllers.
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && !has_name(controllers, "cpu")) continue;
    // Where these are mounted. In a container the path may be the host's, of which only its end,
    // the mounted folder itself, is there.
    const std::string mount =
        root + "/sys/fs/cgroup" + (controllers.empty() ? "" : "/" + controllers);
    std::string path = line.substr(second + 1);
    for (;;) {
      if (!path.empty() && path.back() == '/') path.pop_back();
      if (const double quota = quota_of_group(mount + path); quota > 0) {
        least = least > 0 ? std::min(least, quota) : quota;
      }
      if (path.empty()) break;
      path.erase(path.find_last_of('/') == path.npos ? 0 : path.find_last_of('/'));
    }
  }
  return least > 0 ? static_cast<int>(std::clamp(least, 1.0, 1e6)) : 0;
}

int detail::processors() {
  int count = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
  if (const int quota = processors_of_quota(); quota > 0) count = std::min(count, quota);
#endif
  return std::max(count, 1);
}

}  // namespace gossamer
