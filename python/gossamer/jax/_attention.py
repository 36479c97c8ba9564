"""Attention and softmax over patterns as foreign functions of XLA, with gradients once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gossamer import _attention
from gossamer.jax._ops import Array, differentiable, foreign


class Blocks(NamedTuple):
    """What does not depend on arrays: a layout's extents and the options."""

    shape: tuple[int, int, int, int]
    block: tuple[int, int]
    causal: bool
    before: int | None
    after: int | None
    q_offset: int | None
    scale: float | None
    softcap: float | None

    def attributes(self) -> dict[str, Any]:
        """Return what the handler reads; a missing option is left out."""
        names = ("batch", "heads", "rows", "cols", "block_rows", "block_cols")
        given = dict(zip(names, (*self.shape, *self.block), strict=True))
        return {**given, "causal": self.causal, **_options(self._asdict(), 3)}


def _options(values: dict[str, Any], first: int) -> dict[str, Any]:
    """Return the options from the first on that are given, numbers in their types."""
    given = list(values.items())[first:]
    return {
        name: np.float64(x) if name in ("scale", "softcap") else int(x)
        for name, x in given
        if x is not None
    }


def bounds(window: Any) -> tuple[int | None, int | None]:
    """Read a window."""
    before, after = _attention._bounds("attention", window)
    return before, after


def _operands(spec: Blocks, arrays: Any) -> tuple[list[Array], dict[str, Any]]:
    """Return what follows q, k and v, and the attributes."""
    layout, bias, sinks, starts = arrays
    indptr, indices, kinds, bits = layout
    optional = {"has_kinds": kinds, "has_bits": bits, "has_bias": bias, "has_sinks": sinks}
    flags = {name: x is not None for name, x in optional.items()}
    operands = [indptr, indices, *(x for x in optional.values() if x is not None)]
    operands += starts or ()
    return operands, {**spec.attributes(), **flags, "has_starts": starts is not None}


def _attend(spec: Blocks, qkv: Any, arrays: Any) -> tuple[Array, Array]:
    q, _, v = qkv
    operands, attributes = _operands(spec, arrays)
    lse = (q.shape[0], q.shape[2], q.shape[1]) if q.ndim == 4 else (q.shape[1], q.shape[0])
    results = (
        jax.ShapeDtypeStruct((*q.shape[:-1], v.shape[-1]), q.dtype),
        jax.ShapeDtypeStruct(lse, jnp.float32),
    )
    o, norm = foreign("attention", results, *qkv, *operands, **attributes)
    return o, norm


def _attend_forward(spec: Blocks, qkv: Any, arrays: Any) -> tuple[Any, Any]:
    o, lse = _attend(spec, qkv, arrays)
    return (o, lse), (qkv, arrays, o, lse)


def _attend_backward(spec: Blocks, kept: Any, gradients: Any) -> tuple[Any, ...]:
    (q, k, v), (layout, bias, sinks, starts), o, lse = kept
    do, dlse = gradients
    full = bias
    if bias is not None:  # the gradient of one that is broadcast is summed here
        batch = q.shape[0] if q.ndim == 4 else starts[0].shape[0] - 1
        full = jnp.broadcast_to(bias, (batch, q.shape[-2], *bias.shape[-2:]))
    operands, attributes = _operands(spec, (layout, full, sinks, starts))
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)]
    for x in (full, sinks):
        if x is not None:
            results.append(jax.ShapeDtypeStruct(x.shape, jnp.float32))
    made = foreign(
        *("attention_backward", tuple(results), do, dlse, o, lse, q, k, v, *operands), **attributes
    )
    rest = list(made[3:])
    dbias = dsinks = None
    if bias is not None:
        dbias = rest.pop(0)
        axes = tuple(i for i in (0, 1) if bias.shape[i] != dbias.shape[i])
        dbias = dbias.sum(axes, keepdims=True).astype(bias.dtype)
    if sinks is not None:
        dsinks = rest.pop(0)
    return tuple(made[:3]), (None, dbias, dsinks, None)


#: (o, lse) of (spec, (q, k, v), (layout, bias, sinks, starts)).
attend: Any = differentiable(_attend, _attend_forward, _attend_backward)


