"""Masks with a structure that hardware can use."""

from __future__ import annotations

from typing import Any, Literal

from gossamer import _core, _interop
from gossamer._numbers import speaking_as
from gossamer.prune._select import Nan, Tie, _native, topk_mask

Reduce = Literal["mean", "max", "l1", "l2"]


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
    score : array or Score, of at least one axis
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


def check_nm(x: Any, n: int, m: int, *, axis: int = -1) -> tuple[int, int | None]:
    """Count the groups of m consecutive entries along an axis with more than n nonzeros.

    Parameters
    ----------
    x : array of any type
        A mask, or weights; NaN is not zero. A last group of fewer than m entries is one too.
    n, m : int, 0 ≤ n ≤ m
    axis : int

    Returns
    -------
    violations : int
    first_group : int or None
        The first of them in row-major order of the groups.

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


def nm_mask_transposable(
    score: Any, n: int, m: int, *, method: Literal["exact", "greedy"] = "exact", out: Any = None
) -> Any:
    """Keep n of each row and n of each column of every m x m block of a matrix.

    The transpose then has the pattern too, for the backward product (Hubara et al.,
    arXiv:2102.08124). "exact" maximises the sum of the scores kept: of several such masks it gives
    the first in lexicographic order. "greedy" takes entries from the largest on.

    Parameters
    ----------
    score : array or Score [R, C], R and C multiples of m
        Counts in units of 2^-38 or less of the largest of its block, 2^-20 beside infinities; NaN
        counts as -infinity.
    n, m : int, 0 ≤ n ≤ m ≤ 64
    method : "exact" or "greedy"
    out : mask (bool or uint8) [R, C], or None
        Written in place.

    Returns
    -------
    mask of bool [R, C], of score's framework

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For n, m, method, shapes and layout.

    Examples
    --------
    >>> import numpy as np
    >>> nm_mask_transposable(np.array([[5.0, 4.0], [4.0, 0.0]]), 1, 2)
    array([[False,  True],
           [ True, False]])
    """
    return _core.nm_mask_transposable(_native(score), n, m, method, out)


def vnm_mask(
    score: Any,
    v: int,
    n: int,
    m: int,
    *,
    method: Literal["exact", "greedy"] = "exact",
    out: Any = None,
) -> Any:
    """Keep four columns of every v x m block of a matrix, and n of those four in each row.

    V:N:M sparsity (Castro et al., VENOM, SC 2023). "exact" takes, of all C(m, 4) choices, the first
    whose rows keep the largest sum; "greedy" finds the columns one by one, for m above 16.

    Parameters
    ----------
    score : array or Score [R, C], R a multiple of v, C of m
        NaN comes last; infinities count as 2^110 in sums (2^1000 in float64).
    v : int
    n : int, 0 ≤ n ≤ 4
    m : int, 4 ≤ m ≤ 64
    method : "exact" or "greedy"
    out : mask (bool or uint8) [R, C], or None
        Written in place.

    Returns
    -------
    mask of bool [R, C], of score's framework

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For v, n, m, method, shapes and layout.

    Examples
    --------
    >>> import numpy as np
    >>> vnm_mask(np.array([[1.0, 5.0, 2.0, 6.0]]), 1, 2, 4)
    array([[False,  True, False,  True]])
    """
    return _core.vnm_mask(_native(score), v, n, m, method, out)


def block_pool(
    score: Any, block: tuple[int, int], *, reduce: Reduce = "mean", out: Any = None
) -> Any:
    """Reduce each block of a matrix to one score.

    "mean" of x, "max" of x, "l1" Σ|x|, "l2" √Σx², over the entries that exist: blocks at the edges
    may be partial. Entries are added down the columns, then across them in a tree, in float32
    (float64 for float64), so that every device gives the same bits. NaN spreads.

    Parameters
    ----------
    score : array or Score [R, C]
    block : (int, int)
    reduce : "mean", "max", "l1" or "l2"
    out : array [⌈R/block[0]⌉, ⌈C/block[1]⌉], or None
        Written in place.

    Returns
    -------
    array [⌈R/block[0]⌉, ⌈C/block[1]⌉] of float32, or float64 for float64

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For block, reduce, shapes and layout.

    Examples
    --------
    >>> import numpy as np
    >>> block_pool(np.arange(1.0, 10.0).reshape(3, 3), (2, 2))
    array([[3. , 4.5],
           [7.5, 9. ]])
    """
    return _core.block_pool(_native(score), block, reduce, out)


def expand_blocks(
    mask: Any, block: tuple[int, int], shape: tuple[int, int], *, out: Any = None
) -> Any:
    """Repeat each entry of a mask of blocks over its block.

    Parameters
    ----------
    mask : mask (bool or uint8) [⌈R/block[0]⌉, ⌈C/block[1]⌉]
    block : (int, int)
    shape : (R, C)
    out : mask (bool or uint8) [R, C], or None
        Written in place.

    Returns
    -------
    mask of bool [R, C], of mask's framework

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For block, shapes and layout.

    Examples
    --------
    >>> import numpy as np
    >>> expand_blocks(np.array([[True, False]]), (2, 2), (2, 3))
    array([[ True,  True, False],
           [ True,  True, False]])
    """
    return _core.expand_blocks(mask, block, shape, out)


def block_mask(
    score: Any,
    k: int,
    block: tuple[int, int],
    *,
    reduce: Reduce = "l1",
    tie: Tie = "low",
    nan: Nan = "lowest",
    out: Any = None,
) -> Any:
    """Keep the k blocks of a matrix whose reduced scores are the largest.

    Parameters
    ----------
    score : array or Score [R, C]
    k : int
        Blocks to keep.
    block : (int, int)
    reduce : "mean", "max", "l1" or "l2", as in `block_pool`
    tie : "low", or "high" to keep blocks of larger index among equals
    nan : "lowest", "highest" or "error": where a block with NaN stands
    out : mask (bool or uint8) [R, C], or None
        Written in place.

    Returns
    -------
    mask of bool [R, C], of score's framework

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For k, block, reduce, shapes and layout; for NaN with nan="error".

    Examples
    --------
    >>> import numpy as np
    >>> block_mask(np.array([[1.0, 1.0, 3.0], [1.0, 1.0, 0.0]]), 1, (2, 2))
    array([[ True,  True, False],
           [ True,  True, False]])
    """
    with speaking_as("block_mask"):
        pooled = block_pool(score, block, reduce=reduce)
        if not hasattr(score, "shape"):
            _interop.unknown(score, "block_mask", "score")
        kept = topk_mask(pooled, k, tie=tie, nan=nan)
        return expand_blocks(kept, block, score.shape, out=out)


def permutation_search(
    w: Any,
    n: int,
    m: int,
    *,
    method: Literal["swap", "stripe8", "stripe12"] = "swap",
    escapes: int = 100,
    seed: int = 0,
    out: Any = None,
) -> tuple[Any, float]:
    """Order the columns of a matrix so that n:m along its rows keeps more.

    Local search (Pool and Yu, NeurIPS 2021): "swap" exchanges two columns, "stripe8" also deals the
    8 columns of two groups in all 35 ways, "stripe12" the 12 of three groups in all 5775, both for
    m = 4. Local optima are left by random exchanges; the best order is kept.

    Parameters
    ----------
    w : array or Score [R, C], C a multiple of m
        The magnitudes of an array, or the score itself; NaN counts as 0.
    n, m : int, 0 ≤ n ≤ m ≤ 64
    method : "swap", "stripe8" or "stripe12"
    escapes : int
    seed : int
    out : int32 array [C], written in place

    Returns
    -------
    perm : int32 array [C]
        `w[:, perm]` is the matrix to prune.
    magnitude : float
        What n:m then keeps, in sum; never less than without the permutation. Infinite where it
        keeps an infinity.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For n, m, method, escapes, shapes and layout.

    Examples
    --------
    >>> import numpy as np
    >>> permutation_search(np.array([[9.0, 8.0, 7.0, 6.0, 1.0, 1.0, 1.0, 1.0]]), 2, 4)[1]
    30.0
    """
    return _core.permutation_search(_native(w), n, m, method, escapes, seed, out)
