"""Products with sparse matrices."""

from __future__ import annotations

from typing import Any, Literal, NoReturn, TypeVar

from gossamer import _core
from gossamer.formats._bsr import BSR
from gossamer.formats._csr import CSR
from gossamer.formats._packed import Packed

Array = TypeVar("Array")
Activation = Literal["relu", "relu6", "gelu", "silu"] | tuple[Literal["clamp"], float, float]


def spmm(
    a: CSR | BSR | Packed,
    b: Array,
    *,
    transpose_a: bool = False,
    bias: Any = None,
    activation: Activation | None = None,
    accumulate: bool = False,
    out: Array | None = None,
) -> Array:
    """Multiply a sparse matrix by a dense matrix or vector.

    out = activation(A·B + bias [+ out]), with Aᵀ for A where `transpose_a`.

    Parameters
    ----------
    a : CSR, BSR or Packed [M, K]; [K, M] with `transpose_a`
    b : array [K, N] or [K], of a's dtype, row-major, rows may be strided
    bias : array [M] of a's dtype, or None
        One value for each row of the product.
    activation : "relu", "relu6", "gelu" (exact), "silu", ("clamp", lo, hi) or None
    accumulate : bool
        Adds what `out` holds before the activation.
    out : array [M, N] or [M], or None
        Written in place.

    Returns
    -------
    array [M, N] or [M]
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
        _not_sparse("spmm", "a", a, "a CSR, a BSR or a Packed")
    result: Array = _core.spmm(native, b, transpose_a, bias, activation, accumulate, out)
    return result


def linear(
    x: Array,
    w: CSR | BSR | Packed,
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
    w : CSR, BSR or Packed [M, K]
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
        _not_sparse("linear", "w", w, "a CSR, a BSR or a Packed")
    result: Array = _core.linear(x, native, bias, activation, accumulate, out)
    return result


def sddmm(
    a: Array,
    b: Any,
    pattern: CSR | BSR,
    *,
    accumulate: bool = False,
    out: Array | None = None,
) -> Array:
    """Multiply two dense matrices at the entries of a sparse pattern only.

    out[p] = Σ_d a[i, d]·b[j, d] for each entry p = (i, j) of the pattern.

    Parameters
    ----------
    a : array [M, D], floating, row-major, rows may be strided
    b : array [N, D], of a's dtype and layout
    pattern : CSR or BSR [M, N]
        Its values are not read.
    accumulate : bool
        Adds what `out` holds.
    out : array [nnz], or [nb, br, bc] for a BSR pattern, or None
        Written in place.

    Returns
    -------
    array [nnz] or [nb, br, bc]
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
    result: Array = _core.sddmm(a, b, pattern._native, accumulate, out)
    return result


def _not_sparse(op: str, argument: str, got: object, expected: str) -> NoReturn:
    raise TypeError(f"{op}: {argument} is a {type(got).__name__}, expected {expected}")
