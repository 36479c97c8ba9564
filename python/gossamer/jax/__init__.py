"""gossamer inside JAX: operations under jit, grad and vmap; matrices and layouts as pytrees.

Nothing of gossamer imports this module; `import gossamer.jax` imports JAX. On CPUs a handler checks
the structure of matrices and layouts at each call, since arrays of a traced function may hold
anything. On GPUs, where none of this has run yet, it checks shapes and element types only: the host
would have to wait for the index arrays. Wrong ones read and write outside of arrays there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp

from gossamer import _interop
from gossamer._attention import Window, check_pairs, pairs_of
from gossamer._numbers import flag, real, several, whole
from gossamer.formats import BSR, CSR, NM
from gossamer.formats._layout import BlockLayout
from gossamer.jax import _attention, _ops
from gossamer.jax._activation import gated_mlp, gather_decode, topk_rows
from gossamer.jax._arguments import array, arrays, epilogue, extent, limits, same_type
from gossamer.jax._decode import attention_decode, block_pool, block_topk
from gossamer.products import Activation

__all__ = [
    "attention",
    "attention_decode",
    "block_pool",
    "block_topk",
    "csr_attention",
    "csr_softmax",
    "delta_linear",
    "gated_mlp",
    "gather_decode",
    "linear",
    "merge_attention",
    "sddmm",
    "sparse_linear",
    "spmm",
    "topk_rows",
]

Array = Any


def linear(
    x: Array, w: CSR | BSR | NM, *, bias: Array | None = None, activation: Activation | None = None
) -> Array:
    """Apply a layer with sparse weights: activation(x·Wᵀ + bias), under jit, grad and vmap.

    Parameters
    ----------
    x : array [..., K]
    w : CSR, BSR or NM [M, K]
        Its arrays may be traced: `w.with_values(v)` for the derivative by v.
        On a GPU its structure is not checked: wrong index arrays read outside of arrays.
    bias : array [M], or None
    activation : as for `gossamer.linear`

    Returns
    -------
    array [..., M]

    Raises
    ------
    TypeError
        For element types that differ; where w is none of the formats.
    ValueError
        For shapes.

    Examples
    --------
    >>> import jax, gossamer
    >>> w = gossamer.CSR.from_dense(jax.numpy.eye(2))
    >>> x = jax.numpy.array([[3.0, 4.0]])
    >>> jax.grad(lambda v: linear(x, w.with_values(v)).sum())(w.values)
    Array([3., 4.], dtype=float32)
    """
    parts: Sequence[Array]
    if isinstance(w, NM):
        spec, *parts = _ops.groups_of("linear", "w", w)
    else:
        shape, *parts = _ops.parts_of("linear", "w", w)
    x = array("linear", "x", x)
    if x.ndim == 0:
        raise ValueError("linear: x.ndim is 0, expected at least 1")
    same_type("linear", "x", x, "w", parts[-1])
    extent("linear", f"x.shape[{x.ndim - 1}]", x.shape[-1], "w.shape[1]", w.shape[1])
    y = _ops.nm_linear(spec, x, *parts) if isinstance(w, NM) else _ops.linear(shape, x, *parts)
    return epilogue("linear", y, bias, activation)


def spmm(
    a: CSR | BSR | NM,
    b: Array,
    *,
    transpose_a: bool = False,
    bias: Array | None = None,
    activation: Activation | None = None,
) -> Array:
    """Multiply a sparse matrix by a dense one, under jit, grad and vmap.

    activation(A·B + bias), with Aᵀ for A where `transpose_a`.

    Parameters
    ----------
    a : CSR, BSR or NM [M, K]; [K, M] with `transpose_a`
        On a GPU its structure is not checked: wrong index arrays read outside of arrays.
    b : array [K, N] or [K]
    transpose_a : bool
    bias : array [M], or None
        One value for each row of the product.
    activation : as for `gossamer.spmm`

    Returns
    -------
    array [M, N] or [M]

    Raises
    ------
    TypeError
        For element types that differ; where a is none of the formats.
    ValueError
        For shapes.

    Examples
    --------
    >>> import jax, gossamer
    >>> a = gossamer.CSR.from_dense(2 * jax.numpy.eye(2))
    >>> jax.jit(spmm)(a, jax.numpy.array([3.0, 4.0]))
    Array([6., 8.], dtype=float32)
    """
    parts: Sequence[Array]
    if isinstance(a, NM):
        spec, *parts = _ops.groups_of("spmm", "a", a)
    else:
        shape, *parts = _ops.parts_of("spmm", "a", a)
    b = array("spmm", "b", b)
    if b.ndim not in (1, 2):
        raise ValueError(f"spmm: b.ndim is {b.ndim}, expected 1 or 2")
    same_type("spmm", "b", b, "a", parts[-1])
    transposed = flag("spmm", "transpose_a", transpose_a)
    axis = 0 if transposed else 1
    extent("spmm", "b.shape[0]", b.shape[0], f"a.shape[{axis}]", a.shape[axis])
    if isinstance(a, NM):
        y = _ops.nm_spmm(spec, transposed, *parts, b)
    else:
        y = _ops.spmm(shape, transposed, *parts, b)
    return epilogue("spmm", y, bias, activation, axis=0)


def sddmm(a: Array, b: Array, pattern: CSR | BSR) -> Array:
    """Multiply two dense matrices at the entries of a pattern only, under jit, grad and vmap.

    out[p] = Σ_d a[i, d]·b[j, d] for each entry p = (i, j) of the pattern.

    Parameters
    ----------
    a : array [M, D]
    b : array [N, D]
    pattern : CSR or BSR [M, N]
        Its values are not read.
        On a GPU its structure is not checked: wrong index arrays read outside of arrays.

    Returns
    -------
    array [nnz], or [nb, br, bc] for a BSR
        `pattern.with_values(out)` makes a matrix of it.

    Raises
    ------
    TypeError
        For element types that differ; where pattern is no CSR or BSR.
    ValueError
        For shapes.

    Examples
    --------
    >>> import jax, gossamer
    >>> pattern = gossamer.CSR.from_dense(jax.numpy.array([[0.0, 1.0]]))
    >>> a, b = jax.numpy.array([[1.0, 2.0]]), jax.numpy.array([[5.0, 6.0], [7.0, 8.0]])
    >>> sddmm(a, b, pattern)
    Array([23.], dtype=float32)
    """
    shape, *parts = _ops.parts_of("sddmm", "pattern", pattern)
    a, b = arrays("sddmm", a=a, b=b)
    for name, x, axis in (("a", a, 0), ("b", b, 1)):
        if x.ndim != 2:
            raise ValueError(f"sddmm: {name}.ndim is {x.ndim}, expected 2")
        extent("sddmm", f"{name}.shape[0]", x.shape[0], f"pattern.shape[{axis}]", shape[axis])
    same_type("sddmm", "b", b, "a", a)
    extent("sddmm", "b.shape[1]", b.shape[1], "a.shape[1]", a.shape[1])
    return _ops.sddmm(shape, a, b, *parts)


def sparse_linear(
    x: Array,
    wt: Array,
    *,
    threshold: Any,
    bias: Array | None = None,
    activation: Activation | None = None,
) -> Array:
    """Apply a layer to the large entries of its input, under jit, grad and vmap.

    out[t] = activation(Σ_k x[t, k]·wt[k] + bias) over the channels k with |x[t, k]| ≥ threshold[k]
    for at least one token t. Rows of wt of other channels are not read; the derivatives, of any
    order in reverse, are dense products in which they are zero.

    Parameters
    ----------
    x : array [..., K]
    wt : array [K, M]
    threshold : number, or array [K] of float32 or x's type
    bias : array [M], or None
    activation : as for `gossamer.linear`

    Returns
    -------
    array [..., M]

    Raises
    ------
    TypeError
        For element types that differ.
    ValueError
        For shapes.

    Examples
    --------
    >>> import jax
    >>> wt = jax.numpy.array([[1.0], [3.0], [5.0]])
    >>> x = jax.numpy.array([0.5, -3.0, 2.0])
    >>> jax.grad(lambda x: sparse_linear(x, wt, threshold=1.0).sum())(x)
    Array([0., 3., 5.], dtype=float32)
    """
    x, wt = arrays("sparse_linear", x=x, wt=wt)
    if x.ndim == 0:
        raise ValueError("sparse_linear: x.ndim is 0, expected at least 1")
    if wt.ndim != 2:
        raise ValueError(f"sparse_linear: wt.ndim is {wt.ndim}, expected 2")
    same_type("sparse_linear", "x", x, "wt", wt)
    axis = f"x.shape[{x.ndim - 1}]"
    extent("sparse_linear", axis, x.shape[-1], "wt.shape[0]", wt.shape[0])
    limit, each = limits("sparse_linear", threshold, wt.shape[0])
    return epilogue("sparse_linear", _ops.channels(limit, x, wt, each), bias, activation)


def delta_linear(
    x: Array,
    wt: Array,
    state: tuple[Array, Array] | None,
    *,
    threshold: Any,
    refresh: bool = False,
    bias: Array | None = None,
    activation: Activation | None = None,
) -> tuple[Array, tuple[Array, Array]]:
    """Apply a layer to the changes of a stream, under jit, grad, vmap and scan.

    The channels k with |x[..., k] - last[..., k]| ≥ threshold[k] for at least one token send their
    change: sums += (x[..., k] - last[..., k])·wt[k], last[..., k] = x[..., k]; then
    out = activation(sums + bias). As `gossamer.delta_linear`, but that the state is an operand and
    a result. Derivatives of any order in reverse reach x, wt, bias and, through the state, the
    steps before.

    Parameters
    ----------
    x : array [..., K]
    wt : array [K, M]
    state : (last [..., K], sums [..., M]) as returned, or None for zeros
        float32, float64 with float64.
    threshold : number, or array [K] of float32 or x's type
    refresh : bool
        Computes sums = last·wt anew.
    bias, activation : as for `gossamer.delta_linear`

    Returns
    -------
    out : array [..., M]
    state : (last, sums)

    Raises
    ------
    TypeError
        For element types.
    ValueError
        For shapes.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> wt, state = jnp.array([[1.0], [10.0]]), None
    >>> for x in (jnp.array([2.0, 3.0]), jnp.array([2.5, 5.0])):
    ...     y, state = delta_linear(x, wt, state, threshold=1.0)
    >>> y  # the first channel sent nothing in the second step
    Array([52.], dtype=float32)
    """
    op = "delta_linear"
    x, wt = arrays(op, x=x, wt=wt)
    if x.ndim == 0:
        raise ValueError(f"{op}: x.ndim is 0, expected at least 1")
    if wt.ndim != 2:
        raise ValueError(f"{op}: wt.ndim is {wt.ndim}, expected 2")
    same_type(op, "x", x, "wt", wt)
    extent(op, f"x.shape[{x.ndim - 1}]", x.shape[-1], "wt.shape[0]", wt.shape[0])
    real = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    shapes = (x.shape, (*x.shape[:-1], wt.shape[1]))
    if state is None:
        last, sums = (jnp.zeros(shape, real) for shape in shapes)
    else:
        last, sums = (array(op, "state", part) for part in several(op, "state", state, 2))
    for name, part, shape in (("last", last, shapes[0]), ("sums", sums, shapes[1])):
        if part.shape != shape:
            raise ValueError(f"{op}: state has {name} of shape {part.shape}, expected {shape}")
        if part.dtype != real:
            expected = jnp.dtype(real).name
            raise TypeError(f"{op}: state has {name} of type {part.dtype}, expected {expected}")
    limit, each = limits(op, threshold, x.shape[-1])
    step = _ops.Step(limit, flag(op, "refresh", refresh))
    y, last, sums = _ops.delta(step, x, wt, last, sums, each)
    return epilogue(op, y, bias, activation), (last, sums)


def attention(
    q: Array,
    k: Array,
    v: Array,
    layout: BlockLayout,
    *,
    causal: bool = False,
    window: Window | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Array | None = None,
    sinks: Array | None = None,
    q_offset: int | None = None,
    cu_seqlens: Array | None = None,
    cu_seqlens_k: Array | None = None,
) -> tuple[Array, Array]:
    """Attend to the keys that a block layout keeps, as `gossamer.attention`, in jit, grad and vmap.

    The gradients of o and of lse, of the first order, reach q, k, v, bias and sinks. A layout is a
    pytree: it may be an argument of a function that is traced.

    Parameters
    ----------
    q, k, v, layout, causal, window, scale, softcap, bias, sinks, q_offset, cu_seqlens, cu_seqlens_k
        As for `gossamer.attention`; numbers are not traced. On a GPU the layout's structure is not
        checked: wrong index arrays read outside of arrays.

    Returns
    -------
    o : array [B, S, Hq, Dv] or [T, Hq, Dv] of q's type
    lse : array [B, Hq, S] or [Hq, T], float32

    Raises
    ------
    TypeError
        Where layout is no BlockLayout; for element types.
    ValueError
        For shapes. What traced arrays hold is checked when the function runs.

    Examples
    --------
    >>> import gossamer, jax, numpy as np
    >>> layout = gossamer.BlockLayout.from_mask(np.ones((1, 4, 4), bool), block=16)
    >>> q = jax.numpy.ones((1, 64, 2, 16))
    >>> loss = lambda q: attention(q, q, q, layout, causal=True)[0].sum()
    >>> jax.grad(loss)(q).shape
    (1, 64, 2, 16)
    """
    if not isinstance(layout, BlockLayout):
        raise TypeError(f"attention: layout is a {type(layout).__name__}, expected a BlockLayout")
    qkv = _three("attention", q, k, v, (3, 4))
    native: Any = layout._native
    parts = tuple(
        None if x is None else array("attention", f"layout.{name}", _interop.exported(x))
        for name in ("indptr", "indices", "kinds", "bits")
        for x in (getattr(native, name),)
    )
    starts = None
    if cu_seqlens is None and cu_seqlens_k is not None:
        raise ValueError(
            "attention: one of cu_seqlens and cu_seqlens_k is given, expected both or none"
        )
    if cu_seqlens is not None:
        ends = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
        starts = tuple(arrays("attention", cu_seqlens=cu_seqlens, cu_seqlens_k=ends))
    before, after = (
        None if x is None else whole("attention", f"window[{i}]", x)
        for i, x in enumerate(_attention.bounds(window))
    )
    spec = _attention.Blocks(
        shape=layout.shape,
        block=layout.block,
        causal=flag("attention", "causal", causal),
        before=before,
        after=after,
        q_offset=None if q_offset is None else whole("attention", "q_offset", q_offset),
        scale=None if scale is None else real("attention", "scale", scale),
        softcap=None if softcap is None else real("attention", "softcap", softcap),
    )
    added = (
        None if x is None else array("attention", name, x)
        for name, x in (("bias", bias), ("sinks", sinks))
    )
    given = (parts, *added, starts)
    o, lse = _attention.attend(spec, qkv, given)
    return o, lse


def merge_attention(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Combine attentions over sets of keys that have none in common into that over all of them.

    lse = ln Σ_s e^(lse_s), o = Σ_s e^(lse_s - lse)·o_s, in JAX's own operations.

    Parameters
    ----------
    parts : pairs (o, lse) as attention returns them, all of one shape and type

    Returns
    -------
    o, lse : arrays of the shapes and types of the parts

    Raises
    ------
    ValueError
        For no parts, and for shapes that differ.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> o, lse = jnp.ones((1, 1, 1, 2)), jnp.zeros((1, 1, 1))
    >>> merge_attention([(o, lse), (3 * o, lse)])[0]
    Array([[[[2., 2.]]]], dtype=float32)
    """
    pairs = [
        tuple(array("merge_attention", f"parts[{i}]", x) for x in pair)
        for i, pair in enumerate(pairs_of(parts))
    ]
    check_pairs(pairs)
    return _attention.merge(pairs)


