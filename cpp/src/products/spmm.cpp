// spmm and linear of CSR and packed matrices: check, then multiply.

#include "base/floats.h"
#include "formats/packed/packed.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/products.h"
#include "products/dense_product.h"
#include "products/product.h"
#include "products/tiles.h"

namespace gossamer {
using namespace detail;
namespace {

void multiply_packed(const Packed::Impl& a, const Product& product) {
  const PackedLayout* layout = &a.layout_for(product.n);
  const std::size_t place = layout->index();
  const bool meets_zeros = place == kLayout<DenseLayout> || place == kLayout<BitsLayout>;
  if (meets_zeros && !all_finite(product)) layout = &a.rows_layout();
  std::visit([&](const auto& one) { one.multiply(product); }, *layout);
}

}  // namespace

void spmm(const Csr& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Checker check("spmm");
  const Product product = check_spmm(check, describe(a), b, out, transpose_a, epilogue);
  check_apart(check, "a", a, out);
  compute(product, [&] {
    if (transpose_a) {
      multiply_transposed(a, product);
    } else {
      multiply(rows_view(a), product);
    }
  });
}

void spmm(const Packed& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Checker check("spmm");
  const Product product = check_spmm(check, describe(a), b, out, transpose_a, epilogue);
  compute(product,
          [&] { multiply_packed(transpose_a ? a.impl().transposed() : a.impl(), product); });
}

void linear(const TensorView& x, const Csr& w, const TensorView& out, const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Checker check("linear");
  const Product product = check_linear(check, x, describe(w), out, epilogue);
  check_apart(check, "w", w, out);
  for_parts(product,
            [&](const Product& part) { compute(part, [&] { multiply(rows_view(w), part); }); });
}

void linear(const TensorView& x, const Packed& w, const TensorView& out, const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Product product = check_linear(Checker("linear"), x, describe(w), out, epilogue);
  for_parts(product,
            [&](const Product& part) { compute(part, [&] { multiply_packed(w.impl(), part); }); });
}

}  // namespace gossamer
