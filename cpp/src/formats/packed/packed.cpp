#include "formats/packed/packed.h"

#include <array>
#include <utility>

#include "base/floats.h"
#include "formats/packed/choice.h"
#include "gossamer/error.h"

namespace gossamer {
using namespace detail;
namespace {

constexpr std::size_t kLayouts = std::variant_size_v<PackedLayout>;

/// Which layouts serve products of the width that the options tell, or of any width.
std::array<bool, kLayouts> wanted_layouts(const PackedShape& shape, const PackOptions& options) {
  std::array<bool, kLayouts> wanted = {};
  if (options.n.has_value()) {
    wanted[fastest_layout(shape, *options.n)] = true;
  } else {
    for (const std::int64_t n : {1, 2, 8, 64}) wanted[fastest_layout(shape, n)] = true;
  }
  return wanted;
}

/// Appends layout I and those after it, where they are wanted.
template <std::size_t I = 0>
void make_layouts(const std::array<bool, kLayouts>& wanted, const RowsView& a,
                  const PackOptions& options, std::vector<PackedLayout>& layouts) {
  if constexpr (I < kLayouts) {
    if (wanted[I])
      layouts.emplace_back(std::variant_alternative_t<I, PackedLayout>::make(a, options));
    make_layouts<I + 1>(wanted, a, options, layouts);
  }
}

}  // namespace

Packed::Impl::Impl(const RowsView& a, const PackOptions& options_)
    : shape(shape_of(a)), options(options_) {
  make_layouts(wanted_layouts(shape, options), a, options, layouts);
}

const PackedLayout& Packed::Impl::layout_for(std::int64_t n) const {
  const std::size_t best = fastest_layout(shape, n);
  for (const PackedLayout& layout : layouts) {
    if (layout.index() == best) return layout;
  }
  return layouts.back();
}

const Packed::Impl& Packed::Impl::transposed() const {
  return transposed_.get([&] {
    const OwnedRows rows =
        std::visit([](const auto& layout) { return layout.to_rows(); }, layouts.back());
    const OwnedRows columns = rows.transposed();
    return Impl(columns.view(), options);
  });
}

std::int64_t Packed::Impl::bytes() const {
  std::int64_t total = 0;
  for (const PackedLayout& layout : layouts) {
    total += std::visit([](const auto& one) { return one.bytes(); }, layout);
  }
  const Impl* transposed = transposed_.peek();
  return total + (transposed != nullptr ? transposed->bytes() : 0);
}

std::int64_t Packed::rows() const noexcept { return impl_->shape.rows; }
std::int64_t Packed::cols() const noexcept { return impl_->shape.cols; }
std::int64_t Packed::nnz() const noexcept { return impl_->shape.nnz; }
DType Packed::dtype() const noexcept { return impl_->shape.dtype; }
std::int64_t Packed::nbytes() const noexcept { return impl_->bytes(); }

std::string Packed::layouts() const {
  std::string names;
  for (const PackedLayout& layout : impl_->layouts) {
    if (!names.empty()) names += '+';
    names += std::visit([](const auto& one) { return one.kName; }, layout);
  }
  return names;
}

Packed pack(const Csr& a, const PackOptions& options) {
  const FloatEnvironment floats;
  if (a.device().type != DeviceType::cpu) {
    throw NotImplementedError("pack: a is on " + to_string(a.device()) +
                              ", which this build has no kernels for");
  }
  if (options.n.has_value() && *options.n < 1) {
    throw ValueError("pack: n is " + std::to_string(*options.n) + ", expected at least 1");
  }
  return Packed(std::make_shared<const Packed::Impl>(rows_view(a), options));
}

}  // namespace gossamer
