#pragma once

// What drop-and-grow of masks and of compressed rows share.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/numbers.h"
#include "gossamer/detail/check.h"
#include "gossamer/regrow.h"

namespace gossamer::detail {

inline std::string text_of(std::int64_t n) { return std::to_string(n); }

/// Throws unless `n`, called `name`, is 0 to `most`: `what` says of what.
inline void check_number(const Checker& check, const char* name, std::int64_t n, std::int64_t most,
                         const char* what) {
  if (n >= 0 && n <= most) return;
  check.value_error(std::string(name) + " is " + text_of(n) + ", expected 0 to " + text_of(most) +
                    ", the number of " + what);
}

inline void check_contiguous(const Checker& check, const Argument& argument) {
  check.layout(argument);
  if (!is_contiguous(argument.view)) {
    check.value_error(std::string(argument.name) + " is strided, expected a contiguous array");
  }
}

inline void check_mask(const Checker& check, const Argument& mask) {
  if (mask.view.dtype != DType::boolean && mask.view.dtype != DType::u8) {
    check.type_error(std::string(mask.name) + ".dtype is " + name_of(mask.view.dtype) +
                     ", expected bool or uint8");
  }
  check_contiguous(check, mask);
}

/// `argument` has the shape of `like`.
inline void check_same_shape(const Checker& check, const Argument& argument, const Argument& like) {
  bool same = argument.view.rank == like.view.rank;
  for (std::size_t d = 0; same && d < static_cast<std::size_t>(like.view.rank); ++d) {
    same = argument.view.shape[d] == like.view.shape[d];
  }
  if (same) return;
  check.value_error(std::string(argument.name) + ".shape is " + shape_string(argument.view) +
                    ", expected " + like.name + ".shape = " + shape_string(like.view));
}

/// An array that follows entries or places; its shape is checked elsewhere.
inline void check_followed(const Checker& check, const regrow::Followed& followed, Device device,
                           const char* like) {
  const Argument array{followed.name, followed.array};
  check.floating(array);
  check.device(array, device, like);
  check_contiguous(check, array);
  if (followed.source) {
    const std::string name = std::string("the values for ") + followed.name;
    const Argument source{name.c_str(), *followed.source};
    check.dtype(source, followed.array.dtype, followed.name);
    check.device(source, device, like);
    check_same_shape(check, source, array);
    check_contiguous(check, source);
    check.writable(array, {source});
  }
  check.writable(array, {});
}

/// The bits of x in a floating type, in the low bytes.
inline std::uint64_t encode(double x, DType dtype) {
  std::uint64_t bits = 0;
  if (dtype == DType::f64) {
    std::memcpy(&bits, &x, 8);
    return bits;
  }
  const auto single = static_cast<float>(x);
  narrow(&single, 1, &bits, dtype);
  return bits;
}

}  // namespace gossamer::detail
