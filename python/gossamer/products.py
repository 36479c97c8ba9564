"""Products with sparse matrices."""

from __future__ import annotations

from typing import Any, Literal, NoReturn, TypeVar

from gossamer import _core, _interop
from gossamer.formats._bsr import BSR
from gossamer.formats._csr import CSR
from gossamer.formats._nm import NM
from gossamer.formats._packed import Packed
from gossamer.formats._quant import GroupQuant

Array = TypeVar("Array")
Activation = Literal["relu", "relu6", "gelu", "silu"] | tuple[Literal["clamp"], float, float]


def spmm(
    a: CSR | BSR | NM | Packed | GroupQuant,
    b: Array,
    *,
    transpose_a: bool = False,
    stacked: bool = False,
    bias: Any = None,
    activation: Activation | None = None,
    accumulate: bool = False,
    out: Array | None = None,
) -> Array:
    """Multiply a sparse matrix by a dense matrix or vector.

    out = activation(A·B + bias [+ out]), with Aᵀ for A where `transpose_a`.

    Parameters
    ----------
    a : CSR, BSR, NM, Packed or GroupQuant [M, K]; [K, M] with `transpose_a`
        A CSR with values [..., nnz] is a matrix for each leading index, and b and out have these
        axes, too; b may also be the same for all.
    b : array [K, N] or [K], of a's dtype, row-major, rows may be strided; or [..., K, N] (CSR)
    stacked : bool
        `a` is a CSR [G·M, K] that holds the matrices for the last leading axis of b one below the
        other; for all leading axes where its values are [nnz].
    bias : array [M] of a's dtype, or None
        One value for each row of the product.
    activation : "relu", "relu6", "gelu" (exact), "silu", ("clamp", lo, hi) or None
    accumulate : bool
        Adds what `out` holds before the activation.
    out : array [M, N] or [M], or None
        Written in place.

    Returns
    -------
    array [M, N] or [M], or [..., M, N]
        `out`, or a new array of b's framework.

    Raises
    ------
    TypeError
        For element types that differ or are not floating, and for what is not an array.
    ValueError
        For shape, layout and device; for an `out` that is read-only or overlaps an operand.

    Examples
    --------
    >>> import numpy as np
    >>> a = CSR.from_dense(np.array([[1.0, 0.0], [0.0, 2.0]]))
    >>> spmm(a, np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[1., 2.],
           [6., 8.]])
    """
    try:
        native = a._native
    except AttributeError:
        _not_sparse("spmm", "a", a, "a CSR, a BSR, an NM, a Packed or a GroupQuant")
    if stacked or type(native) is _core.CsrPattern:
        if not isinstance(native, (_core.Csr, _core.CsrPattern)):
            _not_sparse("spmm", "a", a, "a CSR where it is stacked")
        result: Array = _core.spmm_batched(
            native, b, transpose_a, stacked, bias, activation, accumulate, out
        )
        return result
    result = _core.spmm(native, b, transpose_a, bias, activation, accumulate, out)
    return result


def linear(
    x: Array,
    w: CSR | BSR | NM | Packed | GroupQuant,
    *,
    bias: Any = None,
    activation: Activation | None = None,
    accumulate: bool = False,
    out: Array | None = None,
) -> Array:
    """Apply a layer with sparse weights to row-major activations.

    out = activation(x·Wᵀ + bias [+ out]).

    Parameters
    ----------
    x : array [..., K], of w's dtype; the last axis has stride 1, the leading ones any stride ≥ 0
    w : CSR, BSR, NM, Packed or GroupQuant [M, K]
    bias : array [M] of w's dtype, or None
    activation : "relu", "relu6", "gelu" (exact), "silu", ("clamp", lo, hi) or None
    accumulate : bool
        Adds what `out` holds before the activation.
    out : array [..., M], or None
        Written in place.

    Returns
    -------
    array [..., M]
        `out`, or a new array of x's framework.

    Raises
    ------
    TypeError
        For element types that differ or are not floating, and for what is not an array.
    ValueError
        For shape, layout and device; for an `out` that is read-only or overlaps an operand.

    Examples
    --------
    >>> import numpy as np
    >>> w = CSR.from_dense(np.array([[1.0, 0.0], [0.0, -2.0], [3.0, 0.0]]))
    >>> linear(np.array([[1.0, 2.0]]), w, activation="relu")
    array([[1., 0., 3.]])
    """
    try:
        native = w._native
    except AttributeError:
        _not_sparse("linear", "w", w, "a CSR, a BSR, an NM, a Packed or a GroupQuant")
    result: Array = _core.linear(x, native, bias, activation, accumulate, out)
    return result


