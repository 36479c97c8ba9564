"""Softmax and attention over the entries of a CSR pattern."""

from __future__ import annotations

from typing import Any, Literal

from gossamer import _core
from gossamer._numbers import several
from gossamer.formats._csr import CSR

Array = Any
Score = Literal["dot", "gat"]


def csr_softmax(a: CSR, *, out: Array = None) -> CSR:
    """Apply softmax to the stored entries of each row of a sparse matrix.

    P[i, j] = e^(A[i, j]) / Σ_j' e^(A[i, j']) over the entries of row i, for each leading index of
    the values. Rows without entries stay empty; one whose entries are all -infinity gets zeros.

    Parameters
    ----------
    a : CSR [M, N], with values [nnz] or [..., nnz]
    out : array of the shape and dtype of a's values, contiguous, or None
        Where the result's values are written.

    Returns
    -------
    CSR [M, N]
        Sharing indptr and indices with `a`, its values of a's dtype.

    Raises
    ------
    TypeError
        For what is not a CSR, and for the element type of `out`.
    ValueError
        For a pattern without values; for the shape and layout of `out`.

    Examples
    --------
    >>> import numpy as np
    >>> csr_softmax(CSR.from_dense(np.array([[1.0, 0.0, 1.0], [0.0, 5.0, 0.0]]))).to_dense()
    array([[0.5, 0. , 0.5],
           [0. , 1. , 0. ]])
    """
    native = _csr_of("csr_softmax", "a", a)
    return a.with_values(_core.csr_softmax(native, out))


def csr_softmax_backward(p: CSR, grad: Array, *, out: Array = None) -> CSR:
    """Compute the gradient of `csr_softmax`.

    With G the gradient with respect to P: D[i, j] = P[i, j]·(G[i, j] - Σ_j' P[i, j']·G[i, j']).

    Parameters
    ----------
    p : CSR [M, N]
        What csr_softmax returned.
    grad : array of the shape and dtype of p's values, contiguous
    out : array of the same shape and dtype, or None
        Where the result's values are written.

    Returns
    -------
    CSR [M, N]
        The gradient with respect to the values of csr_softmax's argument, of p's structure.

    Raises
    ------
    TypeError
        For what is not a CSR, and for element types.
    ValueError
        For shapes and layout.

    Examples
    --------
    >>> import numpy as np
    >>> p = csr_softmax(CSR.from_dense(np.array([[1.0, 1.0]])))
    >>> csr_softmax_backward(p, np.array([1.0, 0.0])).values
    array([ 0.25, -0.25])
    """
    native = _csr_of("csr_softmax_backward", "p", p)
    return p.with_values(_core.csr_softmax_backward(native, grad, out))


def csr_attention(
    q: Array,
    k: Array,
    v: Array,
    pattern: CSR,
    *,
    score: Score = "dot",
    scale: float | None = None,
    slope: float = 0.2,
    bias: Array = None,
    out: tuple[Array, Array] = (None, None),
) -> tuple[Array, Array]:
    """Attend over the entries of a CSR pattern: query i sees key j where there is an entry (i, j).

    o_i = Σ_j e^(s_ij - lse_i)·v_j with lse_i = log Σ_j e^(s_ij), where s_ij = scale·⟨q_i, k_j⟩ +
    bias_ij or, for graphs ("gat": Velickovic et al., 2018), scale·leaky(q_i + k_j) + bias_ij with
    leaky(x) = x for x > 0, else slope·x. A row without entries gets o = 0 and lse = -infinity.

    Parameters
    ----------
    q : array [B, M, H, D], [M, H, D] or [M, D]; without D for "gat"; any strides, last axis dense
    k : array [B, N, H', D], … as q, H' a divisor of H; v : array [B, N, H', Dv], …
    pattern : CSR [M, N], or [H·M, N] or [B·H·M, N]: one for each head, one below the other
        Its values are not read.
    score : "dot" or "gat"
    scale : float, or None for 1/√D ("dot") or 1 ("gat")
    slope : float
    bias : array [nnz], [H, nnz] or [B, H, nnz] of q's dtype, contiguous, or None
    out : (array of o, array of lse), each may be None
        Written in place.

    Returns
    -------
    o : array [B, M, H, Dv], …, of q's dtype
    lse : array [B, H, M], [H, M] or [M], float32 (float64 for float64)

    Raises
    ------
    TypeError
        For element types.
    ValueError
        For shapes, layout and device.

    Examples
    --------
    >>> import numpy as np
    >>> x, pattern = np.eye(2), CSR.from_dense(np.triu(np.ones((2, 2))))
    >>> csr_attention(x, x, x, pattern, scale=0.0)[0]
    array([[0.5, 0.5],
           [0. , 1. ]])
    """
    native = _csr_of("csr_attention", "pattern", pattern)
    result: tuple[Array, Array] = _core.csr_attention(
        q, k, v, native, score, scale, slope, bias, *several("csr_attention", "out", out, 2)
    )
    return result


