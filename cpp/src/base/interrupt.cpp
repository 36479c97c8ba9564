#include "base/interrupt.h"

namespace gossamer {
namespace detail {

constinit thread_local InterruptState own_interrupt;

void InterruptState::look(std::uint64_t now) {
  const bool first = last == 0;
  last = now;
  if (!first) check(context);
}

}  // namespace detail

InterruptScope::InterruptScope(Check check, void* context) noexcept
    : check_before_(detail::own_interrupt.check), context_before_(detail::own_interrupt.context) {
  detail::own_interrupt = {.check = check, .context = context};
}

InterruptScope::~InterruptScope() {
  detail::own_interrupt = {.check = check_before_, .context = context_before_};
}

}  // namespace gossamer
