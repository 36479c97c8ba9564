#pragma once

// What a packed matrix is inside: one or more layouts of the same matrix.

#include <array>
#include <cstddef>

#include "base/fork_safe.h"
#include "formats/packed/layouts.h"
#include "gossamer/packed.h"

namespace gossamer {

struct Packed::Impl {
  detail::PackedShape shape;
  PackOptions options;

  Impl(const detail::RowsView& a, const PackOptions& options_);

  /// The layout that a product with `n` columns of B uses, built when it is first asked for.
  [[nodiscard]] const detail::PackedLayout& layout_for(std::int64_t n) const;
  /// The layout in row order, built when it is first asked for: for what the dense one cannot do.
  [[nodiscard]] const detail::PackedLayout& rows_layout() const;
  /// The transpose, packed when it is first asked for.
  [[nodiscard]] const Impl& transposed() const;
  [[nodiscard]] detail::OwnedRows to_rows() const;
  /// Makes what update() needs, which may take long and be interrupted.
  void prepare_update() const;
  /// Takes other values [nnz] of the shape's type.
  void update(const void* values) const;
  /// Never waits for a layout or a transpose that is being packed.
  [[nodiscard]] std::int64_t bytes() const;
  /// Calls visit(layout) for those that are built, in the order of the list.
  template <class Visit>
  void for_layouts(Visit&& visit) const {
    for (const auto& slot : layouts_) {
      if (const detail::PackedLayout* layout = slot.peek()) std::visit(visit, *layout);
    }
  }

 private:
  [[nodiscard]] const detail::PackedLayout& layout_at(std::size_t place) const;

  std::size_t first_;  // of the layout that is always there
  std::array<detail::Once<detail::PackedLayout>, std::variant_size_v<detail::PackedLayout>>
      layouts_;
  detail::Once<Impl> transposed_;
  // For updates, made at the first one.
  std::array<detail::Once<detail::SourcePositions>, std::variant_size_v<detail::PackedLayout>>
      sources_;
  detail::Once<detail::SourcePositions> order_of_transposed_;
};

}  // namespace gossamer
