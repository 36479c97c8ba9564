"""What `per` may be: the parts of an array that an operation treats one by one."""

from __future__ import annotations

from typing import Any

import numpy as np

from gossamer._numbers import integer, listed, refuse


def whole_numbers(op: str, argument: str, given: Any) -> Any:
    """Return whole numbers, or one, as a flat int64 array."""
    numbers = listed(op, argument, given)
    if numbers.dtype.kind not in "iu" or numbers.ndim > 1:
        raise TypeError(f"{op}: {argument} is {given!r}, expected an int or an array of ints [S]")
    return np.ascontiguousarray(np.atleast_1d(numbers), np.int64)


def segments(op: str, per: Any, shape: Any) -> tuple[int, Any]:
    """Return the length of segments of an array's flat entries, or their offsets beside any."""
    if isinstance(per, str):
        if per != "row":
            refuse(op, "per", repr(per), "None, 'row', an int or offsets")
        return (max(int(shape[-1]), 1) if len(shape) else 1), None
    if listed(op, "per", per).ndim == 0:
        return integer(op, "per", per), None
    return 1, whole_numbers(op, "per", per)


def groups(op: str, per: Any) -> tuple[str, int]:
    """Return the kind of groups of a matrix, and the length of runs of a row."""
    if isinstance(per, str):
        if per not in {"row", "column"}:
            refuse(op, "per", repr(per), "'row', 'column' or an int")
        return per, 0
    return "run", integer(op, "per", per)
