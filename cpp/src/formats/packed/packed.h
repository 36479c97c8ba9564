#pragma once

// What a packed matrix is inside: one or more layouts of the same matrix.

#include <vector>

#include "base/fork_safe.h"
#include "formats/packed/layouts.h"
#include "gossamer/packed.h"

namespace gossamer {

struct Packed::Impl {
  detail::PackedShape shape;
  PackOptions options;
  std::vector<detail::PackedLayout> layouts;  // in the order of the list, at least one

  Impl(const detail::RowsView& a, const PackOptions& options_);

  /// The layout that a product with `n` columns of B uses.
  [[nodiscard]] const detail::PackedLayout& layout_for(std::int64_t n) const;
  /// The transpose, packed when it is first asked for.
  [[nodiscard]] const Impl& transposed() const;
  /// Never waits for a transpose that is being packed.
  [[nodiscard]] std::int64_t bytes() const;

 private:
  detail::Once<Impl> transposed_;
};

}  // namespace gossamer
