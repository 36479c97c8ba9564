"""Operations on graphs, of which a CSR matrix holds the edges: A[i, j] is the edge from i to j."""

from __future__ import annotations

from typing import Any

from gossamer import _core
from gossamer.formats._csr import CSR

__all__ = ["edge_score", "row_max", "row_sum", "scale_rows_cols", "strength"]

Array = Any


def edge_score(a: CSR, *, out: Array = None) -> Array:
    """Score the edges of a graph by the degrees around them: TEDDY.

    With d_i the entries of row i and n_i = (1/d_i)·Σ_j d_j^-½ over them, the score of edge (i, j)
    is (n_i/d_i)·(n_j/d_j); self-loops get +infinity, so that they are pruned last (Seo et al.,
    2024). `prune.topk_mask(edge_score(a), k)` keeps exactly k edges.

    Parameters
    ----------
    a : CSR [N, N]
        Its values are not read.
    out : array [nnz], float32, written in place

    Returns
    -------
    array [nnz], float32, of a's framework

    Raises
    ------
    TypeError
        For what is not a CSR.
    ValueError
        For a matrix that is not square.

    Examples
    --------
    >>> import numpy as np
    >>> edge_score(CSR.from_dense(np.array([[0.0, 1.0], [1.0, 0.0]])))
    array([1., 1.], dtype=float32)
    """
    result: Array = _core.edge_score(_any_csr("edge_score", "a", a), out)
    return result


def strength(a: CSR, axis: int, *, out: Array = None) -> Array:
    """Sum the magnitudes of each row or column of a sparse matrix.

    axis 1: out[i] = Σ_j |A[i, j]|; axis 0: out[j] = Σ_i |A[i, j]| (the strength of a neuron, as
    QuickSelection ranks input features by).

    Parameters
    ----------
    a : CSR [M, K]
    axis : 0 or 1
        The axis that is summed over.
    out : array [M] or [K] of the result's dtype, written in place

    Returns
    -------
    array [M] or [K], float32 (float64 for float64), of a's framework

    Raises
    ------
    TypeError
        For what is not a CSR.
    ValueError
        For another axis.

    Examples
    --------
    >>> import numpy as np
    >>> strength(CSR.from_dense(np.array([[1.0, -2.0], [0.0, 3.0]])), axis=0)
    array([1., 5.])
    """
    result: Array = _core.strength(_csr_of("strength", "a", a), axis, out)
    return result


def row_sum(a: CSR, *, power: float = 1.0, out: Array = None) -> Array:
    """Sum the values of each row of a sparse matrix.

    out[..., i] = (Σ_j A[..., i, j])^power; with a negative power, 0 where the sum is 0. So
    s = row_sum(a, power=-0.5) is D^-½ and scale_rows_cols(a, rows=s, cols=s) the normalised
    adjacency D^-½·A·D^-½ (Kipf and Welling, 2017). The gradient with respect to the values is
    scale_rows_cols(pattern, rows=g), g being that of the sums (power 1).

    Parameters
    ----------
    a : CSR [M, K], with values [nnz] or [..., nnz], or a pattern
        Entries of a pattern count 1 each.
    power : float
    out : array [M] or [..., M] of the result's dtype, contiguous, written in place

    Returns
    -------
    array [M] or [..., M], float32 (float64 for float64), of the framework of a's arrays

    Raises
    ------
    TypeError
        For what is not a CSR, and for the element type of `out`.
    ValueError
        For the shape and layout of `out`.

    Examples
    --------
    >>> import numpy as np
    >>> a = CSR.from_coo(np.array([[0, 0, 1], [1, 2, 0]]), shape=(3, 3))
    >>> row_sum(a)
    array([2., 1., 0.], dtype=float32)
    """
    result: Array = _core.row_sum(_any_csr("row_sum", "a", a), power, out)
    return result


def row_max(a: CSR, *, out: Array = None) -> Array:
    """Find the largest value of each row of a sparse matrix.

    out[..., i] = max over the entries of row i; -infinity for a row without entries, NaN for one
    that has a NaN.

    Parameters
    ----------
    a : CSR [M, K], with values [nnz] or [..., nnz]
    out : array [M] or [..., M] of the result's dtype, contiguous, written in place

    Returns
    -------
    array [M] or [..., M], float32 (float64 for float64), of a's framework

    Raises
    ------
    TypeError
        For what is not a CSR, and for the element type of `out`.
    ValueError
        For a pattern, and for the shape and layout of `out`.

    Examples
    --------
    >>> import numpy as np
    >>> row_max(CSR.from_dense(np.array([[1.0, -2.0], [0.0, -3.0], [0.0, 0.0]])))
    array([  1.,  -3., -inf])
    """
    result: Array = _core.row_max(_any_csr("row_max", "a", a), out)
    return result


def scale_rows_cols(a: CSR, *, rows: Array = None, cols: Array = None, out: Array = None) -> CSR:
    """Scale the rows and columns of a sparse matrix.

    out = diag(rows)·A·diag(cols), so out.values[..., p] = rows[i]·A.values[..., p]·cols[j].
    With g the gradient of the result's values, that of A's values is scale_rows_cols(G, rows, cols)
    with G = a.with_values(g), and that of `rows` is row_sum(scale_rows_cols(H, cols)) with
    H = a.with_values(g * a.values); for `cols` the same of the transpose.

    Parameters
    ----------
    a : CSR [M, K], with values [nnz] or [..., nnz], or a pattern
        Entries of a pattern are 1.
    rows : array [M], float32 (float64 for float64 values), or None
    cols : array [K] of the same dtype, or None
    out : array [nnz] or [..., nnz] of the result's dtype, contiguous, or None
        Where the result's values are written.

    Returns
    -------
    CSR [M, K]
        Sharing indptr and indices with `a`; values of a's dtype, or of the factors' for a pattern.

    Raises
    ------
    TypeError
        For what is not a CSR, and for element types.
    ValueError
        For shapes and layout; for a pattern without factors.

    Examples
    --------
    >>> import numpy as np
    >>> a = CSR.from_dense(np.array([[1.0, 2.0], [0.0, 3.0]]))
    >>> scale_rows_cols(a, rows=np.array([1.0, 10.0]), cols=np.array([1.0, 2.0])).to_dense()
    array([[ 1.,  4.],
           [ 0., 60.]])
    """
    native = _any_csr("scale_rows_cols", "a", a)
    return a.with_values(_core.scale_rows_cols(native, rows, cols, out))


def _any_csr(op: str, argument: str, a: CSR) -> _core.Csr | _core.CsrPattern:
    """Return the native half of a CSR, whatever its values; raise TypeError for anything else."""
    if not isinstance(a, CSR):
        raise TypeError(f"{op}: {argument} is a {type(a).__name__}, expected a CSR")
    native: _core.Csr | _core.CsrPattern = a._native
    return native


def _csr_of(op: str, argument: str, a: CSR) -> _core.Csr:
    """Return the native half of a CSR; raise TypeError for anything else."""
    if not isinstance(a, CSR):
        raise TypeError(f"{op}: {argument} is a {type(a).__name__}, expected a CSR")
    plain: _core.Csr = a._plain(f"{op}: {argument}.")
    return plain