def sddmm(
    a: Array,
    b: Any,
    pattern: CSR | BSR,
    *,
    scale: float = 1.0,
    dtype: str | None = None,
    accumulate: bool = False,
    out: Array | None = None,
) -> Array:
    """Multiply two dense matrices at the entries of a sparse pattern only.

    out[..., p] = scale·Σ_d a[..., i, d]·b[..., j, d] for each entry p = (i, j) of the pattern.

    Parameters
    ----------
    a : array [M, D], floating, row-major, rows may be strided; or [..., M, D] (CSR)
    b : array [N, D] or [..., N, D], of a's dtype and layout
    pattern : CSR or BSR [M, N]
        Its values are not read. A CSR [G·M, N] has rows for each matrix of the last leading axis,
        or of all of them, one block below the other; the result then lacks these axes.
    scale : float
    dtype : "float32" or None
        The result's type for float16 or bfloat16 operands, where it is not theirs.
    accumulate : bool
        Adds what `out` holds.
    out : array [nnz] or [..., nnz], or [nb, br, bc] for a BSR pattern, or None
        Written in place.

    Returns
    -------
    array [nnz] or [..., nnz], or [nb, br, bc]
        `out`, or a new array of a's framework; `pattern.with_values(out)` makes a matrix of it.

    Raises
    ------
    TypeError
        For element types that differ or are not floating, and for what is not an array.
    ValueError
        For shape, layout and device; for an `out` that is read-only or overlaps an operand.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> sddmm(a, a, CSR.from_dense(np.array([[0.0, 1.0], [0.0, 1.0]])))
    array([11., 25.])
    """
    if not isinstance(pattern, (CSR, BSR)):
        _not_sparse("sddmm", "pattern", pattern, "a CSR or a BSR")
    native = pattern._native
    if (
        not (isinstance(scale, float) and scale == 1.0)
        or dtype is not None
        or isinstance(native, _core.CsrPattern)
    ):
        if isinstance(native, _core.Bsr):
            _not_sparse("sddmm", "pattern", pattern, "a CSR where scale or dtype is given")
        result: Array = _core.sddmm_batched(a, b, native, scale, dtype, accumulate, out)
        return result
    result = _core.sddmm(a, b, native, accumulate, out)
    return result


def linear_backward(
    dy: Array,
    x: Any,
    w: CSR | BSR | NM,
    *,
    needs: tuple[bool, bool, bool] = (True, True, True),
    accumulate: bool = False,
    out: tuple[Any, Any, Any] | None = None,
) -> tuple[Any, Any, Any]:
    """Return the gradients of `linear` without an activation: y = x·Wᵀ + bias.

    dx = dy·W, dvalues[p] = Σ_t dy[t, i]·x[t, j] for each value p = (i, j) of w, and
    dbias[i] = Σ_t dy[t, i].

    Parameters
    ----------
    dy : array [..., M], of w's dtype; the last axis has stride 1, the leading ones any stride ≥ 0
        The gradient by y.
    x : array [..., K], as dy, or None where dvalues are not needed
    w : CSR, BSR or NM [M, K]
    needs : three flags
        Which of dx, dvalues and dbias to compute, as PyTorch's `needs_input_grad` has them.
    accumulate : bool
        Adds to what `out` holds.
    out : (dx, dvalues, dbias), each an array or None, written in place; or None

    Returns
    -------
    dx [..., K], dvalues (in the shape of w's values), dbias [M]
        Of dy's dtype and framework; None for what is not needed.

    Raises
    ------
    TypeError
        For element types that differ, and for what is not an array.
    ValueError
        For shape, layout and device; for outputs that overlap each other or an operand.

    Examples
    --------
    >>> import numpy as np
    >>> w = CSR.from_dense(np.array([[1.0, 0.0], [0.0, 2.0]]))
    >>> linear_backward(np.array([[1.0, 1.0]]), np.array([[3.0, 4.0]]), w)
    (array([[1., 2.]]), array([3., 4.]), array([1., 1.]))
    """
    if not isinstance(w, (CSR, BSR, NM)):
        _not_sparse("linear_backward", "w", w, "a CSR, a BSR or an NM")
    gradients: tuple[Any, Any, Any] = _core.linear_backward(
        dy, x, w._native, needs, accumulate, out
    )
    return gradients


def spmm_backward(
    dy: Array,
    a: CSR | BSR | NM,
    b: Any,
    *,
    transpose_a: bool = False,
    needs: tuple[bool, bool, bool] = (True, True, True),
    accumulate: bool = False,
    out: tuple[Any, Any, Any] | None = None,
) -> tuple[Any, Any, Any]:
    """Return the gradients of `spmm` without an activation: Y = A·B + bias.

    db = Aᵀ·dY, dvalues[p] = Σ_t dY[i, t]·B[j, t] for each value p = (i, j) of a, and
    dbias[i] = Σ_t dY[i, t]. With `transpose_a`, Aᵀ stands for A.

    Parameters
    ----------
    dy : array [M, N] or [M], of a's dtype, row-major, rows may be strided
        The gradient by Y.
    a : CSR, BSR or NM [M, K]; [K, M] with `transpose_a`
    b : array [K, N] or [K], as dy, or None where dvalues are not needed
    needs : three flags
        Which of dvalues, db and dbias to compute.
    accumulate : bool
        Adds to what `out` holds.
    out : (dvalues, db, dbias), each an array or None, written in place; or None

    Returns
    -------
    dvalues (in the shape of a's values), db [K, N] or [K], dbias [M]
        Of dy's dtype and framework; None for what is not needed.

    Raises
    ------
    TypeError
        For element types that differ, and for what is not an array.
    ValueError
        For shape, layout and device; for outputs that overlap each other or an operand.

    Examples
    --------
    >>> import numpy as np
    >>> a = CSR.from_dense(np.array([[1.0, 0.0], [0.0, 2.0]]))
    >>> spmm_backward(np.array([1.0, 1.0]), a, np.array([3.0, 4.0]))
    (array([3., 4.]), array([1., 2.]), array([1., 1.]))
    """
    if not isinstance(a, (CSR, BSR, NM)):
        _not_sparse("spmm_backward", "a", a, "a CSR, a BSR or an NM")
    gradients: tuple[Any, Any, Any] = _core.spmm_backward(
        dy, a._native, b, transpose_a, needs, accumulate, out
    )
    return gradients


def _not_sparse(op: str, argument: str, got: object, expected: str) -> NoReturn:
    hint = _interop.sparse_hint(got)
    raise TypeError(f"{op}: {argument} is a {type(got).__name__}, expected {expected}{hint}")