def csr_attention(
    q: Array,
    k: Array,
    v: Array,
    pattern: CSR,
    *,
    score: Literal["dot", "gat"] = "dot",
    scale: float | None = None,
    slope: float = 0.2,
    bias: Array | None = None,
) -> tuple[Array, Array]:
    """Attend over the entries of a CSR pattern, as `gossamer.csr_attention`, in jit, grad and vmap.

    The gradients of o and of lse, of the first order, reach q, k, v and bias.

    Parameters
    ----------
    q, k, v, pattern, score, scale, slope, bias
        As for `gossamer.csr_attention`; numbers are not traced. On a GPU the pattern's structure is
        not checked: wrong index arrays read outside of arrays.

    Returns
    -------
    o : array [B, M, H, Dv], …, of q's type
    lse : array [B, H, M], [H, M] or [M], float32 (float64 for float64)

    Raises
    ------
    TypeError
        Where pattern is no CSR; for element types.
    ValueError
        For shapes. What traced arrays hold is checked when the function runs.

    Examples
    --------
    >>> import gossamer, jax
    >>> x = jax.numpy.eye(2)
    >>> pattern = gossamer.CSR.from_dense(jax.numpy.triu(jax.numpy.ones((2, 2))))
    >>> csr_attention(x, x, x, pattern, scale=0.0)[0]
    Array([[0.5, 0.5],
           [0. , 1. ]], dtype=float32)
    """
    structure = _ops.structure_of("csr_attention", "pattern", pattern)
    if not isinstance(score, str) or score not in ("dot", "gat"):
        raise ValueError(f"csr_attention: score is {score!r}, expected 'dot' or 'gat'")
    gat = score == "gat"
    given = _three("csr_attention", q, k, v, (1, 2, 3) if gat else (2, 3, 4))
    number = None if scale is None else real("csr_attention", "scale", scale)
    slope = real("csr_attention", "slope", slope)
    spec = _attention.Entries(pattern.shape, gat, number, slope)
    added = None if bias is None else array("csr_attention", "bias", bias)
    o, lse = _attention.attend_entries(spec, given, structure, added)
    return o, lse


