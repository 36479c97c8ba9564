"""Thresholds under which activations are left out: CATS, CHESS and CETT."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat, SupportsIndex

from gossamer import _core
from gossamer._numbers import integer, real, refuse
from gossamer.prune._select import kth, score

Array = Any


def cats_threshold(x: Array, k: SupportsIndex) -> float:
    """Find the magnitude that exactly k activations of a sample exceed: CATS.

    Keep |x| > t: k of the sample's entries, fewer where equal magnitudes meet at t; NaN is never
    kept. Activations that arrive in batches are counted into a histogram: `histogram_quantile`.

    Parameters
    ----------
    x : array, float32, float64, float16 or bfloat16
        Activations of a gate on calibration data.
    k : int
        Entries to keep, 0 to x's size.

    Returns
    -------
    float
        -1 where all are kept, NaN aside.

    Raises
    ------
    TypeError
        For element types, for what is not an array and for a k that is not an integer.
    ValueError
        For k and layout.

    Examples
    --------
    >>> import numpy as np
    >>> cats_threshold(np.array([0.5, -3.0, 2.0, 1.0]), 2)
    1.0
    """
    op = "cats_threshold"
    with _told_as(op, {"w": "x"}):
        scores = score(x, kind="magnitude")
    return _below(scores, k, op)


def channel_threshold(x: Array, u_sq: Array, k: SupportsIndex, *, out: Array = None) -> Array:
    """Find a threshold for each channel from how much its partner multiplies it: CHESS.

    t_i = τ/√E[u_i²] with τ such that exactly k entries of the sample have |x_i|·√E[u_i²] > τ,
    fewer where equals meet there (He et al., 2024). Keep |x_i| > t_i; NaN is never kept.

    Parameters
    ----------
    x : array [T, F], float32, float64, float16 or bfloat16
        Activations of the gate on calibration data.
    u_sq : array [F], float32, or float64 with x of float64
        E[u²] of the up projection, up to a common factor: `ColumnStats().add(u).sumsq`.
    k : int
        Entries to keep, 0 to T·F.
    out : array [F], float32, written in place

    Returns
    -------
    array [F], float32, of u_sq's framework
        +infinity for a channel with E[u²] = 0, which adds nothing.

    Raises
    ------
    TypeError
        For element types, for what is not an array and for a k that is not an integer.
    ValueError
        For shapes, k and layout.

    Examples
    --------
    >>> import numpy as np
    >>> channel_threshold(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([4.0, 1.0]), 1)
    array([2., 4.], dtype=float32)
    """
    op = "channel_threshold"
    with _told_as(op, {"w": "x", "col": "u_sq", "squares": "u_sq"}):
        scores = score(x, kind="wanda", col=u_sq)
        result: Array = _core.channel_threshold(u_sq, _below(scores, k, op), out)
    return result


def cett_threshold(w_out: Array, t: SupportsFloat, *, out: Array = None) -> Array:
    """Turn a threshold on what neurons put out into one for each neuron's activation: CETT.

    t_i = t/‖W_out[:, i]‖₂: |x_i| ≥ t_i says that neuron i moves the layer's output by t at least.
    Bisect t until the error that is left out has the share that you allow (Luo et al., 2024).

    Parameters
    ----------
    w_out : array [D, F], float32, float64, float16 or bfloat16, row-major, rows may be strided
        The projection after the activations.
    t : number, at least 0
    out : array [F], float32, written in place

    Returns
    -------
    array [F], float32, of w_out's framework
        +infinity for a neuron without weights.

    Raises
    ------
    TypeError
        For element types, for what is not an array and for a t that is not a number.
    ValueError
        For shape, layout and a negative t.

    Examples
    --------
    >>> import numpy as np
    >>> cett_threshold(np.array([[3.0, 0.0], [4.0, 2.0]]), 1.0)
    array([0.2, 0.5], dtype=float32)
    """
    op = "cett_threshold"
    least = real(op, "t", t)
    if not least >= 0:
        refuse(op, "t", least, "at least 0")
    result: Array = _core.cett_threshold(w_out, least, out)
    return result


def _below(scores: Any, k: Any, op: str) -> float:
    """Return the largest of the scores that are not among the k largest."""
    size = math.prod(int(extent) for extent in scores.shape)
    count = integer(op, "k", k)
    if not 0 <= count <= size:
        refuse(op, "k", count, f"0 to {size}")
    if count == size:
        return -1.0
    threshold = float(kth(scores, count + 1).threshold)
    # NaN ranks last, so that none but NaN is left out, and nothing exceeds a NaN.
    return -1.0 if math.isnan(threshold) else threshold


@contextmanager
def _told_as(op: str, names: dict[str, str]) -> Iterator[None]:
    """Tell errors of the functions that do the work as errors of `op` and its arguments."""
    try:
        yield
    except (TypeError, ValueError) as error:
        _, colon, told = str(error).partition(": ")
        if not colon or type(error) not in (TypeError, ValueError):
            raise
        given = "|".join(names)
        told = re.sub(rf"\b({given})(?=\.| is )", lambda found: names[found[1]], told)
        raise type(error)(f"{op}: {told}") from None
