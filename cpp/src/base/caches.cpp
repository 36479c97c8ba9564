#include "base/caches.h"

#include <algorithm>
#include <cstddef>

#if defined(__linux__)
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace gossamer::detail {
namespace {

/// What the system says, 0 where it does not.
std::int64_t ask() noexcept {
#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
  return sysconf(_SC_LEVEL2_CACHE_SIZE);
#elif defined(__APPLE__)
  std::int64_t bytes = 0;
  std::size_t size = sizeof(bytes);
  return sysctlbyname("hw.l2cachesize", &bytes, &size, nullptr, 0) == 0 ? bytes : 0;
#else
  return 0;
#endif
}

}  // namespace

// A smaller cache than 1 MiB is mostly a virtual machine's mistake or backed by a fast level 3; a
// much larger one is shared by several cores.
std::int64_t level2_cache() noexcept {
  constexpr std::int64_t kLeast = std::int64_t{1} << 20, kMost = std::int64_t{2} << 20;
  static const std::int64_t bytes = std::clamp(ask(), kLeast, kMost);
  return bytes;
}

}  // namespace gossamer::detail
