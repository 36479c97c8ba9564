"""Steps that pull weights towards zero: proximal operators and soft masks, in place."""

from __future__ import annotations

from typing import Any

from gossamer import _core
from gossamer._numbers import real
from gossamer.prune._segments import groups

Array = Any
#: "row" and "column" of a matrix, or runs of so many elements of a row.
Per = str | int


def soft_threshold_(w: Array, threshold: float) -> Array:
    """Move each weight towards zero by a threshold, and to zero within it.

    w = sign(w)·max(|w| - threshold, 0): the proximal operator of the ℓ1 norm. NaN stays.

    Parameters
    ----------
    w : array [..., C], float32, float64, float16 or bfloat16, written in place
        Row-major, rows may be strided.
    threshold : float

    Returns
    -------
    array [..., C]
        `w`.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For a negative threshold, layout, and a w that cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> soft_threshold_(np.array([2.0, -0.5]), 1.0)
    array([1., 0.])
    """
    _core.soft_threshold_(w, real("soft_threshold_", "threshold", threshold))
    return w


def group_soft_threshold_(w: Array, threshold: float, *, per: Per = "row") -> Array:
    """Shorten each group of weights by a threshold, and to zero within it.

    w_g = w_g·max(0, 1 - threshold/‖w_g‖₂): the proximal operator of the group lasso. A group of
    zeros stays zero for every threshold.

    Parameters
    ----------
    w : array [R, C] or [C], float32, float64, float16 or bfloat16, written in place
        Row-major, rows may be strided.
    threshold : float
    per : "row", "column" or int
        What a group is; a number stands for runs of so many elements of a row.

    Returns
    -------
    array
        `w`.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For a negative threshold, groups that does not fit, layout, a w that cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> group_soft_threshold_(np.array([[3.0, 4.0], [0.0, 0.5]]), 1.0)
    array([[2.4, 3.2],
           [0. , 0. ]])
    """
    op = "group_soft_threshold_"
    _core.group_soft_threshold_(w, real(op, "threshold", threshold), *groups(op, per))
    return w


def l0_project_(w: Array, k: int, *, out: Array = None) -> tuple[Array, Array]:
    """Zero all but the k weights of largest magnitude.

    The projection onto ‖w‖₀ ≤ k; of equal magnitudes the first are kept, NaN is the smallest.

    Parameters
    ----------
    w : array, float32, float64, float16 or bfloat16, contiguous, written in place
    k : int
    out : mask (bool or uint8) of w's shape, written in place

    Returns
    -------
    w : array
    mask : bool array of w's shape and framework
        Where weights were kept, k of them.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For k, layout, and a w that cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> l0_project_(np.array([3.0, -1.0, 2.0, -2.0]), 2)
    (array([3., 0., 2., 0.]), array([ True, False,  True, False]))
    """
    mask: Array = _core.l0_project_(w, k, out)
    return w, mask


def sef_prox_(w: Array, lam: float, k: float, *, per: Per = "row") -> Array:
    """Shrink groups of weights by the sparse envelope of k of them (WGSEF).

    w_g = w_g·u_g/(λ + u_g) with u_g = clip(‖w_g‖₂/η - λ, 0, 1) and η such that Σ u = k: the
    proximal operator of λ·½·min_u Σ ‖w_g‖²/u_g over 0 ≤ u ≤ 1, Σ u ≤ k. The k leading groups are
    shrunk least, the last go to zero.

    Parameters
    ----------
    w : array [R, C] or [C], float32, float64, float16 or bfloat16, written in place
        Row-major, rows may be strided.
    lam : float
        λ ≥ 0.
    k : float
        Groups to keep, 0 to their number.
    per : "row", "column" or int
        What a group is; a number stands for runs of so many elements of a row, 1 for each alone.

    Returns
    -------
    array
        `w`.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For λ, k, a group that does not fit, NaN or infinity, layout, a w that cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> sef_prox_(np.array([4.0, 2.0, 0.0]), 0.5, 1.0, per=1)
    array([2.5, 0.5, 0. ])
    """
    op = "sef_prox_"
    _core.sef_prox_(w, real(op, "lam", lam), real(op, "k", k), *groups(op, per))
    return w


def shrink_(w: Array, mask: Array, *, factor: float = 0.99) -> Array:
    """Multiply the weights that a mask drops, and leave the others.

    w = w·(m + (1 - m)·factor): the soft masks of ISS-P (factor 0.99) and of decaying pruning, with
    a factor that falls from 1 to 0 over the training. Factor 0 writes 0 whatever w is.

    Parameters
    ----------
    w : array [..., C], float32, float64, float16 or bfloat16, written in place
        Row-major, rows may be strided.
    mask : array of w's shape, bool or uint8
    factor : float

    Returns
    -------
    array [..., C]
        `w`.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shapes, layout, and a w that cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> shrink_(np.array([1.0, -2.0]), np.array([True, False]), factor=0.9)
    array([ 1. , -1.8])
    """
    _core.shrink_(w, mask, real("shrink_", "factor", factor))
    return w


def srste_grad_(g: Array, w: Array, mask: Array, *, decay: float = 2e-4) -> Array:
    """Add to a gradient the pull towards zero of the weights that a mask drops: SR-STE.

    g = g + decay·(1 - m)·w (Zhou et al., 2021).

    Parameters
    ----------
    g : array [..., C], float32, float64, float16 or bfloat16, written in place
        Row-major, rows may be strided.
    w : array of g's shape and dtype
    mask : array of g's shape, bool or uint8
    decay : float

    Returns
    -------
    array [..., C]
        `g`.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shapes, layout, and a g that cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> g, w = np.array([0.1, 0.1]), np.array([1.0, -2.0])
    >>> srste_grad_(g, w, np.array([True, False]), decay=0.5)
    array([ 0.1, -0.9])
    """
    _core.srste_grad_(g, w, mask, real("srste_grad_", "decay", decay))
    return g


def polarization(
    gamma: Array, *, t: float = 1.0, alpha: float = 1.0, out: Array = None
) -> tuple[float, Array]:
    """Penalise channel scales that are neither zero nor alike: the polarization regulariser.

    t·‖γ‖₁ - ‖γ - α·mean(γ)‖₁ and a subgradient of it (Zhuang et al., 2020).

    Parameters
    ----------
    gamma : array [C], float32, float64, float16 or bfloat16
        The scales of a batch normalisation, or gates.
    t : float
    alpha : float
    out : array [C] of gamma's dtype, written in place

    Returns
    -------
    value : float
    grad : array [C], of gamma's framework and dtype

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shape and layout.

    Examples
    --------
    >>> import numpy as np
    >>> polarization(np.array([0.0, 1.0, 2.0]))
    (1.0, array([1., 1., 0.]))
    """
    op = "polarization"
    result: tuple[float, Array] = _core.polarization(
        gamma, real(op, "t", t), real(op, "alpha", alpha), out
    )
    return result
