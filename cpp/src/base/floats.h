#pragma once

#include <cstdint>

namespace gossamer::detail {

/// How this thread's processor treats floating-point numbers: the rounding mode, whether it flushes
/// subnormal numbers to zero, which exceptions it traps. Zero on processors of other kinds.
using FloatMode = std::uint64_t;

#if defined(__x86_64__)
/// MXCSR without the flags that arithmetic leaves behind; all exceptions masked, nothing else set.
inline constexpr FloatMode kFloatMode = 0x1f80;
inline constexpr FloatMode kFloatFlags = 0x3f;
inline FloatMode float_mode() noexcept { return __builtin_ia32_stmxcsr(); }
inline void set_float_mode(FloatMode mode) noexcept {
  __builtin_ia32_ldmxcsr(static_cast<unsigned>(mode));
}
#elif defined(__aarch64__)
/// FPCR; the flags have a register of their own.
inline constexpr FloatMode kFloatMode = 0, kFloatFlags = 0;
inline FloatMode float_mode() noexcept {
  FloatMode mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
inline void set_float_mode(FloatMode mode) noexcept {
  asm volatile("msr fpcr, %0" : : "r"(mode) : "memory");
}
#else
inline constexpr FloatMode kFloatMode = 0, kFloatFlags = 0;
inline FloatMode float_mode() noexcept { return 0; }
inline void set_float_mode(FloatMode) noexcept {}
#endif

/// The library's floating-point environment for this thread, for as long as it lives: round to
/// nearest, keep subnormal numbers, trap nothing. Then the caller's is back, which may flush
/// (torch.set_flush_denormal, -ffast-math) or round otherwise. First in every public function that
/// reads or writes floats, so that results depend neither on the caller's environment nor on which
/// thread computed what; the threads of the pool have the same. Costs 3 ns where nothing differs.
class FloatEnvironment {
 public:
  FloatEnvironment() noexcept : before_(float_mode()) {
    if (differs()) [[unlikely]] {
      set_float_mode(kFloatMode);
    }
  }
  ~FloatEnvironment() {
    if (differs()) [[unlikely]] {
      set_float_mode(before_);
    }
  }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  [[nodiscard]] bool differs() const noexcept { return (before_ & ~kFloatFlags) != kFloatMode; }

  FloatMode before_;
};

}  // namespace gossamer::detail
