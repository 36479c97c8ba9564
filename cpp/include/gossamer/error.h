#pragma once

#include <stdexcept>
#include <string>

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

/// A call of the CUDA runtime, or a kernel, that failed: "cudaSetDevice: cudaErrorInvalidDevice".
class CudaError : public std::runtime_error {
 public:
  CudaError(const std::string& call, const std::string& error)
      : std::runtime_error(call + ": " + error) {}
};

}  // namespace gossamer
