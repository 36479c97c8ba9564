#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "gossamer/detail/check.h"

namespace gossamer::detail {

/// The contiguous arrays of one call that must be kept apart: one that is written shares no memory
/// with any other.
class Separate {
 public:
  explicit Separate(const Checker& check) : check_(check) {}

  void reads(std::string name, const TensorView& array) { add(std::move(name), array, false); }
  void writes(std::string name, const TensorView& array) { add(std::move(name), array, true); }
  /// Throws ValueError where an array that is written overlaps another.
  void check();

 private:
  struct Range {
    const std::byte *begin, *end;
    bool written;
    std::string name;
  };
  void add(std::string name, const TensorView& array, bool written);

  const Checker& check_;
  std::vector<Range> ranges_;
};

}  // namespace gossamer::detail