def csr_softmax(a: CSR) -> CSR:
    """Apply softmax to the stored entries of each row, as `gossamer.csr_softmax`, in jit and grad.

    P[i, j] = e^(A[i, j]) / Σ_j' e^(A[i, j']) over the entries of row i. Its gradient is of the
    first order.

    Parameters
    ----------
    a : CSR [M, N], with values [nnz] or [..., nnz]
        On a GPU its structure is not checked: wrong index arrays read outside of arrays.

    Returns
    -------
    CSR [M, N]
        Of a's structure.

    Raises
    ------
    TypeError
        Where a is no CSR.
    ValueError
        For a pattern without values.

    Examples
    --------
    >>> import gossamer, jax
    >>> a = gossamer.CSR.from_dense(jax.numpy.array([[1.0, 0.0, 1.0], [0.0, 5.0, 0.0]]))
    >>> csr_softmax(a).values
    Array([0.5, 0.5, 1. ], dtype=float32)
    """
    structure = _ops.structure_of("csr_softmax", "a", a)
    if a.values is None:
        raise ValueError("csr_softmax: a.values is None, expected an array of values")
    values = array("csr_softmax", "a.values", _interop.exported(a.values))
    return a.with_values(_attention.softmax(a.shape, structure, values))


def _three(op: str, q: Array, k: Array, v: Array, axes: tuple[int, ...]) -> tuple[Array, ...]:
    q, k, v = arrays(op, q=q, k=k, v=v)
    if q.ndim not in axes:
        *most, last = map(str, axes)
        raise ValueError(f"{op}: q.ndim is {q.ndim}, expected {', '.join(most)} or {last}")
    for name, x in (("k", k), ("v", v)):
        if x.ndim == 0:
            raise ValueError(f"{op}: {name}.ndim is 0, expected {q.ndim}")
        same_type(op, name, x, "q", q)
    return q, k, v
