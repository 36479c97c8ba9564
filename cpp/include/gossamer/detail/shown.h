#pragma once

// Numbers of floating types in messages.

#include <array>
#include <charconv>
#include <string>

namespace gossamer::detail {

/// The shortest decimal that is read as `x`, as Python prints it: 0.1, 2.0, 1e+300.
inline std::string shown(double x) {
  std::array<char, 32> digits{};
  const double size = x < 0 ? -x : x;
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto form = plain ? std::chars_format::fixed : std::chars_format::scientific;
  const auto written = std::to_chars(digits.data(), digits.data() + digits.size(), x, form);
  std::string result(digits.data(), written.ptr);
  if (plain && result.find('.') == std::string::npos) result += ".0";
  return result;
}

}  // namespace gossamer::detail