class Entries(NamedTuple):
    """What does not depend on arrays: a pattern's extents and the options of csr_attention."""

    shape: tuple[int, int]
    gat: bool
    scale: float | None
    slope: float

    def attributes(self) -> dict[str, Any]:
        """Return what the handler reads; a missing option is left out."""
        rows, cols = self.shape
        given = {"rows": rows, "cols": cols, "gat": self.gat, "slope": np.float64(self.slope)}
        return {**given, **_options({"scale": self.scale}, 0)}


def _attend_entries(spec: Entries, qkv: Any, pattern: Any, bias: Any) -> tuple[Array, Array]:
    q, _, v = qkv
    heads = q.shape if spec.gat else q.shape[:-1]  # [B, M, H], [M, H] or [M]
    lse = heads if len(heads) == 1 else (*heads[:-2], heads[-1], heads[-2])
    kind = jnp.float64 if q.dtype == jnp.float64 else jnp.float32
    results = (
        jax.ShapeDtypeStruct((*heads, v.shape[-1]), q.dtype),
        jax.ShapeDtypeStruct(lse, kind),
    )
    operands = (*qkv, *pattern, *(() if bias is None else (bias,)))
    options = {**spec.attributes(), "has_bias": bias is not None}
    o, norm = foreign("csr_attention", results, *operands, **options)
    return o, norm


def _entries_forward(spec: Entries, qkv: Any, pattern: Any, bias: Any) -> tuple[Any, Any]:
    o, lse = _attend_entries(spec, qkv, pattern, bias)
    return (o, lse), (qkv, pattern, bias, o, lse)


def _entries_backward(spec: Entries, kept: Any, gradients: Any) -> tuple[Any, ...]:
    qkv, pattern, bias, o, lse = kept
    there = () if bias is None else (bias,)
    results = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (*qkv, *there))
    operands = (*gradients, o, lse, *qkv, *pattern, *there)
    options = {**spec.attributes(), "has_bias": bias is not None}
    made = foreign("csr_attention_backward", results, *operands, **options)
    return tuple(made[:3]), None, made[3] if there else None


#: (o, lse) of (spec, (q, k, v), (indptr, indices), bias).
attend_entries: Any = differentiable(_attend_entries, _entries_forward, _entries_backward)


def _softmax(shape: tuple[int, int], pattern: Any, values: Array) -> Array:
    result = jax.ShapeDtypeStruct(values.shape, values.dtype)
    rows, cols = shape
    return foreign("csr_softmax", result, *pattern, values, rows=rows, cols=cols)


def _softmax_forward(shape: tuple[int, int], pattern: Any, values: Array) -> tuple[Array, Any]:
    p = _softmax(shape, pattern, values)
    return p, (pattern, p)


def _softmax_backward(shape: tuple[int, int], kept: Any, g: Array) -> tuple[Any, ...]:
    pattern, p = kept
    result = jax.ShapeDtypeStruct(p.shape, p.dtype)
    rows, cols = shape
    return None, foreign("csr_softmax_backward", result, *pattern, p, g, rows=rows, cols=cols)


#: The softmax over the entries of each row, of (shape, (indptr, indices), values).
softmax: Any = differentiable(_softmax, _softmax_forward, _softmax_backward)


def merge(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Combine attentions over sets of keys that have none in common; plain JAX."""
    norms = jnp.stack([lse for _, lse in parts])
    # A query without keys, whose lse is -∞ in all parts, has no gradient.
    empty = jnp.isneginf(norms).all(0)
    reached = jnp.where(empty, 0, norms)
    lse = jnp.where(empty, -jnp.inf, jax.nn.logsumexp(reached, axis=0))
    # Not e^(norm - lse), since lse rounds; and what a part without keys has for o may be anything.
    shares = jnp.where(empty, 0, jax.nn.softmax(reached, axis=0))
    shares, without = (x.swapaxes(-1, -2)[..., None] for x in (shares, jnp.isneginf(norms)))
    outputs = jnp.stack([o for o, _ in parts])
    return (shares * jnp.where(without, 0, outputs)).sum(0).astype(outputs.dtype), lse
