"""What a pruned layer holds and has held: counts, coverage, and the mean of equal patterns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gossamer import _core
from gossamer.formats._bsr import BSR
from gossamer.formats._csr import CSR

Array = Any


def mean_same_pattern(matrices: Sequence[CSR]) -> CSR:
    """Average the values of sparse matrices of one pattern: the soup of a pruned network.

    Parameters
    ----------
    matrices : sequence of CSR, of one pattern and dtype

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
    natives = [_csr_of("mean_same_pattern", f"matrices[{i}]", a) for i, a in enumerate(matrices)]
    values = _core.mean_same_pattern(natives)
    return matrices[0].with_values(values)


def coverage_or_(fired: Array, mask: Array) -> int:
    """Add a mask to those seen before and count what any of them had.

    fired = fired | mask; the share of the count in all entries is ITOP's exploration rate R_s. Also
    for neurons that fire on any sample of a window.

    Parameters
    ----------
    fired : array, bool or uint8, contiguous, written in place
    mask : array of fired's shape, bool or uint8, contiguous

    Returns
    -------
    int
        Entries of `fired` that are true.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shapes, layout, and a `fired` that cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> fired = np.array([True, False, False])
    >>> coverage_or_(fired, np.array([False, False, True])), fired
    (2, array([ True, False,  True]))
    """
    return _core.coverage_or_(fired, mask)


def nnz_stats(x: Any, per: str | tuple[int, int] = "row") -> Array:
    """Count what is not zero in each row, column or block of a matrix, in integers.

    Parameters
    ----------
    x : array [R, C], floating, bool or uint8, row-major, rows may be strided; CSR or BSR [R, C]
        NaN is not zero; ±0 and false are, also where a matrix stores them.
    per : "row", "column", "matrix" or (rows, columns) of a block
        Blocks at the edges may be smaller.

    Returns
    -------
    int64 array [R], [C], [] or [⌈R/rows⌉, ⌈C/columns⌉], of x's framework

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shape, layout and `per`.

    Examples
    --------
    >>> import numpy as np
    >>> nnz_stats(np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]]), (1, 2))
    array([[1, 1],
           [0, 1]])
    """
    whole = {"row": (1, 0), "column": (0, 1), "matrix": (0, 0)}
    if isinstance(per, str):
        if per not in whole:
            raise ValueError(
                f"nnz_stats: per is {per!r}, expected 'row', 'column', 'matrix' or (rows, columns)"
            )
        rows, cols = whole[per]
    else:
        rows, cols = _core.pair("nnz_stats", "per", per)
        if rows < 1 or cols < 1:
            raise ValueError(f"nnz_stats: per is ({rows}, {cols}), expected at least 1 each")
    native = x._native if isinstance(x, (CSR, BSR)) else x
    result: Array = _core.nnz_stats(native, rows, cols)
    return result


def _csr_of(op: str, argument: str, a: CSR) -> _core.Csr:
    """Return the native half of a CSR; raise TypeError for anything else."""
    if not isinstance(a, CSR):
        raise TypeError(f"{op}: {argument} is a {type(a).__name__}, expected a CSR")
    return a._native
