"""Scores, and the exact selection of the k best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from gossamer import _core
from gossamer._numbers import integer, listed, real, refuse
from gossamer.formats._csr import CSR
from gossamer.prune._segments import segments, whole_numbers

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
Interpolation = Literal["linear", "lower", "higher", "nearest", "midpoint"]
_INTERPOLATIONS = ("linear", "lower", "higher", "nearest", "midpoint")


class Score:
    """The importance of each entry of an array, evaluated where it is read; made by `score`."""

    __slots__ = ("__weakref__", "_checked", "_native")

    _native: _core.Score
    _checked: tuple[tuple[int, ...], str]

    def __init__(self, native: _core.Score) -> None:
        self._native = native
        self._checked = _core.score_check(native)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the scored array."""
        return self._checked[0]

    @property
    def dtype(self) -> str:
        """The type that the score is evaluated in: "float32", or "float64" for a float64 array."""
        return self._checked[1]

    def array(self, *, out: Any = None) -> Any:
        """Evaluate the score.

        Parameters
        ----------
        out : array of the score's shape and dtype, written in place

        Returns
        -------
        array of the score's shape and dtype, of the scored array's framework

        Raises
        ------
        TypeError, ValueError
            For an `out` that does not fit.
        MemoryError
            Where there is no room for it.

        Examples
        --------
        >>> import numpy as np
        >>> score(np.array([1.0, -2.0])).array()
        array([1., 2.])
        """
        result: Any = _core.score_array(self._native, out)
        return result

    def __repr__(self) -> str:
        return f"Score(shape={self.shape}, dtype={self.dtype})"


