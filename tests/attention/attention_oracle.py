"""Attention as its equations say, in float64, and naively in the type of its operands."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from gossamer import BlockLayout
from oracle import unit_roundoff

F32 = np.float32


def pairs(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Multiply each query by each key: [B, H, S, Sk] of [B, S, H, D] and [B, Sk, H, D]."""
    return np.einsum("bihd,bjhd->bhij", q, k)


def mixed(p: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Sum values with weights: [B, S, H, D] of [B, H, S, Sk] and [B, Sk, H, D]."""
    return np.einsum("bhij,bjhd->bihd", p, v)


class Result(NamedTuple):
    o: np.ndarray
    lse: np.ndarray


def element_mask(layout: BlockLayout, heads: int, queries: int, keys: int) -> np.ndarray:
    """Return which elements a layout keeps, [B or 1, heads, queries, keys]."""
    mask = np.asarray(layout.to_mask(elements=True))[:, :, :queries, :keys]
    return np.repeat(mask, heads // mask.shape[1], 1)


def allowed(
    queries: int,
    keys: int,
    *,
    causal: bool = False,
    window: Any = None,
    q_offset: int | None = None,
) -> np.ndarray:
    """Return which keys causal and window leave to each query."""
    i = np.arange(queries)[:, None] + (keys - queries if q_offset is None else q_offset)
    j = np.arange(keys)
    before, after = (window, window) if isinstance(window, int) else window or (None, None)
    kept = np.ones((queries, keys), bool)
    if causal:
        kept &= j <= i
    if before is not None:
        kept &= j >= i - before
    if after is not None:
        kept &= j <= i + after
    return kept


def dense(
    q: Any,
    k: Any,
    v: Any,
    mask: np.ndarray,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Any = None,
    sinks: Any = None,
    dtype: Any = None,
) -> Result:
    """Attend densely: in float64, or rounding each step to `dtype`."""

    def step(x: np.ndarray) -> np.ndarray:
        return x if dtype is None else x.astype(dtype).astype(F32)

    q, k, v = (np.asarray(x).astype(np.float64 if dtype is None else F32) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, 2), np.repeat(v, group, 2)
    s = pairs(q, k) * (q.shape[3] ** -0.5 if scale is None else scale)
    s = step(s.astype(q.dtype))
    if softcap is not None:
        s = step(softcap * np.tanh(s / softcap))
    if bias is not None:
        s = step(s + np.asarray(bias).astype(q.dtype))
    s = np.where(mask, s, -np.inf)
    sink = np.full(q.shape[2], -np.inf) if sinks is None else np.asarray(sinks)
    sink = sink.astype(q.dtype)[:, None, None]
    top = np.maximum(s.max(-1, keepdims=True, initial=-np.inf), sink)
    shift = np.where(np.isfinite(top), top, 0)
    p = np.exp(s - shift)
    total = p.sum(-1, keepdims=True) + np.exp(sink - shift)
    with np.errstate(divide="ignore"):
        lse = np.log(total) + shift
    p = step(p / np.where(total > 0, total, 1))
    return Result(step(mixed(p, v)), lse[..., 0])


def assert_right(got: Any, want: np.ndarray, naive: np.ndarray, dtype: Any) -> None:
    """Hold a result to twice the error of the naive computation, and the rounding of the type."""
    got = np.asarray(got).astype(np.float64)
    assert got.shape == want.shape
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))
    finite = np.isfinite(want)
    if not finite.any():
        return
    error = np.abs(got[finite] - want[finite]).max()
    naive_error = np.abs(naive[finite].astype(np.float64) - want[finite]).max()
    floor = 4 * unit_roundoff(dtype) * max(1.0, float(np.abs(want[finite]).max()))
    assert error <= 2 * naive_error + floor, f"{error:.3g}, naive {naive_error:.3g}"


DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]
