#include "isa.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "gossamer/error.h"
#include "gossamer/runtime.h"

namespace gossamer {
namespace {

struct Level {
  const char* name;
  const kernels::KernelTable* table;
  bool supported;
};

/// Slowest first.
std::vector<Level> levels() {
  std::vector<Level> all = {{"baseline", &kernels::baseline::table, true}};
#if defined(__x86_64__)
  __builtin_cpu_init();
  all.push_back({"x86-64-v3", &kernels::v3::table, __builtin_cpu_supports("x86-64-v3") != 0});
  all.push_back({"x86-64-v4", &kernels::v4::table, __builtin_cpu_supports("x86-64-v4") != 0});
#endif
  std::erase_if(all, [](const Level& level) { return !level.supported; });
  return all;
}

Level choose() {
  const std::vector<Level> all = levels();
  const char* wanted = std::getenv("GOSSAMER_ISA");
  if (wanted == nullptr || *wanted == '\0') return all.back();
  std::string names;
  for (const Level& level : all) {
    if (std::string(level.name) == wanted) return level;
    names += names.empty() ? level.name : std::string(", ") + level.name;
  }
  throw ValueError("GOSSAMER_ISA is '" + std::string(wanted) + "', expected one of " + names);
}

const Level& chosen() {
  static const Level level = choose();
  return level;
}

}  // namespace

const kernels::KernelTable& kernel_table() { return *chosen().table; }

const char* version() noexcept { return GOSSAMER_VERSION; }

const char* isa() { return chosen().name; }

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Level& level : levels()) names.emplace_back(level.name);
  return names;
}

}  // namespace gossamer
