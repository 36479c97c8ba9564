"""Twins of the operations in place that leave their operands alone and return new arrays.

For JAX, whose arrays nobody may write, and for whoever wants to keep the old ones. They work on
copies, outside of jit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from gossamer import _interop, prune
from gossamer._numbers import integer, refuse, speaking_as
from gossamer.formats._bsr import BSR
from gossamer.formats._csr import CSR
from gossamer.prune._proximal import Per
from gossamer.prune._select import Nan, Tie
from gossamer.regrow import Matrix, Regrow

__all__ = [
    "Regrown",
    "RegrownMatrix",
    "coverage_or",
    "csr_drop_grow",
    "drop_grow",
    "dsnot_rows",
    "group_soft_threshold",
    "l0_project",
    "obs_block",
    "obs_prune",
    "sef_prox",
    "shrink",
    "soft_threshold",
    "srste_grad",
]

Array = Any


class Regrown(NamedTuple):
    """What `drop_grow` returns."""

    mask: Array
    weights: Array
    states: tuple[Array, ...]


class RegrownMatrix(NamedTuple):
    """What `csr_drop_grow` returns."""

    matrix: Any
    src: Array
    states: tuple[Array, ...]


def drop_grow(
    mask: Array,
    drop_score: Any,
    grow_score: Any,
    n_drop: int,
    n_grow: int,
    *,
    regrow: Regrow = "allow",
    forbid: Array = None,
    weights: Array = None,
    init: Any = 0.0,
    states: Iterable[Array] = (),
    state_init: Any = 0.0,
    clear_states: bool = False,
    tie: Tie = "low",
    nan: Nan = "lowest",
) -> Regrown:
    """Drop the worst active entries of a mask and grow the best inactive ones (RigL).

    The twin of `regrow.drop_grow_`.

    Parameters
    ----------
    mask, drop_score, grow_score, n_drop, n_grow, regrow, forbid, weights, init, states,
    state_init, clear_states, tie, nan
        As for `regrow.drop_grow_`; nothing is written.

    Returns
    -------
    Regrown (mask, weights, states)
        New arrays of the frameworks of those given; weights are None where none were given.

    Raises
    ------
    ValueError
        As `regrow.drop_grow_`.

    Examples
    --------
    >>> import numpy as np
    >>> mask, w = np.array([1, 1, 0, 0], bool), np.array([3.0, 1.0, 0.0, 0.0])
    >>> new, v, _ = drop_grow(mask, abs(w), np.array([9.0, 1.0, 2.0, 4.0]), 1, 1, weights=w)
    >>> new, v, w
    (array([ True, False, False,  True]), array([3., 0., 0., 0.]), array([3., 1., 0., 0.]))
    """
    from gossamer.regrow import drop_grow_

    old = (mask, weights, *states)
    names = ("mask", "weights", *(f"states[{i}]" for i in range(len(old) - 2)))
    new = [
        None if x is None else _interop.writable(x, "drop_grow", name)
        for x, name in zip(old, names, strict=True)
    ]
    drop_grow_(
        new[0],
        drop_score,
        grow_score,
        n_drop,
        n_grow,
        regrow=regrow,
        forbid=forbid,
        weights=new[1],
        init=init,
        states=new[2:],
        state_init=state_init,
        clear_states=clear_states,
        tie=tie,
        nan=nan,
    )
    made = _returned(new, old)
    return Regrown(made[0], made[1], tuple(made[2:]))


def csr_drop_grow(
    a: Matrix,
    grow: Any,
    n_drop: int,
    n_grow: int,
    *,
    drop_score: Any = None,
    keep: Array = None,
    regrow: Regrow = "allow",
    forbid: CSR | BSR | None = None,
    init: float = 0.0,
    states: Iterable[Array] = (),
    tie: Tie = "low",
    nan: Nan = "lowest",
) -> RegrownMatrix:
    """Drop entries of a sparse matrix and grow others.

    The twin of `regrow.csr_drop_grow_`; it needs no room.

    Parameters
    ----------
    a, grow, n_drop, n_grow, drop_score, keep, regrow, forbid, init, tie, nan
        As for `regrow.csr_drop_grow_`; nothing is written.
    states : arrays [nnz, ...], floating

    Returns
    -------
    RegrownMatrix (matrix, src, states)
        A matrix and states over new arrays of the frameworks of those given, and the old position
        of each entry or -1.

    Raises
    ------
    TypeError, ValueError
        As `regrow.csr_drop_grow_`.

    Examples
    --------
    >>> import numpy as np
    >>> a = CSR.from_dense(np.array([[5.0, 0.0], [1.0, 0.0]]))
    >>> b, src, _ = csr_drop_grow(a, np.array([[0.0, 7.0], [0.0, 8.0]]), 0, 1)
    >>> b.indices, src, a.indices
    (array([0, 0, 1], dtype=int32), array([ 0,  1, -1], dtype=int32), array([0, 0], dtype=int32))
    """
    from gossamer.regrow import csr_drop_grow_

    if not isinstance(a, (CSR, BSR)):
        raise TypeError(f"csr_drop_grow: a is a {type(a).__name__}, expected a CSR or a BSR")
    native: Any = a._native
    op = "csr_drop_grow"
    if getattr(native, a._VALUES) is None:
        raise ValueError(f"{op}: a.values is None, expected an array of values")
    try:
        states = tuple(states)
    except TypeError:
        got = type(states).__name__
        raise TypeError(f"{op}: states is of type {got}, expected a list of arrays") from None
    more = integer(op, "n_grow", n_grow) - max(0, integer(op, "n_drop", n_drop))
    places = math.prod(a.shape) // math.prod(getattr(a, "block", ())) - len(native.indices)
    if more > places:
        most = places + max(0, int(n_drop))
        refuse(op, "n_grow", n_grow, f"at most {most}, the places without an entry that stays")
    extra = max(0, more)
    old = (native.indptr, native.indices, a._values(), *states)
    indptr, *rest = (_interop.writable(x, op, "states") for x in old)
    indices, values, *moved = (_interop.longer(x, extra) for x in rest)
    nnz = len(native.indices)
    kind: Any = type(a)
    made = kind(
        *(indptr, indices[:nnz], values[:nnz], a.shape), check=False, index_dtype=a.index_dtype
    )
    with speaking_as(op):
        made, src = csr_drop_grow_(
            made,
            grow,
            n_drop,
            n_grow,
            drop_score=drop_score,
            keep=keep,
            regrow=regrow,
            forbid=forbid,
            init=init,
            states=moved,
            room=(indices, values) if extra else None,
            tie=tie,
            nan=nan,
        )
    count = len(made._native.indices)
    moved = _returned([x[:count] for x in moved], old[3:])
    if any(_interop.is_jax(x) for x in old[:3]):
        parts = made._arrays()
        made = made._remade(dict(zip(parts, _returned(list(parts.values()), old[:3]), strict=True)))
        (src,) = _returned([src], old[1:2])
    return RegrownMatrix(made, src, tuple(moved))


def soft_threshold(w: Array, threshold: float) -> Array:
    """Return sign(w)·max(|w| - threshold, 0), the twin of `prune.soft_threshold_`.

    Parameters
    ----------
    w : array [..., C], floating
    threshold : float

    Returns
    -------
    array [..., C]

    Raises
    ------
    TypeError, ValueError
        As `prune.soft_threshold_`.

    Examples
    --------
    >>> import numpy as np
    >>> soft_threshold(np.array([3.0, -0.5]), 1.0)
    array([2., 0.])
    """
    new = _interop.writable(w, "soft_threshold", "w")
    prune.soft_threshold_(new, threshold)
    return _returned([new], (w,))[0]


def group_soft_threshold(w: Array, threshold: float, *, per: Per = "row") -> Array:
    """Shrink the norms of groups of weights, the twin of `prune.group_soft_threshold_`.

    Parameters
    ----------
    w : array [R, C] or [C], floating
    threshold : float
    per : "row", "column" or int

    Returns
    -------
    array of w's shape

    Raises
    ------
    TypeError, ValueError
        As `prune.group_soft_threshold_`.

    Examples
    --------
    >>> import numpy as np
    >>> group_soft_threshold(np.array([[3.0, 4.0], [0.0, 0.5]]), 1.0)
    array([[2.4, 3.2],
           [0. , 0. ]])
    """
    new = _interop.writable(w, "group_soft_threshold", "w")
    prune.group_soft_threshold_(new, threshold, per=per)
    return _returned([new], (w,))[0]


def sef_prox(w: Array, lam: float, k: float, *, per: Per = "row") -> Array:
    """Shrink groups by the sparse envelope of k of them, the twin of `prune.sef_prox_`.

    Parameters
    ----------
    w : array [R, C] or [C], floating
    lam, k : float
    per : "row", "column" or int

    Returns
    -------
    array of w's shape

    Raises
    ------
    TypeError, ValueError
        As `prune.sef_prox_`.

    Examples
    --------
    >>> import numpy as np
    >>> sef_prox(np.array([4.0, 2.0, 0.0]), 0.5, 1.0, per=1)
    array([2.5, 0.5, 0. ])
    """
    new = _interop.writable(w, "sef_prox", "w")
    prune.sef_prox_(new, lam, k, per=per)
    return _returned([new], (w,))[0]


def l0_project(w: Array, k: int) -> tuple[Array, Array]:
    """Keep the k largest magnitudes of an array, the twin of `prune.l0_project_`.

    Parameters
    ----------
    w : array, floating
    k : int

    Returns
    -------
    w, mask : arrays

    Raises
    ------
    TypeError, ValueError
        As `prune.l0_project_`.

    Examples
    --------
    >>> import numpy as np
    >>> l0_project(np.array([1.0, -3.0, 2.0]), 2)
    (array([ 0., -3.,  2.]), array([False,  True,  True]))
    """
    new = _interop.writable(w, "l0_project", "w")
    _, mask = prune.l0_project_(new, k)
    made, mask = _returned([new, mask], (w, w))
    return made, mask


def shrink(w: Array, mask: Array, *, factor: float = 0.99) -> Array:
    """Return w·(m + (1 - m)·factor), the twin of `prune.shrink_`.

    Parameters
    ----------
    w : array [..., C], floating
    mask : array of w's shape, bool or uint8
    factor : float

    Returns
    -------
    array [..., C]

    Raises
    ------
    TypeError, ValueError
        As `prune.shrink_`.

    Examples
    --------
    >>> import numpy as np
    >>> shrink(np.array([4.0, 4.0]), np.array([True, False]), factor=0.5)
    array([4., 2.])
    """
    new = _interop.writable(w, "shrink", "w")
    prune.shrink_(new, mask, factor=factor)
    return _returned([new], (w,))[0]


def srste_grad(g: Array, w: Array, mask: Array, *, decay: float = 2e-4) -> Array:
    """Return g + decay·(1 - m)·w, the twin of `prune.srste_grad_`.

    Parameters
    ----------
    g : array [..., C], floating
    w : array of g's shape and dtype
    mask : array of g's shape, bool or uint8
    decay : float

    Returns
    -------
    array [..., C]

    Raises
    ------
    TypeError, ValueError
        As `prune.srste_grad_`.

    Examples
    --------
    >>> import numpy as np
    >>> srste_grad(np.zeros(2), np.ones(2), np.array([True, False]), decay=0.5)
    array([0. , 0.5])
    """
    new = _interop.writable(g, "srste_grad", "g")
    prune.srste_grad_(new, w, mask, decay=decay)
    return _returned([new], (g,))[0]


def obs_prune(
    w: Array,
    hessian: Array,
    *,
    k: int | None = None,
    nm: tuple[int, int] | None = None,
    mask: Array | None = None,
    block: int = 128,
    damping: float = 0.0,
) -> tuple[Array, Array]:
    """Prune a layer and change what it keeps (SparseGPT), the twin of `prune.obs_prune_`.

    Parameters
    ----------
    w, hessian, k, nm, mask, block, damping
        As for `prune.obs_prune_`; nothing is written.

    Returns
    -------
    w, mask : arrays

    Raises
    ------
    TypeError, ValueError
        As `prune.obs_prune_`.

    Examples
    --------
    >>> import numpy as np
    >>> obs_prune(np.array([[1.0, 3.0]]), np.eye(2), k=1)
    (array([[0., 3.]]), array([[False,  True]]))
    """
    new = _interop.writable(w, "obs_prune", "w")
    _, kept = prune.obs_prune_(new, hessian, k=k, nm=nm, mask=mask, block=block, damping=damping)
    made, kept = _returned([new, kept], (w, w))
    return made, kept


def obs_block(
    w: Array,
    u: Array,
    *,
    k: int | None = None,
    nm: tuple[int, int] | None = None,
    mask: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Prune one block of columns of a layer, the twin of `prune.obs_block_`.

    Parameters
    ----------
    w, u, k, nm, mask
        As for `prune.obs_block_`; nothing is written.

    Returns
    -------
    w, mask, err : arrays

    Raises
    ------
    TypeError, ValueError
        As `prune.obs_block_`.

    Examples
    --------
    >>> import numpy as np
    >>> obs_block(np.array([[1.0, 4.0]]), np.array([[0.5, 1.0], [0.0, 1.0]]), k=1)
    (array([[0., 2.]]), array([[False,  True]]), array([[2., 0.]]))
    """
    new = _interop.writable(w, "obs_block", "w")
    _, kept, err = prune.obs_block_(new, u, k=k, nm=nm, mask=mask)
    made, kept, err = _returned([new, kept, err], (w, w, w))
    return made, kept, err


