"""Layers that read few rows of their weights, as foreign functions of XLA with derivatives.

Which channels or entries are chosen is a constant to the derivatives.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gossamer._numbers import integer
from gossamer.jax._arguments import (
    ACTIVATIONS,
    Curve,
    activate,
    array,
    arrays,
    extent,
    limits,
    read_activation,
    same_type,
)
from gossamer.jax._ops import Array, differentiable, foreign, passing
from gossamer.products import Activation


def gated_mlp(
    x: Array,
    w_gate: Array,
    w_up: Array,
    w_down_t: Array,
    *,
    threshold: Any,
    activation: Activation | None = "silu",
) -> Array:
    """Apply a gated MLP whose small gates are pruned, as `gossamer.gated_mlp`, under jit and grad.

    out[t] = Σ_i a[t, i]·u[t, i]·w_down_t[i] over the channels i with |a[t, i]| ≥ threshold[i] for
    at least one token t, where a = activation(x·w_gateᵀ) and u = x·w_upᵀ. Derivatives of any order
    in reverse compute a anew; a gate that differs from its threshold by a rounding error may be on
    the other side then.

    Parameters
    ----------
    x : array [..., d]
    w_gate, w_up, w_down_t : array [h, d] of x's type
    threshold : number, or array [h] of float32 or x's type
    activation : as for `gossamer.linear`

    Returns
    -------
    array [..., d]

    Raises
    ------
    TypeError
        For element types that differ.
    ValueError
        For shapes.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> w = jnp.array([[1.0, 0.0], [0.0, 3.0]])
    >>> gated_mlp(jnp.array([1.0, 2.0]), w, w, w, threshold=2.0, activation="relu")
    Array([  0., 108.], dtype=float32)
    """
    op = "gated_mlp"
    x, *weights = arrays(op, x=x, w_gate=w_gate, w_up=w_up, w_down_t=w_down_t)
    if x.ndim == 0:
        raise ValueError(f"{op}: x.ndim is 0, expected at least 1")
    for name, w in zip(("w_gate", "w_up", "w_down_t"), weights, strict=True):
        if w.ndim != 2:
            raise ValueError(f"{op}: {name}.ndim is {w.ndim}, expected 2")
        same_type(op, name, w, "x", x)
        extent(op, f"{name}.shape[0]", w.shape[0], "w_gate.shape[0]", weights[0].shape[0])
        extent(op, f"{name}.shape[1]", w.shape[1], f"x.shape[{x.ndim - 1}]", x.shape[-1])
    limit, each = limits(op, threshold, weights[0].shape[0])
    return gates(Gates(limit, read_activation(op, activation)), x, *weights, each)


def gather_decode(
    indices: Array, values: Array, table: Array, *, bias: Array | None = None
) -> Array:
    """Sum some rows of a table, weighted, as `gossamer.gather_decode`, under jit, grad and vmap.

    out[t] = Σ_i values[t, i]·table[indices[t, i]] + bias. Derivatives of any order in reverse reach
    values, table and bias.

    Parameters
    ----------
    indices : array [..., k], int32 or int64, from 0 to H - 1; may repeat
    values : array [..., k] of table's type
    table : array [H, d]
    bias : array [d] of table's type, or None

    Returns
    -------
    array [..., d]

    Raises
    ------
    TypeError
        For element types that differ.
    ValueError
        For shapes. An index out of range is found when the function runs; on a GPU it makes its row
        NaN.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> table = jnp.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    >>> gather_decode(jnp.array([2, 0]), jnp.array([2.0, 1.0]), table)
    Array([11., 10.], dtype=float32)
    """
    op = "gather_decode"
    indices, values, table = arrays(op, indices=indices, values=values, table=table)
    if values.ndim == 0:
        raise ValueError(f"{op}: values.ndim is 0, expected at least 1")
    if table.ndim != 2:
        raise ValueError(f"{op}: table.ndim is {table.ndim}, expected 2")
    if indices.shape != values.shape:
        raise ValueError(f"{op}: indices.shape is {indices.shape}, expected {values.shape}")
    same_type(op, "values", values, "table", table)
    y = decode(indices, values, table)
    if bias is None:
        return y
    bias = array(op, "bias", bias)
    if bias.shape != table.shape[1:]:
        raise ValueError(f"{op}: bias.shape is {bias.shape}, expected {table.shape[1:]}")
    same_type(op, "bias", bias, "table", table)
    return y + bias


def topk_rows(
    x: Array,
    k: int,
    *,
    key: Array | None = None,
    tie: Literal["low", "high"] = "low",
    nan: Literal["lowest", "highest", "error"] = "lowest",
) -> tuple[Array, Array]:
    """Keep the k largest entries of each row, as `gossamer.prune.topk_rows`, under jit and grad.

    values[t, i] = x[t, indices[t, i]]; derivatives of any order in reverse reach x there.

    Parameters
    ----------
    x : array [..., F]
    k : int from 0 to F
    key : array of x's shape and type, or None
    tie, nan : as for `gossamer.prune.topk_rows`

    Returns
    -------
    values : array [..., k]
    indices : array [..., k], int32, in the order of the columns

    Raises
    ------
    TypeError
        For a key of another type.
    ValueError
        For k and shapes.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> topk_rows(jnp.array([[1.0, 3.0, 2.0]]), 2)[1]
    Array([[1, 2]], dtype=int32)
    """
    op = "topk_rows"
    x, k = array(op, "x", x), integer(op, "k", k)
    if x.ndim == 0:
        raise ValueError(f"{op}: x.ndim is 0, expected at least 1")
    if not 0 <= k <= x.shape[-1]:
        raise ValueError(f"{op}: k is {k}, expected 0 to {x.shape[-1]}")
    for name, word, words in (("tie", tie, TIES), ("nan", nan, NANS)):
        if not isinstance(word, str) or word not in words:
            *most, last = map(repr, words)
            raise ValueError(f"{op}: {name} is {word!r}, expected {', '.join(most)} or {last}")
    if key is not None:
        key = array(op, "key", key)
        if key.shape != x.shape:
            raise ValueError(f"{op}: key.shape is {key.shape}, expected {x.shape}")
        same_type(op, "key", key, "x", x)
        key = jax.lax.stop_gradient(key)
    values, indices = pick(Picks(k, x.shape[-1], tie, nan), x, key)
    return values, indices


# The gated layer, whose derivative is in JAX's own operations.


class Gates(NamedTuple):
    """The threshold of all channels, if any, and the gates' activation."""

    threshold: float | None
    curve: Curve


