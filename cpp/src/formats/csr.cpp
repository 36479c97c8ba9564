#include "gossamer/csr.h"

#include "gossamer/error.h"

namespace gossamer {

Csr::Csr(const TensorView& indptr, const TensorView& indices, const TensorView& values,
         std::int64_t rows, std::int64_t cols, Check check)
    : indptr_(indptr), indices_(indices), values_(values), rows_(rows), cols_(cols) {
  static_cast<void>(check);
}

Csr Csr::with_values(const TensorView& values) const {
  Csr result = *this;
  result.values_ = values;
  return result;
}

std::int64_t csr_count(const TensorView&, const std::optional<TensorView>&, const TensorView&) {
  throw NotImplementedError("csr_count");
}
void csr_fill(const TensorView&, const std::optional<TensorView>&, const TensorView&,
              const TensorView&, const TensorView&) {
  throw NotImplementedError("csr_fill");
}
void csr_to_dense(const Csr&, const TensorView&) { throw NotImplementedError("csr_to_dense"); }
void csr_transpose(const Csr&, const TensorView&, const TensorView&,
                   const std::optional<TensorView>&, const std::optional<TensorView>&) {
  throw NotImplementedError("csr_transpose");
}
void convert_indices(const TensorView&, const TensorView&) {
  throw NotImplementedError("convert_indices");
}

}  // namespace gossamer
