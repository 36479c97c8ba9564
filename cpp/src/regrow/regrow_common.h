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
inline void check_followed(const Checker& check, const Followed& followed, Device device,
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

// Masks are worked on eight bytes at a time.

inline constexpr std::uint64_t kOnes = 0x0101010101010101u;

inline std::uint64_t load_word(const std::uint8_t* p) {
  std::uint64_t word = 0;
  std::memcpy(&word, p, 8);
  return word;
}

/// Up to seven bytes at the end of a mask, then zeros.
inline std::uint64_t load_part(const std::uint8_t* p, std::int64_t n) {
  std::uint64_t word = 0;
  for (std::int64_t i = 0; i < n; ++i) word |= std::uint64_t{p[i]} << (8 * i);
  return word;
}

/// 1 for each byte that is not 0.
inline std::uint64_t ones_of(std::uint64_t word) {
  constexpr std::uint64_t kLow = 0x7f7f7f7f7f7f7f7fu;
  return ((((word & kLow) + kLow) | word) >> 7) & kOnes;
}

/// The sum of eight bytes of 0 or 1.
inline std::int64_t count_ones(std::uint64_t ones) {
  return static_cast<std::int64_t>((ones * kOnes) >> 56);
}

inline std::int64_t count_nonzero(const std::uint8_t* mask, std::int64_t n) {
  std::int64_t count = 0, i = 0;
  for (; i + 8 <= n; i += 8) count += count_ones(ones_of(load_word(mask + i)));
  return count + count_ones(ones_of(load_part(mask + i, n - i)));
}

}  // namespace gossamer::detail
