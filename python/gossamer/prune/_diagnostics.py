"""What a pruned layer holds and has held: counts, coverage, and the mean of equal patterns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gossamer import _core
from gossamer._numbers import refuse
from gossamer.formats._bsr import BSR
from gossamer.formats._csr import CSR

Array = Any


def mean_same_pattern(matrices: Iterable[CSR]) -> CSR:
    """Average the values of sparse matrices of one pattern: the soup of a pruned network.

    Parameters
    ----------
    matrices : CSR, of one pattern and dtype

    Returns
    -------
    CSR
        Sharing indptr and indices with the first, with new values.

    Raises
    ------
    TypeError
        For dtypes that differ and for what is not a CSR.
    ValueError
        For patterns that differ: their mean would be denser than each.

    Examples
    --------
    >>> import numpy as np
    >>> a = CSR.from_dense(np.array([[1.0, 2.0]]))
    >>> mean_same_pattern([a, a.with_values(np.array([3.0, 4.0]))]).values
    array([2., 3.])
    """
    given = list(matrices)
    natives = [_csr_of("mean_same_pattern", f"matrices[{i}]", a) for i, a in enumerate(given)]
    values = _core.mean_same_pattern(natives)
    return given[0].with_values(values)


def coverage_or_(fired: Array, mask: Array) -> tuple[Array, int]:
    """Add a mask to those seen before and count what any of them had.

    fired = fired | mask; the share of the count in all entries is ITOP's exploration rate R_s. Also
    for neurons that fire on any sample of a window.

    Parameters
    ----------
    fired : array, bool or uint8, contiguous, written in place
    mask : array of fired's shape, bool or uint8, contiguous

    Returns
    -------
    fired : array
    count : int
        Entries of `fired` that are true now.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shapes, layout, and a `fired` that cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> coverage_or_(np.array([True, False, False]), np.array([False, False, True]))
    (array([ True, False,  True]), 2)
    """
    return fired, _core.coverage_or_(fired, mask)


def nnz_stats(x: Any, *, per: str | tuple[int, int] | None = None, out: Array = None) -> Array:
    """Count what is not zero in a matrix, or in each of its rows, columns or blocks, in integers.

    Parameters
    ----------
    x : array [R, C], floating, bool or uint8, row-major, rows may be strided; CSR or BSR [R, C]
        NaN is not zero; ±0 and false are, also where a matrix stores them.
    per : None for the whole matrix, "row", "column" or (rows, columns) of a block
        Blocks at the edges may be smaller.
    out : int64 array of the result's shape, written in place

    Returns
    -------
    int64 array [], [R], [C] or [⌈R/rows⌉, ⌈C/columns⌉], of x's framework

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shape, layout and `per`.

    Examples
    --------
    >>> import numpy as np
    >>> nnz_stats(np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]]), per=(1, 2))
    array([[1, 1],
           [0, 1]])
    """
    op = "nnz_stats"
    sides: dict[Any, tuple[int | None, int | None]] = {
        None: (None, None),
        "row": (1, None),
        "column": (None, 1),
    }
    rows: int | None
    cols: int | None
    if isinstance(per, (tuple, list)):
        rows, cols = _core.pair(op, "per", per)
    elif per is None or (isinstance(per, str) and per in sides):
        rows, cols = sides[per]
    else:
        refuse(op, "per", repr(per), "None, 'row', 'column' or (rows, columns)")
    native = x._plain("nnz_stats: x.") if isinstance(x, CSR) else x
    native = native._native if isinstance(native, BSR) else native
    result: Array = _core.nnz_stats(native, rows, cols, out)
    return result


def _csr_of(op: str, argument: str, a: CSR) -> _core.Csr:
    """Return the native half of a CSR; raise TypeError for anything else."""
    if not isinstance(a, CSR):
        raise TypeError(f"{op}: {argument} is a {type(a).__name__}, expected a CSR")
    native: _core.Csr = a._plain(f"{op}: {argument}.")
    return native
