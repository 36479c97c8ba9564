"""What the functions have in common: arguments that are checked, and what follows a product."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gossamer._numbers import real, refuse

Array = Any
#: The element types that arrays may have.
TYPES = ("float32", "float64", "float16", "bfloat16", "int32", "int64", "uint8")


def array(op: str, name: str, x: Any) -> Array:
    """Return an operand as an array of JAX's, of an element type that the core has."""
    try:
        given = jnp.asarray(x)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{op}: {name} is a {type(x).__name__}, expected an array") from None
    if given.dtype.name not in TYPES:
        *most, last = TYPES
        raise TypeError(
            f"{op}: {name}.dtype is {given.dtype}, expected {', '.join(most)} or {last}"
        )
    return given


def arrays(op: str, **operands: Any) -> list[Array]:
    """Return several of them."""
    return [array(op, name, x) for name, x in operands.items()]


def limits(op: str, threshold: Any, channels: int) -> tuple[float | None, Array | None]:
    """Return the threshold of all channels, or the array of those of each."""
    if isinstance(threshold, jax.core.Tracer) and threshold.ndim == 0:
        return None, jax.lax.stop_gradient(jnp.broadcast_to(threshold, (channels,)))
    if getattr(threshold, "shape", ()) != ():
        each = array(op, "threshold", threshold)
        if each.shape != (channels,):
            raise ValueError(f"{op}: threshold.shape is {each.shape}, expected ({channels},)")
        return None, jax.lax.stop_gradient(each)
    number = real(op, "threshold", threshold)
    if math.isnan(number):
        refuse(op, "threshold", number, "a number")
    return number, None


def same_type(op: str, name: str, x: Array, other: str, y: Array) -> None:
    if x.dtype != y.dtype:
        raise TypeError(f"{op}: {name}.dtype is {x.dtype}, expected {other}.dtype = {y.dtype}")


def extent(op: str, name: str, got: int, other: str, expected: int) -> None:
    if got != expected:
        raise ValueError(f"{op}: {name} is {got}, expected {other} = {expected}")


def epilogue(op: str, y: Array, bias: Array | None, activation: Any, axis: int = -1) -> Array:
    """Return activation(y + bias); the outputs lie along an axis of y."""
    if bias is not None:
        bias = array(op, "bias", bias)
        outputs = (y.shape[axis],)
        if bias.shape != outputs:
            raise ValueError(f"{op}: bias.shape is {bias.shape}, expected {outputs}")
        if bias.dtype != y.dtype:
            raise TypeError(f"{op}: bias.dtype is {bias.dtype}, expected {y.dtype}")
        y = y + (bias if axis in (-1, y.ndim - 1) else bias[:, None])
    return activate(read_activation(op, activation), y)


class Curve(NamedTuple):
    """An activation: its name, "" for none, and the bounds of a clamp."""

    name: str
    lo: float
    hi: float


def activate(curve: Curve, y: Array) -> Array:
    """Apply an activation."""
    return ACTIVATIONS[curve.name](y, curve.lo, curve.hi)


def read_activation(op: str, activation: Any) -> Curve:
    """Read an activation as `gossamer.linear` takes it."""
    if activation is None:
        return Curve("", 0.0, 0.0)
    if isinstance(activation, str) and activation in ACTIVATIONS and activation not in NOT_A_NAME:
        return Curve(activation, 0.0, 0.0)
    if isinstance(activation, tuple) and len(activation) == 3 and activation[0] == "clamp":
        lo, hi = (real(op, f"activation[{i}]", activation[i]) for i in (1, 2))
        if not lo <= hi:
            raise ValueError(f"{op}: activation is clamp from {lo} to {hi}, expected lo <= hi")
        return Curve("clamp", lo, hi)
    raise ValueError(
        f"{op}: activation is {activation!r}, expected None, 'relu', 'relu6', 'gelu', 'silu' or "
        "('clamp', lo, hi)"
    )


def _smooth(curve: Callable[[Array], Array], y: Array) -> Array:
    """Apply GELU or SiLU with their limits at ±∞, where JAX's have NaN or such a derivative."""
    most = jnp.finfo(y.dtype).max
    # Not by jnp.clip, which has half the derivative at its limits.
    finite = jnp.where(jnp.isinf(y), jnp.sign(y) * most, y)
    return jnp.where(y == jnp.inf, y, curve(finite))


def _gelu(y: Array) -> Array:
    return jax.nn.gelu(y, approximate=False)


#: In the order of the native library's numbers.
ACTIVATIONS: dict[str, Callable[[Array, float, float], Array]] = {
    "": lambda y, _lo, _hi: y,
    "relu": lambda y, _lo, _hi: jax.nn.relu(y),
    "relu6": lambda y, _lo, _hi: jax.nn.relu6(y),
    "gelu": lambda y, _lo, _hi: _smooth(_gelu, y),
    "silu": lambda y, _lo, _hi: _smooth(jax.nn.silu, y),
    "clamp": jnp.clip,
}
NOT_A_NAME = ("", "clamp")
