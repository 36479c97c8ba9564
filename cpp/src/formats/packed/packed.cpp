#include "formats/packed/packed.h"

#include <cstdio>
#include <utility>

#include "base/floats.h"
#include "base/interrupt.h"
#include "base/work.h"
#include "formats/packed/choice.h"
#include "gossamer/detail/check.h"
#include "gossamer/error.h"
#include "gossamer/runtime.h"

namespace gossamer {
using namespace detail;
namespace {

constexpr std::size_t kLayouts = std::variant_size_v<PackedLayout>;

/// The layout in this place of the list.
template <std::size_t I = 0>
PackedLayout make_layout(std::size_t place, const RowsView& a, const PackOptions& options) {
  if constexpr (I + 1 < kLayouts) {
    if (place != I) return make_layout<I + 1>(place, a, options);
  }
  return std::variant_alternative_t<I, PackedLayout>::make(a, options);
}

}  // namespace

Packed::Impl::Impl(const RowsView& a, const PackOptions& options_)
    : shape(shape_of(a)),
      options(options_),
      first_(choose_layout(shape, options.n.value_or(1)).layout) {
  layouts_[first_].get([&] { return make_layout(first_, a, options); });
}

const PackedLayout& Packed::Impl::layout_for(std::int64_t n) const {
  return layout_at(options.n.has_value() ? first_ : choose_layout(shape, n).layout);
}

const PackedLayout& Packed::Impl::rows_layout() const { return layout_at(kLayout<RowsLayout>); }

const PackedLayout& Packed::Impl::layout_at(std::size_t place) const {
  return layouts_[place].get([&] { return make_layout(place, to_rows().view(), options); });
}

OwnedRows Packed::Impl::to_rows() const {
  return std::visit([](const auto& layout) { return layout.to_rows(); }, *layouts_[first_].peek());
}

const Packed::Impl& Packed::Impl::transposed() const {
  return transposed_.get([&] {
    const OwnedRows columns = to_rows().transposed();
    return Impl(columns.view(), options);
  });
}

void Packed::Impl::prepare_update() const {
  for (std::size_t place = 0; place < layouts_.size(); ++place) {
    const PackedLayout* built = layouts_[place].peek();
    if (built == nullptr) continue;
    std::visit([&](const auto& layout) { sources_[place].get([&] { return layout.source(); }); },
               *built);
  }
  const Impl* transposed = transposed_.peek();
  if (transposed == nullptr) return;
  order_of_transposed_.get([&] { return to_rows().transposed_order(); });
  transposed->prepare_update();
}

void Packed::Impl::update(const void* values) const {
  for (std::size_t place = 0; place < layouts_.size(); ++place) {
    const PackedLayout* built = layouts_[place].peek();
    if (built == nullptr) continue;
    std::visit(
        [&](const auto& layout) {
          layout.update(values, sources_[place].get([&] { return layout.source(); }));
        },
        *built);
  }
  const Impl* transposed = transposed_.peek();
  if (transposed == nullptr) return;
  const SourcePositions& order =
      order_of_transposed_.get([&] { return to_rows().transposed_order(); });
  const std::int64_t size = size_of(shape.dtype);
  const Buffer<std::byte> in_order(shape.nnz * size);
  gather_values(values, order, size, in_order.data());
  transposed->update(in_order.data());
}

std::int64_t Packed::Impl::bytes() const {
  std::int64_t total = 0;
  for_layouts([&](const auto& layout) { total += layout.bytes(); });
  const Impl* transposed = transposed_.peek();
  const SourcePositions* order = order_of_transposed_.peek();
  for (const auto& source : sources_) {
    if (const SourcePositions* positions = source.peek()) total += positions->bytes();
  }
  return total + (transposed != nullptr ? transposed->bytes() : 0) +
         (order != nullptr ? order->bytes() : 0);
}

std::int64_t Packed::rows() const noexcept { return impl_->shape.rows; }
std::int64_t Packed::cols() const noexcept { return impl_->shape.cols; }
std::int64_t Packed::nnz() const noexcept { return impl_->shape.nnz; }
DType Packed::dtype() const noexcept { return impl_->shape.dtype; }
std::int64_t Packed::nbytes() const noexcept { return impl_->bytes(); }
std::optional<std::int64_t> Packed::width() const noexcept { return impl_->options.n; }

std::string Packed::layouts() const {
  std::string names;
  impl_->for_layouts([&](const auto& layout) {
    if (!names.empty()) names += '+';
    names += layout.kName;
  });
  return names;
}

std::string Packed::why() const {
  const PackedShape& shape = impl_->shape;
  const auto name = [](std::size_t place) {
    std::string names[kLayouts];
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      ((names[I] = std::variant_alternative_t<I, PackedLayout>::kName), ...);
    }(std::make_index_sequence<kLayouts>());
    return names[place];
  };
  std::string text;
  if (impl_->options.n.has_value()) {
    text = choose_layout(shape, *impl_->options.n).why;
  } else {
    for (const std::int64_t n : {1, 8, 64}) {
      text += (text.empty() ? "" : ", ") + name(choose_layout(shape, n).layout) +
              " for n = " + std::to_string(n);
    }
  }
  char density[16];
  std::snprintf(density, sizeof density, "%.3g", shape.density());
  return text + "; density " + density + ", " + isa();
}

void Packed::update(const TensorView& values) {
  const FloatEnvironment floats;
  const Checker check("Packed.update");
  const Argument argument{"values", values};
  check.rank(argument, {1});
  check.dtype(argument, dtype(), "packed");
  check.device(argument, device(), "packed");
  check.extent(argument, 0, nnz(), "packed.nnz");
  check.contiguous(argument);
  impl_->prepare_update();
  const Uninterrupted whole;
  impl_->update(values.data);
}

void Packed::unpack(const TensorView& indptr, const TensorView& indices,
                    const TensorView& values) const {
  const Checker check("Packed.unpack");
  check.shape({"indptr", indptr}, {rows() + 1});
  check.shape({"indices", indices}, {nnz()});
  check.shape({"values", values}, {nnz()});
  check.dtype({"values", values}, dtype(), "packed");
  for (const Argument& out :
       {Argument{"indptr", indptr}, Argument{"indices", indices}, Argument{"values", values}}) {
    check.device(out, device(), "packed");
    check.contiguous(out);
    check.writable(out, {});
  }
  const OwnedRows source = impl_->to_rows();
  const auto as_view = [](const Buffer<std::int64_t>& buffer) {
    return make_view(static_cast<const void*>(buffer.data()), DType::i64, {buffer.size()});
  };
  convert_indices(as_view(source.indptr), indptr);
  convert_indices(as_view(source.indices), indices);
  std::copy_n(source.values.data(), source.values.bytes(), static_cast<std::byte*>(values.data));
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
