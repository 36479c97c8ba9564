"""Drop and grow entries of masks and sparse matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeVar

from gossamer import _core
from gossamer._numbers import integer, is_one, real
from gossamer.formats._bsr import BSR
from gossamer.formats._csr import CSR
from gossamer.prune._select import Nan, Score, Tie

__all__ = ["Random", "csr_drop_grow_", "drop_grow_", "set_drop"]

Matrix = TypeVar("Matrix", CSR, BSR)
Regrow = Literal["allow", "forbid"]


class Random(NamedTuple):
    """Growth of uniformly random places, the same on every machine for one seed and step.

    Parameters
    ----------
    seed, step : int
        0 to 2⁶⁴ − 1; take the step of training, so that each draws other places.
    """

    seed: int
    step: int = 0


def drop_grow_(
    mask: Any,
    drop_score: Any,
    grow_score: Any,
    n_drop: int,
    n_grow: int,
    *,
    regrow: Regrow = "allow",
    forbid: Any = None,
    weights: Any = None,
    init: Any = 0.0,
    states: Iterable[Any] = (),
    state_init: Any = 0.0,
    clear_states: bool = False,
    tie: Tie = "low",
    nan: Nan = "lowest",
) -> tuple[Any, Any]:
    """Drop the worst active entries of a mask and grow the best inactive ones, in place (RigL).

    Parameters
    ----------
    mask : array, bool or uint8, contiguous
        Nonzero is active. Its new value is 0 or 1.
    drop_score, grow_score : Score or array of mask's shape
        The n_drop active entries that score lowest go. Then, of the inactive ones, the n_grow that
        score highest come; these may be a `Random`.
    regrow : "allow" or "forbid"
        Whether what is dropped may grow at once; it then keeps its weight and states.
    forbid : array of mask's shape, bool or uint8, or None
        Nonzero where nothing may grow.
    weights, states : array or None, arrays; floating, of mask's shape
        Written too: dropped weights get 0, new ones `init`, new states `state_init`.
    init, state_init : float, or array of the shape and type of what it is for
        Of an array the new places are read.
    clear_states : bool
        Whether dropped entries' states get 0 too; else they keep what they had, as in RigL's code.
    tie, nan : "low" or "high"; "lowest", "highest" or "error"
        Which of equal scores wins: the smaller or the larger index; and where NaN stands.

    Returns
    -------
    mask : array
    places : array, int64
        The flat indices of the entries that are new, increasing.

    Raises
    ------
    ValueError
        For fewer active entries than n_drop or fewer candidates than n_grow; for shape and layout.

    Examples
    --------
    >>> import numpy as np
    >>> mask, w = np.array([1, 1, 0, 0], bool), np.array([3.0, 1.0, 0.0, 0.0])
    >>> mask, new = drop_grow_(mask, abs(w), np.array([9.0, 1.0, 2.0, 4.0]), 1, 1, weights=w)
    >>> new, w
    (array([3]), array([3., 0., 0., 0.]))
    """
    random = _key("drop_grow_", grow_score)
    places = _core.drop_grow_mask(
        mask,
        _native(drop_score),
        None if random else _native(grow_score),
        random,
        n_drop,
        n_grow,
        regrow,
        forbid,
        weights,
        _number("init", init),
        list(states),
        _number("state_init", state_init),
        clear_states,
        tie,
        nan,
    )
    return mask, places


def set_drop(values: Any, n_positive: int, n_negative: int, *, out: Any = None) -> Any:
    """Choose what SET drops: the smallest positive and the largest negative values.

    Those are the nearest to zero on each side (Mocanu et al., 2018). Of equals the first are kept.

    Parameters
    ----------
    values : array, floating
    n_positive, n_negative : int
        How many to drop of each sign. Zeros and NaN have none.
    out : array of values' shape, bool or uint8, or None

    Returns
    -------
    array of values' shape, bool
        False where a value goes; `keep` of `csr_drop_grow_`.

    Raises
    ------
    ValueError
        For fewer values of a sign than are to go.

    Examples
    --------
    >>> import numpy as np
    >>> set_drop(np.array([0.1, -3.0, 2.0, -0.2]), 1, 1)
    array([False,  True,  True, False])
    """
    return _core.set_drop(values, n_positive, n_negative, out)


def csr_drop_grow_(
    a: Matrix,
    grow: Any,
    n_drop: int,
    n_grow: int,
    *,
    drop_score: Any = None,
    keep: Any = None,
    regrow: Regrow = "allow",
    forbid: CSR | BSR | None = None,
    init: float = 0.0,
    states: Iterable[Any] = (),
    room: tuple[Any, Any] | None = None,
    tie: Tie = "low",
    nan: Nan = "lowest",
) -> tuple[Matrix, Any]:
    """Drop entries of a sparse matrix and grow others, in the arrays that it has.

    What shares a's arrays or was packed from it is then out of date. A BSR's entries are blocks.

    Parameters
    ----------
    a : CSR or BSR
    grow : Score or array [R, C]; (rows, columns) or (rows, columns, scores), each [n]; or Random
        The n_grow best places without an entry come. Places without scores rank by their order.
    n_drop, n_grow : int
    drop_score, keep : Score or array [nnz]; bool or uint8 array [nnz]
        The n_drop entries that score lowest go, by |value| (blocks: by Σ|value|), or the zeros of
        keep.
    regrow, tie, nan : as in `drop_grow_`
    forbid : CSR or BSR, as a is, of a's shape, or None
        Nothing grows where it has an entry.
    init : float
        The value of new entries; states get 0.
    states : arrays [≥ nnz and nnz', ...], floating
        They follow their entries.
    room : (indices, values), longer arrays that begin with a's
        Needed where n_grow exceeds n_drop.

    Returns
    -------
    a : CSR or BSR
    src : array [nnz'], of a's index type
        The old position of each entry or −1: other tensors follow by one gather.

    Raises
    ------
    ValueError
        For too few entries or candidates, for shape and layout, for arrays that are too short.

    Examples
    --------
    >>> import numpy as np
    >>> a = CSR.from_dense(np.array([[5.0, 0.0], [1.0, 0.0]]))
    >>> csr_drop_grow_(a, np.array([[0.0, 7.0], [0.0, 8.0]]), 1, 1)[1], a.indices
    (array([ 0, -1], dtype=int32), array([0, 1], dtype=int32))
    """
    op = "csr_drop_grow_"
    if not isinstance(a, (CSR, BSR)):
        raise TypeError(f"{op}: a is a {type(a).__name__}, expected a CSR or a BSR")
    if keep is not None and drop_score is not None:
        raise ValueError(f"{op}: drop_score and keep are given, expected one of them")
    n_drop = integer(op, "n_drop", n_drop)
    n_grow = integer(op, "n_grow", n_grow)
    native = a._plain(f"{op}: a.") if isinstance(a, CSR) else a._native
    indptr, indices, values = native.indptr, native.indices, _values(a)
    if n_drop != n_grow and _core.shares_structure(native):
        raise ValueError(
            f"{op}: a shares its structure with a matrix from with_values, expected no other where "
            "n_grow differs from n_drop"
        )
    if keep is None and drop_score is None:
        drop_score = _default_score(a)
    random = _key(op, grow)
    places = grow if isinstance(grow, tuple) and random is None else None
    if places is not None and len(places) not in (2, 3):
        raise ValueError(f"{op}: len(grow) is {len(places)}, expected 2 or 3")
    if room is not None:
        room = (room[0], room[1])
    nnz = indices.shape[0] - n_drop + n_grow

    def follow() -> None:
        if n_grow != n_drop:
            rows, entries = (x[:nnz] for x in (room or (indices, values)))
            kind: Any = type(native)
            a._native = kind(indptr, rows, entries, *a.shape, False, native.index_dtype)

    try:
        src = _core.drop_grow_rows(
            native,
            indptr,
            indices,
            values,
            _native(drop_score),
            keep,
            None if random or places else _native(grow),
            places,
            random,
            n_drop,
            n_grow,
            regrow,
            None if forbid is None else _same_kind(op, forbid, a),
            init,
            list(states),
            room,
            tie,
            nan,
        )
    except BaseException:
        # A signal's handler may raise on the way back from a change that is done. On a GPU no
        # operation looks for signals, and after an error its memory may not be read.
        if native.device == "cpu" and int(indptr[-1]) == nnz:
            follow()
        raise
    follow()
    return a, src


def _native(score: Any) -> Any:
    return score._native if isinstance(score, Score) else score


def _key(op: str, grow: Any) -> tuple[int, int] | None:
    if not isinstance(grow, Random):
        return None
    return _core.key(op, "seed", grow.seed), _core.key(op, "step", grow.step)


def _values(a: CSR | BSR) -> Any:
    return a.blocks if isinstance(a, BSR) else a.values


def _default_score(a: CSR | BSR) -> Any:
    if isinstance(a, BSR):
        return _core.block_norms(a.blocks)
    return _core.Score(a.values, "magnitude", None, None, None, None, 1.0, 1.0, 1e-8, 1.0)


def _same_kind(op: str, forbid: Any, a: CSR | BSR) -> Any:
    """Return the native half of `forbid`, which has blocks as `a` has."""
    if type(forbid) is not type(a):
        name = type(a).__name__
        raise TypeError(f"{op}: forbid is a {type(forbid).__name__}, expected a {name}, as a is")
    ours, theirs = getattr(a, "block", None), getattr(forbid, "block", None)
    if ours != theirs:
        raise ValueError(f"{op}: forbid.block is {theirs}, expected a.block = {ours}")
    return forbid._plain(f"{op}: forbid.") if isinstance(forbid, CSR) else forbid._native


def _number(argument: str, value: Any) -> Any:
    """Return an array of no axes as the number it is."""
    return real("drop_grow_", argument, value) if is_one(value) else value
