#pragma once

// Levels: the instruction sets that kernels are compiled for, and the choice among them.

#include <array>
#include <cstdint>

namespace gossamer::detail {

/// Each has the kernels of those before it. Kernels are compiled for the first three, where the
/// processor's kind has them; beyond x86-64-v4 a level has the kernels alone that name it. On
/// Intel's processors `bf16` is slower than `v4`, so it is not chosen unless it is asked for.
enum class Level : std::uint8_t { baseline, v3, v4, bf16, amx };

/// The chosen level. Throws ValueError where GOSSAMER_ISA names none of this machine.
Level level();

/// The width of the vectors of kernels at the chosen level.
int vector_bytes();

/// Is there a fast instruction that adds two products of bfloat16 in each lane? On x86-64 the
/// chosen level says so, on 64-bit ARM the processor.
bool adds_bf16_products();

/// Is this one of Intel's processors? Some choices among kernels are measured by maker.
bool is_intel() noexcept;

/// A kernel at each level, null where it has none of its own.
template <class Args>
using KernelLevels = std::array<void (*)(const Args&), 5>;

/// The kernel at the chosen level: its own, or that of the next lower level that has one; null
/// where the chosen level is below the kernel's lowest.
template <class Args>
auto choose_kernel(const KernelLevels<Args>& levels) {
  for (auto i = static_cast<std::size_t>(level()) + 1; i-- > 0;) {
    if (levels[i] != nullptr) return levels[i];
  }
  return static_cast<void (*)(const Args&)>(nullptr);
}

}  // namespace gossamer::detail

// The highest level that this build has kernels for, as a number (CMakeLists.txt).
#ifndef GOSSAMER_HIGHEST_LEVEL
#define GOSSAMER_HIGHEST_LEVEL 4
#endif

// GOSSAMER_OR_v3(x, y) is x in a build that has kernels of level v3, else y; so for the others.
#if GOSSAMER_HIGHEST_LEVEL >= 1
#define GOSSAMER_OR_v3(x, y) x
#else
#define GOSSAMER_OR_v3(x, y) y
#endif
#if GOSSAMER_HIGHEST_LEVEL >= 2
#define GOSSAMER_OR_v4(x, y) x
#else
#define GOSSAMER_OR_v4(x, y) y
#endif
#if GOSSAMER_HIGHEST_LEVEL >= 3
#define GOSSAMER_OR_bf16(x, y) x
#else
#define GOSSAMER_OR_bf16(x, y) y
#endif
#if GOSSAMER_HIGHEST_LEVEL >= 4
#define GOSSAMER_OR_amx(x, y) x
#else
#define GOSSAMER_OR_amx(x, y) y
#endif

// A family's kernels.cpp declares its kernels at the levels that they are compiled for, and makes
// a table of those of the chosen level.
#define GOSSAMER_DECLARE_AT(at, name, Args) \
  namespace at {                            \
  void name(const Args&);                   \
  }
#define GOSSAMER_DECLARE_baseline(name, Args) \
  GOSSAMER_DECLARE_AT(baseline, name, Args)   \
  GOSSAMER_DECLARE_v3(name, Args)
#define GOSSAMER_DECLARE_v3(name, Args) \
  GOSSAMER_DECLARE_AT(v3, name, Args)   \
  GOSSAMER_DECLARE_v4(name, Args)
#define GOSSAMER_DECLARE_v4(name, Args) GOSSAMER_DECLARE_AT(v4, name, Args)
#define GOSSAMER_DECLARE_bf16(name, Args) GOSSAMER_DECLARE_AT(bf16, name, Args)
#define GOSSAMER_DECLARE_amx(name, Args) GOSSAMER_DECLARE_AT(amx, name, Args)
#define GOSSAMER_LEVELS_baseline(name) \
  {&baseline::name, GOSSAMER_OR_v3(&v3::name, nullptr), GOSSAMER_OR_v4(&v4::name, nullptr)}
#define GOSSAMER_LEVELS_v3(name) \
  {nullptr, GOSSAMER_OR_v3(&v3::name, nullptr), GOSSAMER_OR_v4(&v4::name, nullptr)}
#define GOSSAMER_LEVELS_v4(name) {nullptr, nullptr, GOSSAMER_OR_v4(&v4::name, nullptr)}
#define GOSSAMER_LEVELS_bf16(name) \
  {nullptr, nullptr, nullptr, GOSSAMER_OR_bf16(&bf16::name, nullptr)}
#define GOSSAMER_LEVELS_amx(name) \
  {nullptr, nullptr, nullptr, nullptr, GOSSAMER_OR_amx(&amx::name, nullptr)}
#define GOSSAMER_DECLARE_KERNEL(lowest, name, Args) GOSSAMER_DECLARE_##lowest(name, Args)
#define GOSSAMER_CHOOSE_KERNEL(lowest, name, Args) \
  choose_kernel<Args>({GOSSAMER_LEVELS_##lowest(name)}),
