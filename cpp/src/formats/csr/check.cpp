#include "formats/check.h"

#include <string>

#include "gossamer/detail/format_checks.h"

namespace gossamer::detail {
namespace {

PointerCount pointers_of(const TensorView& w) {
  return {.size = w.shape[0] + 1, .text = "w.shape[0] + 1"};
}

}  // namespace

void check_csr_count(const Checker& check, const TensorView& w,
                     const std::optional<TensorView>& mask, const TensorView& indptr) {
  check_counted(check, w, mask, indptr, pointers_of(w));
}

void check_csr_fill(const Checker& check, const TensorView& w,
                    const std::optional<TensorView>& mask, const TensorView& indptr,
                    const TensorView& indices, const TensorView& values) {
  check_filled(check, w, mask, indptr, pointers_of(w), indices, {"values", values}, 1);
}

void check_csr_to_dense(const Checker& check, const Csr& a, const TensorView& out) {
  check_dense_output(check, a, {"a.values", a.values()}, out);
}

void check_csr_transpose(const Checker& check, const Csr& a, const TensorView& indptr,
                         const TensorView& indices, const std::optional<TensorView>& values,
                         const std::optional<TensorView>& permutation) {
  check.dtype({"indptr", indptr}, a.index_dtype(), "a.indices");
  check.dtype({"indices", indices}, a.index_dtype(), "a.indices");
  if (values) check.dtype({"values", *values}, a.dtype(), "a");
  if (permutation) check.dtype({"permutation", *permutation}, a.index_dtype(), "a.indices");
  const std::initializer_list<Argument> inputs = {
      {"a.indptr", a.indptr()}, {"a.indices", a.indices()}, {"a.values", a.values()}};
  const auto check_part = [&](const Argument& out, std::int64_t size, const char* what) {
    check_output(check, out, a.device(), "a", size, what, inputs);
  };
  check_part({"indptr", indptr}, a.cols() + 1, "a.shape[1] + 1");
  check_part({"indices", indices}, a.nnz(), "a.nnz");
  if (values) check_part({"values", *values}, a.nnz(), "a.nnz");
  if (permutation) check_part({"permutation", *permutation}, a.nnz(), "a.nnz");
}

void check_convert_indices(const Checker& check, const TensorView& from, const TensorView& to) {
  check.index({"from", from});
  check.index({"to", to});
  check.rank({"from", from}, {1});
  check.device({"from", from}, from.device, "from");
  check.layout({"from", from});
  check_output(check, {"to", to}, from.device, "from", from.shape[0], "from.shape[0]",
               {{"from", from}});
}

}  // namespace gossamer::detail

namespace gossamer {

CsrPattern::CsrPattern(const Csr& a) noexcept
    : indptr_(a.indptr()), indices_(a.indices()), rows_(a.rows()), cols_(a.cols()) {}

void CsrPattern::check_values(const TensorView& values) const {
  const detail::Checker check("CSR");
  const detail::Argument argument{"values", values};
  check.floating(argument);
  constexpr int kMost = 5;  // leaves room for the axes of products
  if (values.rank < 1 || values.rank > kMost) {
    check.value_error("values.ndim is " + std::to_string(values.rank) + ", expected 1 to " +
                      std::to_string(kMost));
  }
  if (!(values.device == device())) {
    check.value_error("values is on " + to_string(values.device) + ", expected indptr's device " +
                      to_string(device()));
  }
  check.contiguous(argument);
  check.extent(argument, values.rank - 1, nnz(), "indices.shape[0]");
}

}  // namespace gossamer
