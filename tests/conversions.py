"""Matrices that conversions are tested with, and what they give."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

DTYPES = [np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]


def same_bits(got: Any, want: np.ndarray) -> bool:
    got = np.ascontiguousarray(got)
    want = np.ascontiguousarray(want)
    same_kind = (got.dtype, got.shape) == (want.dtype, want.shape)
    bits = np.dtype(f"u{want.itemsize}")
    return same_kind and np.array_equal(got.view(bits), want.view(bits))


def dense(shape: tuple[int, int], density: float, dtype: np.dtype, *, pitch: int = 0) -> np.ndarray:
    """Random matrix with NaN, -0, a subnormal, an empty and a full row; `pitch` pads its rows."""
    rng = np.random.default_rng([*shape, int(100 * density)])
    wide = rng.standard_normal((shape[0], shape[1] + pitch))
    w = wide.astype(dtype)[:, : shape[1]]
    w[rng.random(shape) >= density] = 0
    if w.size > 4:
        special = [np.nan, -0.0, ml_dtypes.finfo(dtype).smallest_subnormal]
        w[rng.integers(shape[0], size=3), rng.integers(shape[1], size=3)] = special
    if shape[0] > 2:
        w[1] = 0
        w[2] = 1
    return w


def expected(w: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    return indptr, np.nonzero(kept)[1].astype(np.int32), w[kept]


def non_zeros(w: np.ndarray) -> np.ndarray:
    return (w != 0) | np.isnan(w)