def _gates(spec: Gates, *given: Any) -> Array:
    *operands, each = given
    limit: dict[str, Any] = {}
    if each is None:
        limit["threshold"] = np.float64(spec.threshold)
    else:
        operands.append(each)
    name, lo, hi = spec.curve
    x = operands[0]
    return foreign(
        *("gated_mlp", jax.ShapeDtypeStruct(x.shape, x.dtype), *operands),
        activation=list(ACTIVATIONS).index(name),
        lo=np.float64(lo),
        hi=np.float64(hi),
        **limit,
    )


def _gates_forward(spec: Gates, *operands: Any) -> tuple[Array, Any]:
    return gates(spec, *operands), operands


def _gates_backward(spec: Gates, operands: Any, g: Array) -> tuple[Any, ...]:
    x, w_gate, w_up, w_down_t, each = operands
    kind = jnp.float64 if x.dtype == jnp.float64 else jnp.float32

    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, preferred_element_type=kind)

    x2, g2 = (y.reshape(math.prod(y.shape[:-1]), y.shape[-1]) for y in (x, g))
    a, slope = jax.vjp(lambda z: activate(spec.curve, z), product(x2, w_gate.T))
    passes = passing(a, spec.threshold, each)
    u, dh = product(x2, w_up.T), product(g2, w_down_t.T)
    dz = slope(jnp.where(passes, dh * u, 0))[0].astype(x.dtype)
    du = jnp.where(passes, dh * a, 0).astype(x.dtype)
    h = jnp.where(passes, a * u, 0).astype(x.dtype)
    dx = (product(dz, w_gate) + product(du, w_up)).astype(x.dtype).reshape(x.shape)
    slopes = (product(dz.T, x2), product(du.T, x2), product(h.T, g2))
    return dx, *(y.astype(x.dtype) for y in slopes), None


