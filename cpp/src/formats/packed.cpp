#include "gossamer/packed.h"

#include "gossamer/error.h"

namespace gossamer {

struct Packed::Impl {
  std::int64_t rows, cols, nnz;
};

std::int64_t Packed::rows() const noexcept { return impl_->rows; }
std::int64_t Packed::cols() const noexcept { return impl_->cols; }
std::int64_t Packed::nnz() const noexcept { return impl_->nnz; }
DType Packed::dtype() const noexcept { return DType::f32; }
std::int64_t Packed::nbytes() const noexcept { return 0; }
std::string Packed::layouts() const { return ""; }

Packed pack(const Csr&, const PackOptions&) { throw NotImplementedError("pack"); }

}  // namespace gossamer