def dsnot_rows(
    mask: Array,
    w: Array,
    stats: prune.ColumnStats,
    *,
    tolerance: float = 0.1,
    max_iter: int = 50,
    power: float = 1.0,
    same_sign: bool = True,
    per: Literal["row"] | int = "row",
) -> Array:
    """Swap kept and dropped weights of each row (DSnoT), the twin of `prune.dsnot_rows_`.

    Parameters
    ----------
    mask, w, stats, tolerance, max_iter, power, same_sign, per
        As for `prune.dsnot_rows_`; nothing is written.

    Returns
    -------
    array [R, C]

    Raises
    ------
    TypeError, ValueError
        As `prune.dsnot_rows_`.

    Examples
    --------
    >>> import numpy as np
    >>> stats = prune.ColumnStats().add(np.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]]))
    >>> dsnot_rows(np.array([[True, False, False]]), np.array([[-1.0, 2.0, 1.0]]), stats)
    array([[False,  True, False]])
    """
    new = _interop.writable(mask, "dsnot_rows", "mask")
    prune.dsnot_rows_(
        *(new, w, stats),
        tolerance=tolerance,
        max_iter=max_iter,
        power=power,
        same_sign=same_sign,
        per=per,
    )
    return _returned([new], (mask,))[0]


def coverage_or(fired: Array, mask: Array) -> tuple[Array, int]:
    """Return fired | mask and count what any had, the twin of `prune.coverage_or_`.

    Parameters
    ----------
    fired : array, bool or uint8
    mask : array of fired's shape, bool or uint8

    Returns
    -------
    fired : array
    count : int

    Raises
    ------
    TypeError, ValueError
        As `prune.coverage_or_`.

    Examples
    --------
    >>> import numpy as np
    >>> coverage_or(np.array([True, False, False]), np.array([False, False, True]))
    (array([ True, False,  True]), 2)
    """
    new = _interop.writable(fired, "coverage_or", "fired")
    _, count = prune.coverage_or_(new, mask)
    return _returned([new], (fired,))[0], count


def _returned(arrays: list[Any], likes: Iterable[Any]) -> list[Any]:
    """Return arrays in the frameworks of others."""
    return [
        _interop.as_jax(x) if x is not None and _interop.is_jax(like) else x
        for x, like in zip(arrays, likes, strict=True)
    ]
