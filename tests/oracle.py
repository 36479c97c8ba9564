"""The expected results, in float64 NumPy on dense matrices, and the bounds on rounding errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import gossamer
import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
#: How a sparse operand may be given: as it is, or packed for a width.
FORMATS = ["csr", "csr64", "packed", "packed-1", "packed-8", "packed-64"]

_erfc = np.vectorize(math.erfc, otypes=[float])
ACTIVATIONS: dict[Hashable, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    None: lambda v: v,
    "relu": lambda v: np.maximum(v, 0),
    "relu6": lambda v: np.clip(v, 0, 6),
    "gelu": lambda v: 0.5 * v * _erfc(-v / math.sqrt(2)),
    "silu": lambda v: v / (1 + np.exp(-v)),
    ("clamp", -0.5, 1.5): lambda v: np.clip(v, -0.5, 1.5),
}

#: The one constant of the dot-product error bound.
SLACK = 4.0


def unit_roundoff(dtype: DTypeLike) -> float:
    return float(ml_dtypes.finfo(dtype).eps) / 2


def random_dense(
    shape: tuple[int, ...], dtype: DTypeLike, seed: int, *, integers: bool = False
) -> NDArray[np.generic]:
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, shape) if integers else rng.standard_normal(shape)
    return np.asarray(values).astype(dtype)


def random_sparse(
    shape: tuple[int, int], density: float, dtype: DTypeLike, seed: int, *, integers: bool = False
) -> NDArray[np.generic]:
    """Draw a dense array with zeros: its first row full, its second empty."""
    rng = np.random.default_rng(seed + 1000)
    keep = rng.random(shape) < density
    keep[:1] = True
    keep[1:2] = False
    values = random_dense(shape, dtype, seed, integers=integers)
    return np.where(keep, values, np.zeros((), dtype))


def make(a: NDArray[np.generic], form: str) -> gossamer.CSR | gossamer.Packed:
    """Build the sparse operand of a dense array with zeros."""
    csr = gossamer.CSR.from_dense(a)
    if form == "csr64":
        indptr, indices = (np.asarray(i).astype(np.int64) for i in (csr.indptr, csr.indices))
        return gossamer.CSR(indptr, indices, csr.values, csr.shape, index_dtype="int64")
    if form.startswith("packed"):
        _, _, n = form.partition("-")
        return gossamer.pack(csr, n=int(n) if n else None)
    return csr


def assert_close(
    got: NDArray[np.generic],
    want: NDArray[np.float64],
    magnitude: NDArray[np.float64],
    terms: int,
) -> None:
    """Check sums of at most `terms` products whose absolute values add up to `magnitude`."""
    dtype = got.dtype
    assert got.shape == want.shape
    summing = unit_roundoff(np.float64 if dtype == np.float64 else np.float32)
    bound = SLACK * ((terms + 2) * summing * magnitude + unit_roundoff(dtype) * np.abs(want))
    bound = bound + float(ml_dtypes.finfo(dtype).smallest_subnormal)
    error = np.abs(got.astype(np.float64) - want)
    assert np.all(error <= bound), f"worst error is {np.max(error / bound):.2f} of its bound"
    if want.size and np.any(want):
        assert np.any(got), "all results are zero"