def csr_attention_backward(  # noqa: PLR0917
    grad: Array,
    q: Array,
    k: Array,
    v: Array,
    o: Array,
    lse: Array,
    pattern: CSR,
    *,
    score: Score = "dot",
    scale: float | None = None,
    slope: float = 0.2,
    bias: Array = None,
    dlse: Array = None,
    out: tuple[Array, ...] | None = None,
) -> tuple[Array, ...]:
    """Compute the gradients of `csr_attention`; the same bits on every run.

    With p_ij = e^(s_ij - lse_i) and g_ij = p_ij·(⟨grad_i, v_j⟩ - ⟨grad_i, o_i⟩ + dlse_i): dv_j =
    Σ_i p_ij·grad_i, dq_i = scale·Σ_j g_ij·k_j, dk_j = scale·Σ_i g_ij·q_i, dbias_ij = g_ij, summed
    over the axes that the bias lacks. Scores are computed anew: nothing of size nnz is kept but,
    for dbias, one number for each head and entry.

    Parameters
    ----------
    grad : array of o's shape, the gradient with respect to o
    q, k, v : as given to csr_attention; o, lse : what it returned
    pattern, score, scale, slope, bias : as given to csr_attention
    dlse : array of lse's shape and dtype, the gradient with respect to lse, or None
    out : (dq, dk, dv) or (dq, dk, dv, dbias) to write, or None

    Returns
    -------
    dq, dk, dv, and dbias where there is a bias
        Of the shapes and dtypes of q, k, v and bias.

    Raises
    ------
    TypeError
        For element types.
    ValueError
        For shapes, layout and device.

    Examples
    --------
    >>> import numpy as np
    >>> x, pattern = np.eye(2), CSR.from_dense(np.triu(np.ones((2, 2))))
    >>> o, lse = csr_attention(x, x, x, pattern)
    >>> dq, dk, dv = csr_attention_backward(np.ones((2, 2)), x, x, x, o, lse, pattern)
    >>> dq.shape, dk.shape, dv.shape
    ((2, 2), (2, 2), (2, 2))
    """
    native = _csr_of("csr_attention_backward", "pattern", pattern)
    wanted = 3 if bias is None else 4
    outs = several(
        "csr_attention_backward", "out", (None,) * wanted if out is None else out, wanted
    )
    return _core.csr_attention_backward(
        grad, q, k, v, o, lse, native, score, scale, slope, bias, dlse, outs
    )


def _csr_of(op: str, argument: str, a: CSR) -> _core.Csr | _core.CsrPattern:
    """Return the native half of a CSR, whatever its values; raise TypeError for anything else."""
    if not isinstance(a, CSR):
        raise TypeError(f"{op}: {argument} is a {type(a).__name__}, expected a CSR")
    native: _core.Csr | _core.CsrPattern = a._native
    return native
