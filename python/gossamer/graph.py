"""Measures of graphs: scores of edges and strengths of nodes."""

from __future__ import annotations

from typing import Any

from gossamer import _core
from gossamer.formats._csr import CSR

__all__ = ["edge_score", "strength"]

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
    result: Array = _core.edge_score(_csr_of("edge_score", "a", a), out)
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


def _csr_of(op: str, argument: str, a: CSR) -> _core.Csr:
    """Return the native half of a CSR; raise TypeError for anything else."""
    if not isinstance(a, CSR):
        raise TypeError(f"{op}: {argument} is a {type(a).__name__}, expected a CSR")
    return a._native
