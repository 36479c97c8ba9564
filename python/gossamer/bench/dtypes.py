"""Element types: how operands are stored in NumPy arrays, and how far a result may be off."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

DTYPES = ("f32", "bf16", "f16", "f64")
#: What others call them.
ALIASES = {
    "f32": ("fp32", "float32", "float", "single"),
    "bf16": ("bfloat16",),
    "f16": ("fp16", "float16", "half"),
    "f64": ("fp64", "float64", "double"),
}
ITEM_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "f64": 8}
# Unit roundoff of a stored value, and of the sums.
ROUNDOFF = {"f32": 2.0**-24, "bf16": 2.0**-8, "f16": 2.0**-11, "f64": 2.0**-53}
SUM_ROUNDOFF = {"f32": 2.0**-24, "bf16": 2.0**-24, "f16": 2.0**-24, "f64": 2.0**-53}
SMALLEST = {"f32": 1e-44, "bf16": 1e-40, "f16": 6e-8, "f64": 0.0}


def short_name(name: str) -> str:
    """Find what we call a type that may be written as others do; another word stays as it is."""
    plain = name.lower().removeprefix("torch.").removeprefix("np.").removeprefix("jnp.")
    known = {alias: short for short, aliases in ALIASES.items() for alias in (short, *aliases)}
    return known.get(plain, name)


def to_bits(values: Array, dtype: str) -> Array:
    """Round to the type; bf16 is stored as its upper 16 bits, for NumPy has no such type."""
    if dtype != "bf16":
        return values.astype({"f32": np.float32, "f16": np.float16, "f64": np.float64}[dtype])
    u = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def from_bits(stored: Array, dtype: str) -> Array:
    """Undo `to_bits`, to float32 for bf16."""
    if dtype != "bf16":
        return stored
    return (stored.astype(np.uint32) << 16).view(np.float32)


def recode(stored: Array, dtype: str, storage: str) -> Array:
    """Round stored values of one type to another."""
    return stored if storage == dtype else to_bits(from_bits(stored, dtype), storage)


def worst_error(
    got: Array, expected: Array, magnitude: Array, factor: float, storage: str
) -> float:
    """Find the largest error as a share of its bound, `factor` Σ|a||b| and the result's rounding.

    `magnitude` is Σ|a||b|. Above 1, or infinite where a number is not finite, `got` is wrong.
    """
    bound = factor * magnitude + ROUNDOFF[storage] * abs(expected) + SMALLEST[storage]
    error = abs(got - expected)
    return (
        float(np.max(np.where(error == 0.0, 0.0, error / bound), initial=0.0))
        if np.isfinite(error).all()
        else float("inf")
    )


def sum_factor(length: int, dtype: str, storage: str) -> float:
    """Bound the error of a sum of `length` products, as a share of Σ|a||b|.

    A contender that stores its operands in fewer bits than the case rounds them, too.
    """
    inexact = 2 * ROUNDOFF[storage] if storage != dtype else 0.0
    return inexact + (length + 2) * SUM_ROUNDOFF[storage]
