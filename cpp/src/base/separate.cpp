#include "base/separate.h"

#include <algorithm>
#include <utility>

namespace gossamer::detail {

void Separate::add(std::string name, const TensorView& array, bool written) {
  const auto* begin = static_cast<const std::byte*>(array.data);
  const std::int64_t bytes = array.numel() * size_of(array.dtype);
  if (bytes > 0) ranges_.push_back({begin, begin + bytes, written, std::move(name)});
}

void Separate::check() {
  std::sort(ranges_.begin(), ranges_.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  // Of the ranges so far, the one that is written and the one that is read that reach farthest.
  const Range *written = nullptr, *read = nullptr;
  for (const Range& range : ranges_) {
    for (const Range* other : {written, range.written ? read : nullptr}) {
      if (other == nullptr || other->end <= range.begin) continue;
      const Range &out = range.written ? range : *other, &in = range.written ? *other : range;
      check_.value_error(out.name + " overlaps " + in.name + ", expected separate memory");
    }
    const Range*& farthest = range.written ? written : read;
    if (farthest == nullptr || farthest->end < range.end) farthest = &range;
  }
}

}  // namespace gossamer::detail
