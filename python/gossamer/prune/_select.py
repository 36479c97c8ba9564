"""Scores, and the exact selection of the k best."""

from __future__ import annotations

import operator
from typing import Any, Literal, TypeVar

from gossamer import _core

Array = TypeVar("Array")
Kind = Literal[
    "value",
    "magnitude",
    "snip",
    "taylor2",
    "signed",
    "wanda",
    "obs",
    "adam",
    "sum3",
    "zo",
    "snr_abs",
]
Tie = Literal["low", "high"]
Nan = Literal["lowest", "highest", "error"]
BitOrder = Literal["little", "big"]


class Score:
    """The importance of each entry of an array, evaluated where it is read; made by `score`."""

    __slots__ = ("_checked", "_native")

    _native: _core.Score
    _checked: tuple[tuple[int, ...], str]

    def __init__(self, native: _core.Score) -> None:
        self._native = native
        self._checked = native.check()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the scored array."""
        return self._checked[0]

    @property
    def dtype(self) -> str:
        """The type that the score is evaluated in: "float32", or "float64" for a float64 array."""
        return self._checked[1]

    def array(self) -> Any:
        """Evaluate the score.

        Parameters
        ----------
        None

        Returns
        -------
        array of the score's shape and dtype, of the scored array's framework

        Raises
        ------
        MemoryError
            Where it does not fit.

        Examples
        --------
        >>> import numpy as np
        >>> score(np.array([1.0, -2.0])).array()
        array([1., 2.])
        """
        return self._native.array()

    def __repr__(self) -> str:
        return f"Score(shape={self.shape}, dtype={self.dtype})"


def score(
    w: Any,
    kind: Kind = "magnitude",
    *,
    g: Any = None,
    m: Any = None,
    v: Any = None,
    col: Any = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    eps: float = 1e-8,
    scale: float = 1.0,
) -> Score:
    """Score each entry of an array by its importance, without storing the scores.

    "value" w, "magnitude" |w|, "snip" |w·g|, "taylor2" (w·g)², "signed" w·g, "wanda" |w|·√col,
    "obs" (w/col)², "adam" |m|/(√v + eps), "sum3" |w| + α|g| + β|m|, "zo" w²·g², "snr_abs"
    E|x|/√Var|x| of x ~ N(w, v²); all times `scale`, in float32 (float64 for float64).

    Parameters
    ----------
    w : contiguous array, floating
    kind : one of the names above
    g, m, v : arrays of w's shape, floating, or None where the kind has no use for them
    col : array [C], C the length of w's last axis, or None
        For "wanda" sums of squares of the input's columns; for "obs" the diagonal of the Cholesky
        factor of the inverse Hessian.
    alpha, beta, eps, scale : float

    Returns
    -------
    Score
        Accepted wherever a score is. It keeps the arrays, and sees them change.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For an unknown kind, for shapes and layout, and where an operand of the kind is missing.

    Examples
    --------
    >>> import numpy as np
    >>> score(np.array([[1.0, -2.0]]), "wanda", col=np.array([16.0, 1.0])).array()
    array([[4., 2.]])
    """
    return Score(_core.Score(w, kind, g, m, v, col, alpha, beta, eps, scale))


def topk_mask(
    score: Any,
    k: int,
    *,
    largest: bool = True,
    within: Any = None,
    tie: Tie = "low",
    nan: Nan = "lowest",
    packed: BitOrder | None = None,
    out: Any = None,
) -> Any:
    """Mark exactly k entries of a score: its largest, or its smallest.

    -0 equals +0; infinities are numbers. Of equal scores, those of smaller flat index are marked.

    Parameters
    ----------
    score : contiguous array or Score, or a list of them
        Of a list, k entries of all together; among equals, the earlier score comes first.
    k : int
    largest : bool
    within : mask of score's shape (bool or uint8), a list of them for a list, or None
        Only entries where it is nonzero may be marked.
    tie : "low", or "high" to mark those of larger index
    nan : "lowest", "highest" or "error": where NaN stands in the order
    packed : None, "little" or "big"
        Eight entries a byte of uint8 [⌈n/8⌉], the first in its lowest or highest bit.
    out : mask (bool or uint8), a list of them for a list, or None
        Written in place.

    Returns
    -------
    mask of bool, of score's shape and framework, or a list of them

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For k out of range, shapes and layout; for NaN with nan="error".

    Examples
    --------
    >>> import numpy as np
    >>> topk_mask(np.array([3.0, 1.0, 2.0, 2.0]), 2)
    array([ True, False,  True, False])
    """
    many = isinstance(score, (list, tuple))
    scores = [_native(part) for part in score] if many else [_native(score)]
    masks = None if within is None else _parts("within", within, many, len(scores))
    outs = [None] * len(scores) if out is None else _parts("out", out, many, len(scores))
    count = operator.index(k)
    results = _core.topk_mask_list(scores, count, largest, tie, nan, packed, masks, outs)
    return results if many else results[0]


def _native(score: Any) -> Any:
    return score._native if isinstance(score, Score) else score


def _parts(name: str, given: Any, many: bool, count: int) -> list[Any]:
    if not many:
        return [given]
    if not isinstance(given, (list, tuple)):
        raise TypeError(
            f"topk_mask: {name} is a {type(given).__name__}, expected a list as score is"
        )
    if len(given) != count:
        raise ValueError(f"topk_mask: len({name}) is {len(given)}, expected len(score) = {count}")
    return list(given)
