#include "base/token_rows.h"

#include <cstddef>
#include <cstring>

namespace gossamer::detail {
namespace {

std::int64_t bytes_of(const TensorView& x) {
  return is_matrix(x) ? 0 : x.numel() * size_of(x.dtype);
}

TensorView as_matrix(const TensorView& x, const Scratch& copy) {
  if (is_matrix(x)) return x;
  const std::int64_t width = x.shape[static_cast<std::size_t>(x.rank - 1)];
  const std::int64_t rows = width == 0 ? 0 : x.numel() / width;
  return make_view(static_cast<void*>(copy.data()), x.dtype, {rows, width}, x.device);
}

/// Calls visit(row, its first byte in x) in row-major order of the leading axes.
template <class Visit>
void for_rows(const TensorView& x, Visit&& visit) {
  const int leading = x.rank - 1;
  const std::int64_t width = x.shape[static_cast<std::size_t>(leading)];
  const std::int64_t rows = width == 0 ? 0 : x.numel() / width;
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int64_t offset = 0, rest = row;
    for (auto d = static_cast<std::size_t>(leading); d-- > 0;) {
      offset += rest % x.shape[d] * x.strides[d];
      rest /= x.shape[d];
    }
    visit(row, static_cast<std::byte*>(x.data) + offset * size_of(x.dtype));
  }
}

std::size_t row_bytes(const TensorView& x) {
  return static_cast<std::size_t>(x.shape[static_cast<std::size_t>(x.rank - 1)] * size_of(x.dtype));
}

void copy_in(const TensorView& x, std::byte* to) {
  const std::size_t bytes = row_bytes(x);
  for_rows(x, [&](std::int64_t row, const std::byte* from) {
    std::memcpy(to + static_cast<std::size_t>(row) * bytes, from, bytes);
  });
}

}  // namespace

RowsIn::RowsIn(const TensorView& x) : copy_(bytes_of(x)), view_(as_matrix(x, copy_)) {
  if (!is_matrix(x)) copy_in(x, copy_.data());
}

RowsOut::RowsOut(const TensorView& out, bool keep)
    : out_(out), copy_(bytes_of(out)), view_(as_matrix(out, copy_)) {
  if (keep && !is_matrix(out)) copy_in(out, copy_.data());
}

void RowsOut::write() const {
  if (is_matrix(out_)) return;
  const std::size_t bytes = row_bytes(out_);
  for_rows(out_, [&](std::int64_t row, std::byte* to) {
    std::memcpy(to, copy_.data() + static_cast<std::size_t>(row) * bytes, bytes);
  });
}

}  // namespace gossamer::detail
