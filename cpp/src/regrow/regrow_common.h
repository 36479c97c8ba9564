#pragma once

// What drop-and-grow of masks and of compressed rows share.

#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "base/numbers.h"
#include "gossamer/detail/check.h"
#include "gossamer/regrow.h"

namespace gossamer::detail {

/// Throws unless `n`, called `name`, is 0 to `most`: `what` says of what.
inline void check_number(const Checker& check, const char* name, std::int64_t n, std::int64_t most,
                         const char* what) {
  if (n >= 0 && n <= most) return;
  check.value_error(std::string(name) + " is " + std::to_string(n) + ", expected 0 to " +
                    std::to_string(most) + ", the number of " + what);
}

/// The arrays that follow are floating, contiguous and writable, and share no memory with `others`
/// nor with each other, nor with the values for new places. Their shapes are checked elsewhere.
inline void check_followed(const Checker& check, std::span<const regrow::Followed> arrays,
                           Device device, const char* like,
                           std::initializer_list<Argument> others) {
  for (const regrow::Followed& followed : arrays) {
    const Argument array{followed.name, followed.array};
    check.floating(array);
    check.device(array, device, like);
    check.contiguous(array);
    check.writable(array, others);
    if (!followed.source) continue;
    const std::string name = std::string("the values for ") + followed.name;
    const Argument source{name.c_str(), *followed.source};
    check.dtype(source, followed.array.dtype, followed.name);
    check.device(source, device, like);
    check.same_shape(source, array);
    check.contiguous(source);
    for (const Argument& other : others) check.writable(other, {source});
  }
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const Argument array{arrays[i].name, arrays[i].array};
    for (std::size_t j = 0; j < arrays.size(); ++j) {
      const std::string name = std::string("the values for ") + arrays[j].name;
      if (arrays[j].source) check.writable(array, {{name.c_str(), *arrays[j].source}});
      if (j < i) check.writable(array, {{arrays[j].name, arrays[j].array}});
    }
  }
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
