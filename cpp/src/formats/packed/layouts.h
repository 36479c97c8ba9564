#pragma once

// The list of the layouts that a packed matrix may have. A new one is a file in this folder, a
// product in products/, a line here, and a rule in choice.cpp.

#include <concepts>
#include <cstddef>
#include <variant>

#include "formats/packed/bits.h"
#include "formats/packed/blocks.h"
#include "formats/packed/dense.h"
#include "formats/packed/rows.h"
#include "formats/packed/strips.h"

namespace gossamer::detail {

using PackedLayout = std::variant<StripsLayout,  //
                                  BlocksLayout,  //
                                  RowsLayout,    //
                                  DenseLayout,   //
                                  BitsLayout>;

/// What each of them has.
template <class L>
concept Layout = requires(const L& layout, const RowsView& a, const PackOptions& options,
                          const void* values, const SourcePositions& source, const Product& x) {
  { L::kName } -> std::convertible_to<const char*>;
  /// The matrix in this layout; with options.n for products of that width above all.
  { L::make(a, options) } -> std::same_as<L>;
  /// The memory that it holds.
  { layout.bytes() } -> std::same_as<std::int64_t>;
  /// The matrix in row order again.
  { layout.to_rows() } -> std::same_as<OwnedRows>;
  /// What an update must know of the source and is not kept otherwise.
  { layout.source() } -> std::same_as<SourcePositions>;
  /// Takes other values, of the source's type and in its order.
  { layout.update(values, source) } -> std::same_as<void>;
  /// out = epilogue(A·B) for every width of B; defined in products/packed_<name>.cpp.
  { layout.multiply(x) } -> std::same_as<void>;
};

template <class L, class List = PackedLayout>
struct PlaceInList;
template <class L, class... All>
struct PlaceInList<L, std::variant<All...>> {
  static_assert((Layout<All> && ...));
  static constexpr std::size_t value = [] {
    std::size_t place = 0;
    static_cast<void>(((std::same_as<L, All> ? true : (++place, false)) || ...));
    return place;
  }();
};

/// A layout's place in the list: what std::variant calls its index.
template <class L>
inline constexpr std::size_t kLayout = PlaceInList<L>::value;

}  // namespace gossamer::detail
