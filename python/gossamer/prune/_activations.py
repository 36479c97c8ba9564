"""Thresholds under which activations are left out: CATS, CHESS and CETT."""

from __future__ import annotations

from typing import Any

from gossamer import _core
from gossamer.prune._layerwise import ColumnStats
from gossamer.prune._select import kth, score

Array = Any


def cats_threshold(x: Array, k: int) -> float:
    """Find the magnitude that exactly k activations of a sample exceed: CATS.

    Keep |x| > t: k of the sample's entries, fewer where equal magnitudes meet at t. Activations
    that arrive in batches are counted into a histogram instead: `histogram_quantile`.

    Parameters
    ----------
    x : array, float32, float64, float16 or bfloat16
        Activations of a gate on calibration data.
    k : int
        Entries to keep, 0 to x's size.

    Returns
    -------
    float
        -1 where all are kept.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For k and layout.

    Examples
    --------
    >>> import numpy as np
    >>> cats_threshold(np.array([0.5, -3.0, 2.0, 1.0]), 2)
    1.0
    """
    return _below(score(x, "magnitude"), k, "cats_threshold")


def channel_threshold(x: Array, u_sq: Array, k: int) -> Array:
    """Find a threshold for each channel from how much its partner multiplies it: CHESS.

    t_i = τ/√E[u_i²] with τ such that exactly k entries of the sample have |x_i|·√E[u_i²] > τ,
    fewer where equals meet there (He et al., 2024). Keep |x_i| > t_i.

    Parameters
    ----------
    x : array [T, F], float32, float64, float16 or bfloat16
        Activations of the gate on calibration data.
    u_sq : array [F], float32 or float64
        E[u²] of the up projection, up to a common factor: `ColumnStats().add(u).sumsq`.
    k : int
        Entries to keep, 0 to T·F.

    Returns
    -------
    array [F], float32, of u_sq's framework
        +infinity for a channel with E[u²] = 0, which adds nothing.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shapes, k and layout.

    Examples
    --------
    >>> import numpy as np
    >>> channel_threshold(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([4.0, 1.0]), 1)
    array([2., 4.], dtype=float32)
    """
    result: Array = _core.channel_threshold(
        u_sq, _below(score(x, "wanda", col=u_sq), k, "channel_threshold")
    )
    return result


def cett_threshold(w_out: Array, t: float) -> Array:
    """Turn a threshold on what neurons put out into one for each neuron's activation: CETT.

    t_i = t/‖W_out[:, i]‖₂: |x_i| ≥ t_i says that neuron i moves the layer's output by t at least.
    Bisect t until the error that is left out has the share that you allow (Luo et al., 2024).

    Parameters
    ----------
    w_out : array [D, F], float32, float64, float16 or bfloat16, row-major, rows may be strided
        The projection after the activations.
    t : float

    Returns
    -------
    array [F], float32, of w_out's framework
        +infinity for a neuron without weights.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shape, layout and a negative t.

    Examples
    --------
    >>> import numpy as np
    >>> cett_threshold(np.array([[3.0, 0.0], [4.0, 2.0]]), 1.0)
    array([0.2, 0.5], dtype=float32)
    """
    if not t >= 0:
        raise ValueError(f"cett_threshold: t is {t}, expected at least 0")
    result: Array = _core.channel_threshold(ColumnStats().add(w_out).sumsq, float(t))
    return result


def _below(scores: Any, k: int, op: str) -> float:
    """Return the largest of the scores that are not among the k largest."""
    size = 1
    for extent in scores.shape:
        size *= int(extent)
    if not 0 <= k <= size:
        raise ValueError(f"{op}: k is {k}, expected 0 to {size}")
    return -1.0 if k == size else float(kth(scores, k + 1).threshold)
