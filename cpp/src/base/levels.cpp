#include "base/levels.h"

#include <cstdlib>
#include <string>
#include <vector>

#if GOSSAMER_HIGHEST_LEVEL > 0
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "gossamer/error.h"
#include "gossamer/runtime.h"

namespace gossamer {
namespace detail {
namespace {

struct Named {
  const char* name;
  Level level;
};

#if GOSSAMER_HIGHEST_LEVEL > 0
/// Has the processor tiles of bfloat16 and int8, saves the system their registers, and may this
/// process use them? Linux grants them on request (its documentation: arch/x86/xstate).
bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  if ((d & kBf16) == 0 || (d & kTile) == 0 || (d & kInt8) == 0) return false;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0) return false;
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17;
  if ((low & kTileState) != kTileState) return false;
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

/// The levels of this machine that there are kernels for, slowest first.
std::vector<Named> levels() {
  std::vector<Named> found = {{"baseline", Level::baseline}};
#if GOSSAMER_HIGHEST_LEVEL > 0
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v3")) found.push_back({"x86-64-v3", Level::v3});
  if (__builtin_cpu_supports("x86-64-v4")) {
    const bool pairs = __builtin_cpu_supports("avx512bf16") &&
                       __builtin_cpu_supports("avx512vbmi") &&
                       __builtin_cpu_supports("avx512vbmi2");
    // Intel's processors add products of bfloat16 more slowly than those of float32: with 128
    // columns N:M and packed matrices take 2 to 3 times as long in pairs (family 6 model 207).
    const bool slow = is_intel();
    if (pairs && slow) found.push_back({"avx512_bf16", Level::bf16});
    found.push_back({"x86-64-v4", Level::v4});
    if (pairs && !slow) found.push_back({"avx512_bf16", Level::bf16});
    if (pairs && __builtin_cpu_supports("avx512vnni") && has_amx()) {
      found.push_back({"amx", Level::amx});
    }
  }
  std::erase_if(
      found, [](const Named& one) { return static_cast<int>(one.level) > GOSSAMER_HIGHEST_LEVEL; });
#endif
  return found;
}

Named choose() {
  const std::vector<Named> all = levels();
  const char* wanted = std::getenv("GOSSAMER_ISA");
  if (wanted == nullptr || *wanted == '\0') return all.back();
  std::string names;
  for (const Named& one : all) {
    if (std::string(one.name) == wanted) return one;
    names += names.empty() ? one.name : std::string(", ") + one.name;
  }
  throw ValueError("GOSSAMER_ISA is '" + std::string(wanted) + "', expected one of " + names);
}

const Named& chosen() {
  static const Named level = choose();
  return level;
}

}  // namespace

Level level() { return chosen().level; }

int vector_bytes() {
  switch (level()) {
    case Level::baseline:
      return 16;
    case Level::v3:
      return 32;
    default:
      return 64;
  }
}

bool is_intel() noexcept {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_is("intel") != 0;
#else
  return false;
#endif
}

bool adds_bf16_products() {
#if defined(__x86_64__)
  return level() == Level::bf16;  // processors with tiles are Intel's: levels()
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kBf16 = 1ul << 14;  // HWCAP2_BF16 (Linux: arch/arm64/elf_hwcaps)
  return (getauxval(AT_HWCAP2) & kBf16) != 0;
#else
  return false;
#endif
}

}  // namespace detail

const char* version() noexcept { return GOSSAMER_VERSION; }

const char* isa() { return detail::chosen().name; }

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const detail::Named& one : detail::levels()) names.emplace_back(one.name);
  return names;
}

}  // namespace gossamer
