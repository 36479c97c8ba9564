// sddmm and spmm for several sets of operands on one CSR pattern, or on patterns that lie one below
// the other: the products of one set, in a loop.

#include <cstddef>

#include "base/cut.h"
#include "base/floats.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/products.h"

namespace gossamer {
using namespace detail;
namespace {

/// Set `set` of values [..., nnz].
TensorView set_of(const TensorView& values, std::int64_t set, std::int64_t nnz, std::int64_t first,
                  std::int64_t n) {
  return make_view(static_cast<void*>(static_cast<std::byte*>(values.data) +
                                      (set * nnz + first) * size_of(values.dtype)),
                   values.dtype, {n}, values.device);
}

/// Rows [stack·rows, (stack+1)·rows) of a pattern as one of its own.
class PatternPart {
 public:
  PatternPart(const CsrPattern& all, std::int64_t stack, std::int64_t rows)
      : whole_(rows == all.rows()),
        item_(size_of(all.index_dtype())),
        indptr_(whole_ ? 0 : (rows + 1) * item_),
        pattern_(whole_ ? all : part(all, stack * rows, rows)) {}

  [[nodiscard]] const CsrPattern& pattern() const { return pattern_; }
  [[nodiscard]] std::int64_t first() const { return first_; }

 private:
  CsrPattern part(const CsrPattern& all, std::int64_t row0, std::int64_t rows) {
    const DType type = all.index_dtype();
    std::int64_t nnz = 0;
    with_index_type(type, [&](auto zero) {
      using I = decltype(zero);
      const auto* from = static_cast<const I*>(all.indptr().data) + row0;
      auto* to = indptr_.as<I>();
      for (std::int64_t i = 0; i <= rows; ++i) to[i] = static_cast<I>(from[i] - from[0]);
      first_ = from[0];
      nnz = to[rows];
    });
    auto* indices = static_cast<std::byte*>(all.indices().data) + first_ * item_;
    return {make_view(static_cast<void*>(indptr_.data()), type, {rows + 1}, all.device()),
            make_view(static_cast<void*>(indices), type, {nnz}, all.device()), rows, all.cols(),
            Csr::Check::trust};
  }

  bool whole_;
  std::int64_t item_;
  Scratch indptr_;
  std::int64_t first_ = 0;
  CsrPattern pattern_;
};

/// body(set) for each of `sets`, side by side where there are enough for all threads.
template <class F>
void for_each_set(std::int64_t sets, F&& body) {
  if (sets >= std::int64_t{2} * num_threads()) {
    parallel_for(sets, body);
  } else {
    for (std::int64_t set = 0; set < sets; ++set) body(set);
  }
}

template <class T>
void scale_by(T* values, std::int64_t n, double scale) {
  const auto factor = static_cast<T>(scale);
  for (std::int64_t p = 0; p < n; ++p) values[p] *= factor;
}

/// A matrix in the type of sums; the same where it has that type.
class RealMatrix {
 public:
  explicit RealMatrix(const TensorView& x)
      : copy_(size_of(x.dtype) == 2 ? x.numel() * 4 : 0), view_(x) {
    if (size_of(x.dtype) != 2) return;
    widen_rows(x, copy_.data());
    view_ =
        make_view(static_cast<void*>(copy_.data()), DType::f32, {x.shape[0], x.shape[1]}, x.device);
  }
  [[nodiscard]] const TensorView& view() const { return view_; }

 private:
  Scratch copy_;
  TensorView view_;
};

}  // namespace

void sddmm(const TensorView& a, const TensorView& b, const CsrPattern& pattern,
           const TensorView& out, const SddmmOptions& options) {
  const FloatEnvironment floats;
  const MatrixSets all = check_sddmm(Checker("sddmm"), a, b, pattern, out);
  if (out.numel() == 0) return;
  const std::int64_t stacks = all.stacks, rows = all.rows;
  const bool wide_result = out.dtype != a.dtype;
  const std::int64_t nnz = pattern.nnz();
  for_each_set(all.sets, [&](std::int64_t set) {
    const std::int64_t stack = stacks == 1 ? 0 : set % stacks;
    const PatternPart part(pattern, stack, rows);
    const std::int64_t n = part.pattern().nnz();
    const TensorView result = set_of(out, stacks == 1 ? set : set / stacks, nnz, part.first(), n);
    // Values of the pattern are not read: any memory of their size stands for them.
    const Csr matrix = part.pattern().with_values(result);
    const TensorView x = matrix_of(a, set), y = matrix_of(b, set);
    if (options.scale == 1.0 && !wide_result) {
      return sddmm(x, y, matrix, result, options.accumulate);
    }
    const RealMatrix left(x), right(y);
    const bool f64 = a.dtype == DType::f64;
    const Scratch sums(n * (f64 ? 8 : 4));
    const TensorView real = make_view(static_cast<void*>(sums.data()), left.view().dtype, {n});
    sddmm(left.view(), right.view(), matrix, real);
    if (f64) {
      scale_by(sums.as<double>(), n, options.scale);
    } else {
      scale_by(sums.as<float>(), n, options.scale);
    }
    narrow(sums.data(), n, result.data, result.dtype, options.accumulate);
  });
}

void spmm(const CsrPattern& a, const TensorView& values, const TensorView& b, const TensorView& out,
          bool transpose_a, bool stacked, const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const MatrixSets all =
      check_spmm(Checker("spmm"), a, values, b, out, transpose_a, stacked, epilogue);
  if (out.numel() == 0) return;
  for_each_set(all.sets, [&](std::int64_t set) {
    const PatternPart part(a, set % all.stacks, all.rows);
    const std::int64_t n = part.pattern().nnz();
    const std::int64_t value_set = values.rank == 1 ? 0 : set / all.stacks;
    const Csr matrix =
        part.pattern().with_values(set_of(values, value_set, a.nnz(), part.first(), n));
    spmm(matrix, all.same_b ? b : matrix_of(b, set), matrix_of(out, set), transpose_a, epilogue);
  });
}

}  // namespace gossamer
