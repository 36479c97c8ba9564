"""Attention to a cache, and the choice of blocks, as foreign functions of XLA."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gossamer._numbers import flag, real, size, whole
from gossamer.jax._arguments import array, arrays, same_type
from gossamer.jax._ops import Array, differentiable, foreign

#: In the order of the native library's numbers.
MODES = ("mean", "max", "min")


def attention_decode(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    indptr: Array,
    indices: Array,
    *,
    lengths: Array | None = None,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
) -> tuple[Array, Array]:
    """Attend with few queries to pages of a cache, as `gossamer.attention_decode`, in jit and vmap.

    It has no derivative: in training, the keys are not a cache, and `attention` has one.

    Parameters
    ----------
    q, k_cache, v_cache, indptr, indices, lengths, causal, scale, softcap, sinks
        As for `gossamer.attention_decode`; numbers are not traced. On a GPU the lists are not
        checked: a page that the cache does not have counts as zeros.

    Returns
    -------
    o : array [B, t, Hq, Dv] of q's type
    lse : array [B, Hq, t], float32

    Raises
    ------
    NotImplementedError
        Where a derivative is asked for.
    TypeError
        For element types.
    ValueError
        For shapes. What traced lists hold is checked when the function runs.

    Examples
    --------
    >>> import jax
    >>> cache = jax.numpy.ones((3, 4, 1, 8))
    >>> lists = jax.numpy.array([0, 2]), jax.numpy.array([2, 0])
    >>> lse = jax.jit(attention_decode)(cache[:1, :1], cache, cache, *lists)[1]
    >>> bool(jax.numpy.allclose(lse, 8**0.5 + jax.numpy.log(8)))
    True
    """
    op = "attention_decode"
    q, k, v = arrays(op, q=q, k_cache=k_cache, v_cache=v_cache)
    for name, x in (("q", q), ("k_cache", k), ("v_cache", v)):
        _four(op, name, x)
        same_type(op, name, x, "q", q)
    lists = _integers(op, "indptr", indptr, (1,)), _integers(op, "indices", indices, (1,))
    spec = Decode(
        causal=flag(op, "causal", causal),
        scale=None if scale is None else real(op, "scale", scale),
        softcap=None if softcap is None else real(op, "softcap", softcap),
    )
    held = None if lengths is None else _integers(op, "lengths", lengths, (1, 2))
    added = None if sinks is None else array(op, "sinks", sinks)
    o, lse = decode(spec, (q, k, v, added), (*lists, held))
    return o, lse


def block_pool(x: Array, block: int, *, mode: str = "mean") -> Array:
    """Pool the rows of each block, as `gossamer.block_pool`, under jit, grad and vmap.

    out[b, j, h, d] = mean, max or min of x[b, i, h, d] over j·block ≤ i < (j + 1)·block.
    The gradient of a maximum or a minimum is shared by the rows that have it.

    Parameters
    ----------
    x : array [B, S, H, D], float32, float16 or bfloat16
    block : int
    mode : "mean", "max" or "min"

    Returns
    -------
    array [B, ceil(S / block), H, D], float32

    Raises
    ------
    TypeError
        For element types.
    ValueError
        For shapes and options out of range.

    Examples
    --------
    >>> import jax
    >>> x = jax.numpy.array([1.0, 2.0, 5.0]).reshape(1, 3, 1, 1)
    >>> jax.grad(lambda x: block_pool(x, 2).sum())(x).ravel()
    Array([0.5, 0.5, 1. ], dtype=float32)
    """
    op = "block_pool"
    x = array(op, "x", x)
    _four(op, "x", x)
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(f"{op}: mode is {mode!r}, expected 'mean', 'max' or 'min'")
    return pool(Pool(size(op, "block", block, 1), mode), x)


def block_topk(
    q: Array,
    pooled: Array,
    k: int,
    *,
    pooled_min: Array | None = None,
    rows: int = 1,
    block: int = 1,
    causal: bool = False,
    q_offset: int = 0,
    keep_first: int = 0,
    keep_local: int = 0,
) -> Array:
    """Choose k blocks of keys for each row of queries, as `gossamer.block_topk`, in jit and vmap.

    To derivatives, what was chosen is a constant.

    Parameters
    ----------
    q, pooled, k, pooled_min, rows, block, causal, q_offset, keep_first, keep_local
        As for `gossamer.block_topk`; numbers are not traced.

    Returns
    -------
    array [B, Mb, Hkv, k], int32
        Sorted, -1 at the end where there are fewer. `BlockLayout.from_topk` takes it outside of
        jit: how many blocks a layout has depends on the numbers.

    Raises
    ------
    TypeError
        For element types.
    ValueError
        For shapes and options out of range.

    Examples
    --------
    >>> import jax
    >>> pooled = jax.numpy.array([3.0, 1.0, 2.0]).reshape(1, 3, 1, 1)
    >>> block_topk(jax.numpy.ones((1, 1, 1, 1)), pooled, 2)
    Array([[[[0, 2]]]], dtype=int32)
    """
    op = "block_topk"
    operands = arrays(op, q=q, pooled=pooled)
    if pooled_min is not None:
        operands.append(array(op, "pooled_min", pooled_min))
    operands = list(map(jax.lax.stop_gradient, operands))
    for name, x in zip(("q", "pooled", "pooled_min"), operands, strict=False):
        _four(op, name, x)
    given = {"k": k, "rows": rows, "block": block, "q_offset": q_offset}
    given |= {"keep_first": keep_first, "keep_local": keep_local}
    numbers: dict[str, Any] = {name: whole(op, name, x) for name, x in given.items()}
    count = size(op, "k", k, 0)
    (batch, length, *_), heads = operands[0].shape, operands[1].shape[2]
    numbers |= {"causal": flag(op, "causal", causal), "has_min": pooled_min is not None}
    result = jax.ShapeDtypeStruct((batch, length, heads, count), jnp.int32)
    return foreign(op, result, *operands, **numbers)


def _four(op: str, name: str, x: Array) -> None:
    if x.ndim != 4:
        raise ValueError(f"{op}: {name}.ndim is {x.ndim}, expected 4")


def _integers(op: str, name: str, x: Any, axes: tuple[int, ...]) -> Array:
    x = array(op, name, x)
    if x.ndim not in axes:
        raise ValueError(f"{op}: {name}.ndim is {x.ndim}, expected {' or '.join(map(str, axes))}")
    if x.dtype != jnp.int32:
        raise TypeError(f"{op}: {name}.dtype is {x.dtype}, expected int32")
    return x


class Decode(NamedTuple):
    """The options of attention_decode."""

    causal: bool
    scale: float | None
    softcap: float | None


def _decode(spec: Decode, floats: Any, lists: Any) -> tuple[Array, Array]:
    q, k, v, sinks = floats
    indptr, indices, lengths = lists
    batch, length, heads, _ = q.shape
    results = (
        jax.ShapeDtypeStruct((*q.shape[:-1], v.shape[-1]), q.dtype),
        jax.ShapeDtypeStruct((batch, heads, length), jnp.float32),
    )
    options: dict[str, Any] = {"causal": spec.causal}
    for name, x in {"scale": spec.scale, "softcap": spec.softcap}.items():
        if x is not None:
            options[name] = np.float64(x)
    options |= {"has_lengths": lengths is not None, "has_sinks": sinks is not None}
    operands = (q, k, v, indptr, indices, *(x for x in (lengths, sinks) if x is not None))
    o, lse = foreign("attention_decode", results, *operands, **options)
    return o, lse


def _no_derivative(*_arguments: Any) -> Any:
    raise NotImplementedError(
        "attention_decode: a derivative is asked for, expected none: gossamer.jax.attention has one"
    )


#: (o, lse) of (spec, (q, k_cache, v_cache, sinks), (indptr, indices, lengths)).
decode: Any = differentiable(_decode, _no_derivative, _no_derivative)


class Pool(NamedTuple):
    """How rows are pooled."""

    block: int
    mode: str


def _pool(spec: Pool, x: Array) -> Array:
    batch, length, *rest = x.shape
    result = jax.ShapeDtypeStruct((batch, -(-length // spec.block), *rest), jnp.float32)
    return foreign("block_pool", result, x, block=spec.block, mode=MODES.index(spec.mode))


def _pool_forward(spec: Pool, x: Array) -> tuple[Array, Any]:
    pooled = pool(spec, x)
    return pooled, (x, pooled)


def _pool_backward(spec: Pool, kept: Any, g: Array) -> tuple[Array]:
    x, pooled = kept
    length, blocks = x.shape[1], pooled.shape[1]
    block = min(spec.block, max(length, 1))

    def each_row(y: Array) -> Array:
        return jnp.repeat(y, block, axis=1)[:, :length]

    def each_block(y: Array) -> Array:
        padded = jnp.pad(y, ((0, 0), (0, blocks * block - length), (0, 0), (0, 0)))
        return padded.reshape(y.shape[0], blocks, block, *y.shape[2:]).sum(2)

    # Where a block has NaN, its result is NaN, and comes from the rows with NaN.
    has = (spec.mode == "mean") | (x == each_row(pooled)) | jnp.isnan(x)
    shares = g / jnp.maximum(each_block(has.astype(jnp.float32)), 1)
    return (jnp.where(has, each_row(shares), 0).astype(x.dtype),)


#: The blocks' means, maxima or minima of (spec, x).
pool: Any = differentiable(_pool, _pool_forward, _pool_backward)
