#pragma once

#include <optional>

#include "gossamer/activation_function.h"
#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/packed.h"
#include "gossamer/tensor.h"

namespace gossamer {

/// What happens to each sum before it is written: y = activation(sum + bias [+ out]).
struct Epilogue {
  /// One value for each row of the sparse matrix's product (each output feature); out's dtype.
  std::optional<TensorView> bias;
  Activation activation = Activation::none;
  /// Bounds of Activation::clamp.
  double lo = 0.0, hi = 0.0;
  /// Adds what `out` holds before the activation.
  bool accumulate = false;
};

// Every operation takes operands of one floating type, accumulates in float32 (float64 for float64)
// in an order that depends neither on the number of threads nor on the run, and writes `out` only
// after all checks have passed. Rows of dense operands may be strided; their last stride is 1.

/// out [M, N] or [M] = A·B with A [M, K], B [K, N] or [K]; with `transpose_a`, A is [K, M].
void spmm(const Csr& a, const TensorView& b, const TensorView& out, bool transpose_a = false,
          const Epilogue& epilogue = {});
void spmm(const Bsr& a, const TensorView& b, const TensorView& out, bool transpose_a = false,
          const Epilogue& epilogue = {});
void spmm(const Packed& a, const TensorView& b, const TensorView& out, bool transpose_a = false,
          const Epilogue& epilogue = {});

/// out [..., M] = x·Wᵀ + bias with x [..., K], W [M, K].
void linear(const TensorView& x, const Csr& w, const TensorView& out,
            const Epilogue& epilogue = {});
void linear(const TensorView& x, const Bsr& w, const TensorView& out,
            const Epilogue& epilogue = {});
void linear(const TensorView& x, const Packed& w, const TensorView& out,
            const Epilogue& epilogue = {});

/// out [nnz]: out[p] = Σ_d a[i, d]·b[j, d] for each entry p = (i, j) of `pattern` [M, N], with
/// a [M, D], b [N, D]. The pattern's values are not read. With `accumulate`, adds to out.
void sddmm(const TensorView& a, const TensorView& b, const Csr& pattern, const TensorView& out,
           bool accumulate = false);

/// out [nb, br, bc]: the blocks of a·bᵀ at the blocks of `pattern`.
void sddmm(const TensorView& a, const TensorView& b, const Bsr& pattern, const TensorView& out,
           bool accumulate = false);

}  // namespace gossamer
