"""Masks with a structure that hardware can use."""

from __future__ import annotations

from typing import Any, Literal

from gossamer import _core
from gossamer.prune._select import Nan, Tie, _native


def nm_mask(
    score: Any,
    n: int,
    m: int,
    *,
    axis: int = -1,
    tie: Tie = "low",
    nan: Nan = "lowest",
    tail: Literal["error", "keep", "pad"] = "error",
    out: Any = None,
) -> Any:
    """Keep the n largest of every m consecutive entries along an axis.

    For hardware that multiplies with n:m sparsity (Mishra et al., arXiv:2104.08378, for 2:4).

    Parameters
    ----------
    score : contiguous array or Score, of at least one axis
        `score(w)` for the magnitudes of w; an array is the score itself.
    n, m : int, 0 ≤ n ≤ m
    axis : int
    tie : "low", or "high" to keep those of larger index among equals
    nan : "lowest", "highest" or "error": where NaN stands in the order
    tail : "error", "keep" or "pad"
        Of entries at the end that fill no group, all are kept, or the n largest.
    out : mask (bool or uint8) of score's shape, or None
        Written in place.

    Returns
    -------
    mask of bool, of score's shape and framework

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For n, m, axis, shapes and layout; for NaN with nan="error".

    Examples
    --------
    >>> import numpy as np
    >>> nm_mask(np.array([0.69, 0.37, 0.96, 0.81]), 2, 4)
    array([False, False,  True,  True])
    """
    return _core.nm_mask(_native(score), n, m, axis, tie, nan, tail, out)


def check_nm(x: Any, n: int, m: int, *, axis: int = -1) -> tuple[int, int]:
    """Count the groups of m consecutive entries along an axis with more than n nonzeros.

    Parameters
    ----------
    x : contiguous array of any type
        A mask, or weights; NaN is not zero. A last group of fewer than m entries is one too.
    n, m : int, 0 ≤ n ≤ m
    axis : int

    Returns
    -------
    violations : int
    first_group : int
        The first of them in row-major order of the groups; -1 where there is none.

    Raises
    ------
    TypeError
        For what is not an array.
    ValueError
        For n, m, axis and layout.

    Examples
    --------
    >>> import numpy as np
    >>> check_nm(np.array([1, 1, 1, 0]), 2, 4)
    (1, 0)
    """
    return _core.check_nm(x, n, m, axis)
