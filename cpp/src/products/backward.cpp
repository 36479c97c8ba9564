// The gradients of spmm and linear: a product with the transpose, a sampled product of dense
// matrices, and sums.

#include <algorithm>

#include "base/cut.h"
#include "base/floats.h"
#include "base/kernels.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "base/token_rows.h"
#include "formats/rows_view.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/products.h"
#include "products/dense_rows.h"
#include "products/product.h"
#include "products/tiles.h"

namespace gossamer {
using namespace detail;
namespace {

std::int64_t real_size(DType type) { return type == DType::f64 ? 8 : 4; }

/// The rows of a dense operand [rows, n], each as it lies in memory: the caller's memory where they
/// lie so, else a copy in the type of sums.
class Vectors {
 public:
  Vectors(const DenseView& x, std::int64_t rows, std::int64_t n)
      : copy_(x.transposed && n != 1
                  ? rows * spread_stride(n, real_size(x.type)) * real_size(x.type)
                  : 0),
        view_(make_view(x.data, x.type, {rows, n})) {
    view_.strides[0] = x.transposed ? 1 : x.stride;  // one column is a vector
    if (!x.transposed || n == 1) return;
    constexpr std::int64_t kRows = 256;
    const bool f64 = x.type == DType::f64;
    const std::int64_t ld = spread_stride(n, real_size(x.type));
    for_tasks(ceil_div(rows, kRows), 0.3 * static_cast<double>(rows) * static_cast<double>(n),
              [&](std::int64_t task) {
                const std::int64_t row = task * kRows;
                base_kernels().convert_tile({.src = at(x.data, row * size_of(x.type)),
                                             .src_type = x.type,
                                             .stride = x.stride,
                                             .transposed = true,
                                             .rows = std::min(kRows, rows - row),
                                             .cols = n,
                                             .dst = copy_.data() + row * ld * real_size(x.type),
                                             .ld = ld,
                                             .pad = false,
                                             .f64 = f64});
              });
    view_ = make_view(static_cast<void*>(copy_.data()), f64 ? DType::f64 : DType::f32, {rows, n});
    view_.strides[0] = ld;
  }

  [[nodiscard]] const TensorView& view() const noexcept { return view_; }

 private:
  Scratch copy_;
  TensorView view_;
};

/// Adds `rows` rows of n numbers to the sums, one after the other.
template <class T>
void add_rows(const T* from, std::int64_t rows, std::int64_t n, T* sums) {
  for (std::int64_t r = 0; r < rows; ++r, from += n) {
    for (std::int64_t i = 0; i < n; ++i) sums[i] += from[i];
  }
}

/// The sum of n numbers, in 16 partial sums.
template <class T>
T sum_of(const T* from, std::int64_t n) {
  T part[16] = {};
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (std::int64_t l = 0; l < 16; ++l) part[l] += from[i + l];
  }
  for (; i < n; ++i) part[i % 16] += from[i];
  for (std::int64_t half = 8; half > 0; half /= 2) {
    for (std::int64_t l = 0; l < half; ++l) part[l] += part[l + half];
  }
  return part[0];
}

/// out[i] = Σ_j x(i, j), x [m, n], for i in [first, last).
template <class T>
void sum_range(const DenseView& x, std::int64_t n, std::int64_t first, std::int64_t last,
               const TensorView& out, bool accumulate) {
  constexpr std::int64_t kTogether = 16, kPart = 1024;
  const std::int64_t size = size_of(x.type), count = last - first;
  const Scratch sums(count * std::int64_t{sizeof(T)});
  T* total = sums.as<T>();
  std::fill_n(total, count, T{0});
  const Scratch wide(std::max(kTogether * count, kPart) * std::int64_t{sizeof(T)});
  if (x.transposed) {
    for (std::int64_t j = 0; j < n; j += kTogether) {
      const std::int64_t rows = std::min(kTogether, n - j);
      widen(at(x.data, (j * x.stride + first) * size), x.type, x.stride, rows, count, wide.data());
      add_rows(wide.as<const T>(), rows, count, total);
    }
  } else {
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t j = 0; j < n; j += kPart) {
        const std::int64_t part = std::min(kPart, n - j);
        widen(at(x.data, ((first + i) * x.stride + j) * size), x.type, part, wide.data());
        total[i] += sum_of(wide.as<const T>(), part);
      }
    }
  }
  narrow(total, count, at(out.data, first * size), out.dtype, accumulate);
}

void sum_rows(const DenseView& x, std::int64_t m, std::int64_t n, const TensorView& out,
              bool accumulate) {
  constexpr std::int64_t kRows = 512;
  for_tasks(ceil_div(m, kRows), 0.3 * static_cast<double>(m) * static_cast<double>(n),
            [&](std::int64_t task) {
              const std::int64_t first = task * kRows, last = std::min(m, first + kRows);
              if (x.type == DType::f64) {
                sum_range<double>(x, n, first, last, out, accumulate);
              } else {
                sum_range<float>(x, n, first, last, out, accumulate);
              }
            });
}

