#pragma once

#include <optional>

#include "gossamer/activation_function.h"
#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/group_quant.h"
#include "gossamer/nm.h"
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
void spmm(const Nm& a, const TensorView& b, const TensorView& out, bool transpose_a = false,
          const Epilogue& epilogue = {});
void spmm(const Packed& a, const TensorView& b, const TensorView& out, bool transpose_a = false,
          const Epilogue& epilogue = {});
void spmm(const GroupQuant& a, const TensorView& b, const TensorView& out, bool transpose_a = false,
          const Epilogue& epilogue = {});

/// out [..., M] = x·Wᵀ + bias with x [..., K], W [M, K].
void linear(const TensorView& x, const Csr& w, const TensorView& out,
            const Epilogue& epilogue = {});
void linear(const TensorView& x, const Bsr& w, const TensorView& out,
            const Epilogue& epilogue = {});
void linear(const TensorView& x, const Nm& w, const TensorView& out, const Epilogue& epilogue = {});
void linear(const TensorView& x, const Packed& w, const TensorView& out,
            const Epilogue& epilogue = {});
void linear(const TensorView& x, const GroupQuant& w, const TensorView& out,
            const Epilogue& epilogue = {});

/// out [nnz]: out[p] = Σ_d a[i, d]·b[j, d] for each entry p = (i, j) of `pattern` [M, N], with
/// a [M, D], b [N, D]. The pattern's values are not read. With `accumulate`, adds to out.
void sddmm(const TensorView& a, const TensorView& b, const Csr& pattern, const TensorView& out,
           bool accumulate = false);

/// out [nb, br, bc]: the blocks of a·bᵀ at the blocks of `pattern`.
void sddmm(const TensorView& a, const TensorView& b, const Bsr& pattern, const TensorView& out,
           bool accumulate = false);

/// Where a backward writes gradients. What is absent is not computed.
struct Gradients {
  /// Of the dense operand, x or b, in its shape; rows may be strided.
  std::optional<TensorView> dense;
  /// Of the sparse matrix's values, in their shape, contiguous.
  std::optional<TensorView> values;
  /// Of the bias [M].
  std::optional<TensorView> bias;
  /// Adds to what is there.
  bool accumulate = false;
};

/// The gradients of y [..., M] = x·Wᵀ + bias of what has the gradient dy [..., M] by y:
/// dx = dy·W, dvalues[p] = Σ_t dy[t, i]·x[t, j] for each value p = (i, j) of W, which is not read
/// for it, and dbias[i] = Σ_t dy[t, i]. x is read for the values alone, and may else be absent.
void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Csr& w,
                     const Gradients& gradients);
void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Bsr& w,
                     const Gradients& gradients);
void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Nm& w,
                     const Gradients& gradients);

/// The gradients of Y = A·B + bias, or Aᵀ·B + bias: db = Aᵀ·dY, or A·dY, dvalues[p] = Σ_t
/// dY[i, t]·B[j, t], or B[i, t]·dY[j, t], for each value p = (i, j) of A, and dbias[i] =
/// Σ_t dY[i, t]. b is read for the values alone, and may else be absent.
void spmm_backward(const TensorView& dy, const Csr& a, const std::optional<TensorView>& b,
                   const Gradients& gradients, bool transpose_a = false);
void spmm_backward(const TensorView& dy, const Bsr& a, const std::optional<TensorView>& b,
                   const Gradients& gradients, bool transpose_a = false);
void spmm_backward(const TensorView& dy, const Nm& a, const std::optional<TensorView>& b,
                   const Gradients& gradients, bool transpose_a = false);

struct SddmmOptions {
  /// What each value is multiplied with before it is written or added.
  double scale = 1.0;
  bool accumulate = false;
};

/// The same for a [..., M, D] and b [..., N, D] with equal leading axes: out [..., nnz] on a
/// pattern [M, N] that all share. With a pattern [G·M, N], where G counts the matrices of the last
/// leading axis or of all, each has rows of its own, one block below the other, and `out` lacks
/// these axes. `out` has a's type, or float32 for 16-bit operands.
void sddmm(const TensorView& a, const TensorView& b, const CsrPattern& pattern,
           const TensorView& out, const SddmmOptions& options);

/// out [..., M, N] = A·B for matrices A of one pattern [M, K] with values [..., nnz], and b
/// [..., K, N]; values [nnz], or b [K, N], are the same for all. `stacked`: `a` is [G·M, K] and
/// holds matrices one below the other, for the last leading axis of b, or for all where values are
/// [nnz]. With `transpose_a`, Aᵀ of each.
void spmm(const CsrPattern& a, const TensorView& values, const TensorView& b, const TensorView& out,
          bool transpose_a, bool stacked, const Epilogue& epilogue = {});

}  // namespace gossamer