def score(
    w: Any,
    *,
    kind: Kind = "magnitude",
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
    w : array, floating
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
    >>> score(np.array([[1.0, -2.0]]), kind="wanda", col=np.array([16.0, 1.0])).array()
    array([[4., 2.]])
    """
    return Score(_core.Score(w, kind, g, m, v, col, alpha, beta, eps, scale))


def topk_mask(
    score: Any,
    k: Any,
    *,
    largest: bool = True,
    within: Any = None,
    per: Any = None,
    tie: Tie = "low",
    nan: Nan = "lowest",
    packed: BitOrder | None = None,
    out: Any = None,
) -> Any:
    """Mark exactly k entries of a score: its largest, or its smallest (`largest` False).

    -0 equals +0; infinities are numbers; -> a mask of bool, or a list of them for a list.

    Parameters
    ----------
    score : array or Score, or a list of them, of which k entries in all are marked
    k : int, or int array [S], one for each segment
    within : mask (bool or uint8) or list of masks, nonzero where an entry may be marked
    per : None, "row" (the last axis), the length of groups of entries in flat order, or offsets
        [S + 1] of segments: k entries of each
    tie : "low", or "high": of equal scores, which index is marked first, over the whole list
    nan : "lowest", "highest" or "error": where NaN stands in the order
    packed : None, "little" or "big": uint8 [⌈n/8⌉], the first entry in its lowest or highest bit
    out : mask (bool or uint8), or list of them, written in place

    Returns
    -------
    mask of bool, of score's shape and framework, or list of them

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For k out of range, shapes, layout and offsets; for NaN with nan="error".

    Examples
    --------
    >>> import numpy as np
    >>> topk_mask(np.array([3.0, 1.0, 2.0, 2.0]), 2)
    array([ True, False,  True, False])
    """
    many = isinstance(score, (list, tuple))
    if per is not None:
        if many:
            raise ValueError("topk_mask: per is given with a list of scores, expected one score")
        given = _native(score)
        length, offsets = segments("topk_mask", per, getattr(score, "shape", ()))
        counts = whole_numbers("topk_mask", "k", k)
        return _core.topk_mask_segments(
            given, counts, length, offsets, largest, tie, nan, packed, within, out
        )
    scores = [_native(part) for part in score] if many else [_native(score)]
    masks = None if within is None else _parts("topk_mask", "within", within, many, len(scores))
    outs = (
        [None] * len(scores) if out is None else _parts("topk_mask", "out", out, many, len(scores))
    )
    results = _core.topk_mask_list(scores, k, largest, tie, nan, packed, masks, outs)
    return results if many else results[0]


def count_nan(score: Any) -> int:
    """Count the entries of a score that are NaN: what `topk_mask` ranked last without a word.

    Parameters
    ----------
    score : array or Score, or a list of them

    Returns
    -------
    int
        Of all of them; processes that each hold a part add theirs up.

    Raises
    ------
    TypeError
        For element types and for what is not an array.

    Examples
    --------
    >>> import numpy as np
    >>> count_nan(np.array([3.0, np.nan, 2.0]))
    1
    """
    return sum(_core.count_nan(part) for part in _listed(score))


class Kth(NamedTuple):
    """The k-th entry in order: its score, and how the first k divide."""

    threshold: Any
    """The k-th score."""
    n_strict: Any
    """How many entries come strictly before it."""
    n_tie: Any
    """How many of those equal to it are among the first k."""


def kth(
    score: Any,
    k: Any,
    *,
    largest: bool = True,
    per: Any = None,
    nan: Nan = "lowest",
    out: tuple[Any, Any, Any] | None = None,
) -> Kth:
    """Find the k-th largest or smallest score, and how many entries come before it.

    n_strict + n_tie = k.

    Parameters
    ----------
    score : array or Score, of n entries
    k : int from 1 to n, or with `per` int or int array [S], one for each segment
    largest : bool
        False counts from the smallest.
    per : None, "row" (the last axis), the length of groups of entries in flat order, or offsets
        [S + 1] of segments, from 0 to n: the k-th of each
    nan : "lowest", "highest" or "error": where NaN stands in the order
    out : (threshold, n_strict, n_tie), arrays [S], written in place; with `per`

    Returns
    -------
    Kth (threshold, n_strict, n_tie)
        A float and two ints, or arrays [S] of score's framework, thresholds of score's dtype.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For k out of range, layout and offsets; for NaN with nan="error".

    Examples
    --------
    >>> import numpy as np
    >>> kth(np.array([3.0, 1.0, 2.0, 2.0]), 2)
    Kth(threshold=2.0, n_strict=1, n_tie=1)
    """
    if per is None:
        if out is not None:
            refuse("kth", "out", "given", "None without per: the results are numbers")
        return Kth(*_core.kth(_native(score), k, largest, nan))
    if out is not None and (not isinstance(out, tuple) or len(out) != 3):
        refuse("kth", "out", type(out).__name__, "(threshold, n_strict, n_tie)")
    length, offsets = segments("kth", per, score.shape)
    counts = whole_numbers("kth", "k", k)
    outs = out or (None, None, None)
    return Kth(*_core.kth_segments(_native(score), counts, length, offsets, largest, nan, *outs))


class Selection:
    """Exactly k entries of scores that several processes hold, without gathering them.

    Every process makes the same object. Until `done`, it counts its own scores, sums the counts
    over all processes and narrows; then it learns how many ties the processes before it hold, and
    marks its share: what `topk_mask` marks of the list of all scores, in the processes' order.

    Parameters
    ----------
    k : int, at least 1
        Of all entries of all processes.
    dtype : "float32", "float64", "float16" or "bfloat16"
        What scores are compared in; a 16-bit type only for values and magnitudes of that type.
    largest : bool
    tie : "low" or "high"
        Whether ties of earlier or of later processes are marked first.
    nan : "lowest" or "highest"

    Raises
    ------
    TypeError
        For dtypes.
    ValueError
        For k.

    Examples
    --------
    >>> import numpy as np
    >>> selection = Selection(2)
    >>> mine = np.array([1.0, 3.0, 2.0], np.float32)
    >>> while not selection.done:
    ...     selection.narrow(selection.histogram(mine))  # the sum over all processes
    >>> selection.emit(mine, ties_before=0)
    array([False,  True,  True])
    """

    __slots__ = ("__weakref__", "_native", "_tie")

    def __init__(
        self,
        k: int,
        *,
        dtype: str = "float32",
        largest: bool = True,
        tie: Tie = "low",
        nan: Literal["lowest", "highest"] = "lowest",
    ) -> None:
        self._native = _core.Selection(k, dtype, largest, tie, nan)
        self._tie = tie

    @property
    def done(self) -> bool:
        """Whether the k-th score is known."""
        return self._native.done

    @property
    def threshold(self) -> float:
        """The k-th score, once done; ValueError before."""
        return self._native.threshold

    def histogram(self, scores: Any) -> Any:
        """Count the process's own scores by the bins of this round.

        Parameters
        ----------
        scores : array or Score, or a list of them

        Returns
        -------
        numpy.ndarray of int64 [4096], to be summed over all processes

        Raises
        ------
        TypeError
            For element types.
        ValueError
            For layout, and after done.

        Examples
        --------
        >>> import numpy as np
        >>> int(Selection(1).histogram(np.ones(3, np.float32)).sum())
        3
        """
        counts = np.zeros(4096, np.int64)
        for part in _listed(scores):
            _core.selection_histogram(self._native, part, counts)
        return counts

    def narrow(self, counts: Any) -> None:
        """Keep the bin of the k-th score.

        Parameters
        ----------
        counts : int64 array [4096], the sum over all processes

        Returns
        -------
        None

        Raises
        ------
        TypeError
            For counts that are no integers.
        ValueError
            Where the counts are negative or do not fit k or the last round's, and after done.

        Examples
        --------
        >>> import numpy as np
        >>> selection = Selection(1)
        >>> selection.narrow(selection.histogram(np.ones(3, np.float32)))
        """
        self._native.narrow(whole_numbers("Selection", "counts", counts))

    def ties(self, scores: Any) -> int:
        """Count the process's own entries that equal the k-th score, once done.

        Parameters
        ----------
        scores : array or Score, or a list of them

        Returns
        -------
        int, of which each process needs the sum over those before it (tie="high": after it)

        Raises
        ------
        TypeError
            For element types.
        ValueError
            Before done.

        Examples
        --------
        >>> import numpy as np
        >>> selection, mine = Selection(1), np.ones(3, np.float32)
        >>> while not selection.done:
        ...     selection.narrow(selection.histogram(mine))
        >>> selection.ties(mine)
        3
        """
        return sum(_core.selection_ties(self._native, part) for part in _listed(scores))

    def emit(self, scores: Any, *, ties_before: int, out: Any = None) -> Any:
        """Mark the process's own share, once done.

        Parameters
        ----------
        scores : array or Score, or a list of them
        ties_before : int
            Entries of other processes that equal the k-th score and come first: those of processes
            before this one, for tie="high" after it.
        out : mask (bool or uint8) of score's shape, or list of them, written in place

        Returns
        -------
        mask of bool, of score's shape and framework, or a list of them

        Raises
        ------
        TypeError
            For element types.
        ValueError
            Before done, and for ties_before.

        Examples
        --------
        >>> import numpy as np
        >>> selection, mine = Selection(1), np.ones(3, np.float32)
        >>> while not selection.done:
        ...     selection.narrow(selection.histogram(mine))
        >>> selection.emit(mine, ties_before=1)
        array([False, False, False])
        """
        parts = _listed(scores)
        order = range(len(parts))
        many = isinstance(scores, (list, tuple))
        masks = [None] * len(parts)
        if out is not None:
            masks = _parts("Selection", "out", out, many, len(parts))
        before = integer("Selection", "ties_before", ties_before)
        for i in reversed(order) if self._tie == "high" else order:
            masks[i] = _core.selection_emit(self._native, parts[i], before, masks[i])
            if len(parts) > 1:
                before += _core.selection_ties(self._native, parts[i])
        return masks if many else masks[0]


def random_mask(
    shape_or_like: Any,
    k: int,
    *,
    seed: int,
    step: int = 0,
    within: Any = None,
    offset: int = 0,
    total: int | None = None,
    out: Any = None,
) -> Any:
    """Mark exactly k entries at random, the same on every device and rank.

    Those with the largest keys of 40 bits: for flat index i, byte i mod 16 of Philox4x32-10 (Salmon
    et al. 2011) at counter (⌊i/16⌋, step), then word 0 of that at (2⁶³ + i, step), keyed by seed. A
    process that holds a part of an array makes that part of the whole's mask on its own.

    Parameters
    ----------
    shape_or_like : tuple of int, or an array
        The mask's shape (a NumPy mask then), or an array of the same shape and framework.
    k : int
    seed, step : int from 0 to 2⁶⁴ - 1
    within : mask (bool or uint8), or None
        Nonzero where an entry may be marked; not for a part.
    offset, total : int
        The mask is the entries [offset, offset + n) of one with `total`, of which k are marked.
    out : mask (bool or uint8), written in place

    Returns
    -------
    mask of bool, or out

    Raises
    ------
    TypeError
        For what is neither a shape nor an array.
    ValueError
        For k, seed, step and offset out of range and for shapes.

    Examples
    --------
    >>> int(random_mask((30, 4), 60, seed=1).sum())
    60
    """
    if isinstance(shape_or_like, Integral):
        shape_or_like = (shape_or_like,)
    if isinstance(shape_or_like, (tuple, list)):
        shape = list(shape_or_like)
        like = np.empty(0) if within is None else within
        return _core.random_mask(like, shape, k, seed, step, within, offset, total, out)
    return _core.random_mask(shape_or_like, None, k, seed, step, within, offset, total, out)


@overload
def quantile(
    x: Any, q: float, *, interpolation: Interpolation = "linear", magnitude: bool = False
) -> float: ...
@overload
def quantile(
    x: Any, q: Sequence[float], *, interpolation: Interpolation = "linear", magnitude: bool = False
) -> Any: ...
def quantile(
    x: Any, q: Any, *, interpolation: Interpolation = "linear", magnitude: bool = False
) -> Any:
    """Find quantiles of all entries of an array of any size, without sorting or copying it.

    The value at place q·(n - 1) of the sorted entries; NaN where an entry is NaN.

    Parameters
    ----------
    x : array or Score, at least one entry
    q : float from 0 to 1, or a sequence of them
    interpolation : "linear", "lower", "higher", "nearest" (half to even) or "midpoint"
        Between two entries.
    magnitude : bool
        Of absolute values; x is an array then.

    Returns
    -------
    float, or numpy.ndarray of float64

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For an empty x, for q out of range and for an unknown interpolation.

    Examples
    --------
    >>> import numpy as np
    >>> quantile(np.array([0.0, 1.0, 2.0, 3.0]), 0.5)
    1.5
    """
    if not isinstance(interpolation, str) or interpolation not in _INTERPOLATIONS:
        raise ValueError(
            f"quantile: interpolation is {interpolation!r}, expected one of {_INTERPOLATIONS}"
        )
    kind: Kind = "magnitude" if magnitude else "value"
    values = x if isinstance(x, Score) else score(x, kind=kind)
    n = int(np.prod(values.shape, dtype=np.int64))
    if n == 0:
        raise ValueError("quantile: x has no entries, expected at least one")

    def one(share: float) -> float:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"quantile: q is {share}, expected 0 to 1")
        place = share * (n - 1)
        low = int(place)
        first, last = _core.kth_pair(values._native, low + 1, False, "highest")
        part = place - low
        if interpolation == "midpoint":
            part = 0.5 if part else 0.0
        elif interpolation != "linear":
            higher = {"lower": False, "higher": part > 0.0, "nearest": round(place) > low}
            return last if higher[interpolation] else first
        if first == last or not part:
            return first
        step = last - first
        if math.isinf(step) and math.isfinite(first) and math.isfinite(last):  # beyond a float
            return first * (1 - part) + last * part
        return first + step * part

    shares = np.asarray(listed("quantile", "q", q), np.float64)
    results = np.array([one(float(share)) for share in shares.ravel()], np.float64)
    return results.reshape(shares.shape) if shares.ndim else float(results[0])


def histogram_quantile(counts: Any, edges: Any, q: float) -> float:
    """Find a quantile of numbers of which only a histogram was kept.

    The left edge of the first bin at whose end the share of the counts exceeds q (CATS).

    Parameters
    ----------
    counts : array [B]
        Entries in each bin, at least one in all.
    edges : array [B + 1]
        Increasing.
    q : float from 0 to 1

    Returns
    -------
    float
        The last edge for q = 1.

    Raises
    ------
    ValueError
        For shapes, for q out of range, for counts that are negative, not finite or all zero, and
        for edges that are NaN or not sorted.

    Examples
    --------
    >>> histogram_quantile([3, 1], [0.0, 1.0, 2.0], 0.75)
    1.0
    """
    op = "histogram_quantile"
    # In a narrow type of the counts (float32 of torch.histc), their sums would stop growing.
    bins, bounds = (
        listed(op, name, x).astype(np.float64) for name, x in (("counts", counts), ("edges", edges))
    )
    q = real(op, "q", q)
    if bins.ndim != 1 or bounds.shape != (bins.size + 1,):
        raise ValueError(
            f"histogram_quantile: edges.shape is {bounds.shape}, expected ({bins.size + 1},)"
        )
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"histogram_quantile: q is {q}, expected 0 to 1")
    if not np.isfinite(bins).all() or bins.size == 0 or bins.min() < 0 or bins.sum() <= 0:
        raise ValueError(
            "histogram_quantile: counts are negative, not finite or all zero, expected entries"
        )
    if not (bounds[1:] >= bounds[:-1]).all():
        raise ValueError("histogram_quantile: edges do not increase, expected sorted numbers")
    total = bins.sum()
    return float(bounds[np.searchsorted(np.cumsum(bins), q * total, side="right")])


@overload
def topk_rows(
    x: Any,
    k: int,
    *,
    key: Any = None,
    format: Literal["arrays"] = "arrays",
    tie: Tie = "low",
    nan: Nan = "lowest",
    out: tuple[Any, Any] | None = None,
) -> tuple[Any, Any]: ...
@overload
def topk_rows(
    x: Any,
    k: int,
    *,
    key: Any = None,
    format: Literal["csr"],
    tie: Tie = "low",
    nan: Nan = "lowest",
) -> CSR: ...
def topk_rows(
    x: Any,
    k: int,
    *,
    key: Any = None,
    format: Literal["arrays", "csr"] = "arrays",
    tie: Tie = "low",
    nan: Nan = "lowest",
    out: tuple[Any, Any] | None = None,
) -> Any:
    """Keep the k largest entries of each row, in the order of their columns.

    Parameters
    ----------
    x : array [T, F], floating, rows may be strided
    k : int from 0 to F
    key : array [T, F], floating, or None
        What entries are chosen by; None chooses by x.
    format : "arrays" or "csr"
    tie : "low", or "high": which column of equal keys is kept first
    nan : "lowest", "highest" or "error": where NaN stands in the order
    out : (values, indices), written in place; for format="arrays"

    Returns
    -------
    values [T, k] and indices [T, k] of int32, or a CSR [T, F] with k entries a row
        Of x's framework and dtype.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For k out of range, shapes and layout; for NaN with nan="error".

    Examples
    --------
    >>> import numpy as np
    >>> topk_rows(np.array([[1.0, 3.0, 2.0]]), 2)
    (array([[3., 2.]]), array([[1, 2]], dtype=int32))
    """
    count = integer("topk_rows", "k", k)
    if format not in ("arrays", "csr"):
        raise ValueError(f"topk_rows: format is {format!r}, expected 'arrays' or 'csr'")
    if out is not None and (format == "csr" or not isinstance(out, tuple) or len(out) != 2):
        raise ValueError("topk_rows: out is given, expected (values, indices) of format='arrays'")
    values, indices = _core.topk_rows(x, count, key, tie, nan, *(out or (None, None)))
    if format == "arrays":
        return values, indices
    rows, cols = x.shape
    indptr = np.arange(rows + 1, dtype=np.int64) * count
    narrow = indptr.astype(np.int32) if rows * count < 2**31 else indptr
    flat = indices.reshape(-1)
    wide = flat if narrow.dtype == np.int32 else np.asarray(flat).astype(np.int64)
    return CSR(narrow, wide, values.reshape(-1), (rows, cols), check=False)


def _native(score: Any) -> Any:
    return score._native if isinstance(score, Score) else score


def _listed(scores: Any) -> list[Any]:
    parts = scores if isinstance(scores, (list, tuple)) else [scores]
    return [_native(part) for part in parts]


def _parts(op: str, name: str, given: Any, many: bool, count: int) -> list[Any]:
    if not many:
        return [given]
    if not isinstance(given, (list, tuple)):
        kind = type(given).__name__
        raise TypeError(f"{op}: {name} is a {kind}, expected a list as score is")
    if len(given) != count:
        raise ValueError(f"{op}: len({name}) is {len(given)}, expected len(score) = {count}")
    return list(given)
