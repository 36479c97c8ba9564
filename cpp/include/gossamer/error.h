#pragma once

#include <stdexcept>

namespace gossamer {

/// A shape, device, layout or range that an operation cannot take.
class ValueError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// An element type that an operation cannot take.
class TypeError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// A combination of operation, format and device for which no kernel exists.
class NotImplementedError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

}  // namespace gossamer
