#include "gossamer/error.h"
#include "gossamer/ops.h"

namespace gossamer {

void spmm(const Csr&, const TensorView&, const TensorView&, bool, const Epilogue&) {
  throw NotImplementedError("spmm");
}
void spmm(const Packed&, const TensorView&, const TensorView&, bool, const Epilogue&) {
  throw NotImplementedError("spmm");
}
void linear(const TensorView&, const Csr&, const TensorView&, const Epilogue&) {
  throw NotImplementedError("linear");
}
void linear(const TensorView&, const Packed&, const TensorView&, const Epilogue&) {
  throw NotImplementedError("linear");
}

}  // namespace gossamer
