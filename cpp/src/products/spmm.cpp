#include "gossamer/detail/check.h"
#include "gossamer/products.h"
#include "products/product.h"

namespace gossamer {
using namespace detail;

void spmm(const Csr& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue) {
  const Checker check("spmm");
  const Product product = check_spmm(check, describe(a), b, out, transpose_a, epilogue);
  check_apart(check, "a", a, out);
  if (transpose_a) {
    multiply_transposed(a, product);
  } else {
    multiply(rows_view(a), product);
  }
}

void spmm(const Packed& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue) {
  const Checker check("spmm");
  const Product product = check_spmm(check, describe(a), b, out, transpose_a, epilogue);
  multiply(transpose_a ? a.impl().transposed() : a.impl(), product);
}

void linear(const TensorView& x, const Csr& w, const TensorView& out, const Epilogue& epilogue) {
  const Checker check("linear");
  const Product product = check_linear(check, x, describe(w), out, epilogue);
  check_apart(check, "w", w, out);
  multiply(rows_view(w), product);
}

void linear(const TensorView& x, const Packed& w, const TensorView& out, const Epilogue& epilogue) {
  multiply(w.impl(), check_linear(Checker("linear"), x, describe(w), out, epilogue));
}

}  // namespace gossamer