void multiply_by(const Csr& a, const Product& product, bool transpose) {
  compute(product, [&] {
    if (transpose) {
      multiply_transposed(a, product);
    } else {
      multiply(rows_view(a), product);
    }
  });
}
void multiply_by(const Bsr& a, const Product& product, bool transpose) {
  multiply(a, product, transpose);
}
void multiply_by(const Nm& a, const Product& product, bool transpose) {
  multiply(a, product, transpose);
}

/// The gradient of the values: dyᵀ and bᵀ sampled at the pattern.
template <class Format>
void differentiate_values(const Format& a, const BackwardProduct& x, bool transposed,
                          const TensorView& out, bool accumulate) {
  const Vectors y(x.dy, x.m, x.n), b(x.b, x.k, x.n);
  sample(transposed ? b.view() : y.view(), transposed ? y.view() : b.view(), a, out, accumulate);
}

template <class Format>
void differentiate(const Format& a, const BackwardProduct& x, bool transposed,
                   const Gradients& gradients) {
  if (gradients.dense) {
    const Product product{
        .b = x.dy, .out = x.db, .m = x.k, .k = x.m, .n = x.n, .accumulate = gradients.accumulate};
    multiply_by(a, product, !transposed);
  }
  if (gradients.values) {
    differentiate_values(a, x, transposed, *gradients.values, gradients.accumulate);
  }
  if (gradients.bias) sum_rows(x.dy, x.m, x.n, *gradients.bias, gradients.accumulate);
}

Argument values_of(const Csr& a) { return {"values", a.values()}; }
Argument values_of(const Bsr& a) { return {"blocks", a.blocks()}; }
Argument values_of(const Nm& a) { return {"values", a.values()}; }

/// No gradient lies in the sparse matrix.
template <class Format>
void check_all_apart(const Checker& check, const char* sparse, const Format& a, const char* dense,
                     const Gradients& gradients) {
  if (gradients.dense) check_apart(check, sparse, a, *gradients.dense, dense);
  if (gradients.values) check_apart(check, sparse, a, *gradients.values, "dvalues");
  if (gradients.bias) check_apart(check, sparse, a, *gradients.bias, "dbias");
}

template <class Format>
void backward_of_linear(const TensorView& dy, const std::optional<TensorView>& x, const Format& w,
                        const Gradients& gradients) {
  const Checker check("linear_backward");
  const auto checked = [&](const TensorView& of_y, const std::optional<TensorView>& of_x,
                           const Gradients& to) {
    return check_linear_backward(check, of_y, of_x, describe(w), values_of(w), to);
  };
  const BackwardProduct product = checked(dy, x, gradients);
  check_all_apart(check, "w", w, "dx", gradients);
  const auto tokens = [&](const std::optional<TensorView>& view) {
    return check.tokens({"", view.value_or(dy)});
  };
  const TensorView in_y = tokens(dy), in_x = tokens(x), in_dx = tokens(gradients.dense);
  if (is_matrix(in_y) && is_matrix(in_x) && is_matrix(in_dx)) {
    return differentiate(w, product, false, gradients);
  }
  const RowsIn y(in_y), rows_of_x(in_x);
  const RowsOut dx(in_dx, gradients.dense && gradients.accumulate);
  Gradients to = gradients;
  if (gradients.dense) to.dense = dx.view();
  const auto operand = x ? std::optional(rows_of_x.view()) : std::nullopt;
  differentiate(w, checked(y.view(), operand, to), false, to);
  if (gradients.dense) dx.write();
}

template <class Format>
void backward_of_spmm(const TensorView& dy, const Format& a, const std::optional<TensorView>& b,
                      const Gradients& gradients, bool transpose_a) {
  const Checker check("spmm_backward");
  const BackwardProduct product =
      check_spmm_backward(check, dy, describe(a), b, values_of(a), transpose_a, gradients);
  check_all_apart(check, "a", a, "db", gradients);
  differentiate(a, product, transpose_a, gradients);
}

}  // namespace

void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Csr& w,
                     const Gradients& gradients) {
  const FloatEnvironment floats;
  backward_of_linear(dy, x, w, gradients);
}

void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Bsr& w,
                     const Gradients& gradients) {
  const FloatEnvironment floats;
  backward_of_linear(dy, x, w, gradients);
}

void spmm_backward(const TensorView& dy, const Csr& a, const std::optional<TensorView>& b,
                   const Gradients& gradients, bool transpose_a) {
  const FloatEnvironment floats;
  backward_of_spmm(dy, a, b, gradients, transpose_a);
}

void spmm_backward(const TensorView& dy, const Bsr& a, const std::optional<TensorView>& b,
                   const Gradients& gradients, bool transpose_a) {
  const FloatEnvironment floats;
  backward_of_spmm(dy, a, b, gradients, transpose_a);
}

void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Nm& w,
                     const Gradients& gradients) {
  const FloatEnvironment floats;
  backward_of_linear(dy, x, w, gradients);
}

void spmm_backward(const TensorView& dy, const Nm& a, const std::optional<TensorView>& b,
                   const Gradients& gradients, bool transpose_a) {
  const FloatEnvironment floats;
  backward_of_spmm(dy, a, b, gradients, transpose_a);
}

}  // namespace gossamer