#: out of (spec, x, w_gate, w_up, w_down_t, thresholds of the channels or None).
gates: Any = differentiable(_gates, _gates_forward, _gates_backward)


# gather_decode and its two derivatives, which are closed under differentiation:
# V[t, i] = dy[t]·table[indices[t, i]] and T[r] = Σ values[t, i]·dy[t] over indices[t, i] = r.


def _decode(indices: Array, values: Array, table: Array) -> Array:
    result = jax.ShapeDtypeStruct((*indices.shape[:-1], table.shape[1]), table.dtype)
    return foreign("gather_decode", result, indices, values, table)


def _decode_forward(*operands: Array) -> tuple[Array, Any]:
    return decode(*operands), operands


def _decode_backward(operands: Any, g: Array) -> tuple[Any, ...]:
    indices, values, table = operands
    return None, decode_values(g, indices, table), decode_table(len(table), g, indices, values)


def _decode_values(dy: Array, indices: Array, table: Array) -> Array:
    result = jax.ShapeDtypeStruct(indices.shape, table.dtype)
    return foreign("gather_decode_values", result, dy, indices, table)


def _decode_values_forward(*operands: Array) -> tuple[Array, Any]:
    return decode_values(*operands), operands


def _decode_values_backward(operands: Any, g: Array) -> tuple[Any, ...]:
    dy, indices, table = operands
    return decode(indices, g, table), None, decode_table(len(table), dy, indices, g)


def _decode_table(rows: int, dy: Array, indices: Array, values: Array) -> Array:
    result = jax.ShapeDtypeStruct((rows, dy.shape[-1]), dy.dtype)
    return foreign("gather_decode_table", result, dy, indices, values)


def _decode_table_forward(rows: int, *operands: Array) -> tuple[Array, Any]:
    return decode_table(rows, *operands), operands


def _decode_table_backward(_rows: int, operands: Any, g: Array) -> tuple[Any, ...]:
    dy, indices, values = operands
    return decode(indices, values, g), None, decode_values(dy, indices, g)


decode: Any = differentiable(_decode, _decode_forward, _decode_backward, fixed=0)
decode_values: Any = differentiable(
    _decode_values, _decode_values_forward, _decode_values_backward, fixed=0
)
decode_table: Any = differentiable(_decode_table, _decode_table_forward, _decode_table_backward)


# The largest entries of each row.

TIES = ("low", "high")
NANS = ("lowest", "highest", "error")  # in the order of the native library's numbers


class Picks(NamedTuple):
    """What does not depend on arrays."""

    k: int
    columns: int
    tie: str
    nan: str


def _pick(spec: Picks, x: Array, key: Array | None) -> Any:
    shape = (*x.shape[:-1], spec.k)
    results = (jax.ShapeDtypeStruct(shape, x.dtype), jax.ShapeDtypeStruct(shape, jnp.int32))
    return foreign(
        *("topk_rows", results, x, *(() if key is None else (key,))),
        axes=x.ndim,
        has_key=key is not None,
        high=spec.tie == "high",
        nan=NANS.index(spec.nan),
    )


def _pick_forward(spec: Picks, x: Array, key: Array | None) -> tuple[Any, Any]:
    values, indices = pick(spec, x, key)
    return (values, indices), indices


def _pick_backward(spec: Picks, indices: Array, gradients: Any) -> tuple[Any, ...]:
    return spread(spec.columns, gradients[0], indices), None


def _spread(columns: int, dy: Array, indices: Array) -> Array:
    result = jax.ShapeDtypeStruct((*dy.shape[:-1], columns), dy.dtype)
    return foreign("topk_rows_backward", result, dy, indices, axes=dy.ndim)


def _spread_forward(columns: int, dy: Array, indices: Array) -> tuple[Array, Array]:
    return spread(columns, dy, indices), indices


def _spread_backward(_columns: int, indices: Array, g: Array) -> tuple[Any, ...]:
    return jnp.take_along_axis(g, indices, -1), None


#: (values, indices) of (spec, x, key or None).
pick: Any = differentiable(_pick, _pick_forward, _pick_backward)
#: The derivative of the values, of (columns, dy, indices).
spread: Any = differentiable(_spread, _spread_forward, _spread_backward)
