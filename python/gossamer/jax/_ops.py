"""The core's products as foreign functions of XLA, with derivatives.

The handlers are in the extensions (python/src/jax): XLA calls them without Python. Each takes the
component arrays of a matrix, which may all be traced. Derivatives of any order in reverse are calls
of the same three functions; the gradient of values exists at the entries only.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gossamer import _backend, _core, _interop
from gossamer.formats import BSR, CSR, NM
from gossamer.formats._compressed import Traced
from gossamer.formats._layout import BlockLayout, TracedLayout
from gossamer.formats._nm import TracedNm
from gossamer.jax._arguments import array

Array = Any
Shape = tuple[int, int]
#: What the names of the handlers begin with.
PREFIX = "gossamer_"
#: For each handler, what refuses a call by shapes and element types.
CHECKS = _core.jax_checks()
#: The operations of handlers that take a matrix or a layout, and what they call it.
MATRICES = {
    **{name: ("linear", "w") for name in ("linear", "nm_linear")},
    **{name: ("spmm", "a") for name in ("spmm", "nm_spmm")},
    "sddmm": ("sddmm", "pattern"),
    "attention": ("attention", "layout"),
    "csr_attention": ("csr_attention", "pattern"),
    "csr_softmax": ("csr_softmax", "a"),
}
#: As which formats speak of themselves.
FORMATS = {"CSR", "BSR", "NM", "BlockLayout"}


def register() -> None:
    """Tell XLA the handlers of CPUs and, where this build has them, those of GPUs."""
    for platform, extension in (("cpu", _core), ("CUDA", _backend.extension())):
        if extension is None:
            continue
        for name, handler in extension.jax_handlers().items():
            jax.ffi.register_ffi_target(PREFIX + name, handler, platform=platform)


register()


def parts_of(op: str, argument: str, matrix: Any) -> tuple[Shape, Array, Array, Array]:
    """Take a matrix apart into its shape and arrays of JAX's."""
    if not isinstance(matrix, (CSR, BSR)):
        hint = _interop.sparse_hint(matrix)
        kind = type(matrix).__name__
        expected = "a CSR or a BSR" if op == "sddmm" else "a CSR, a BSR or an NM"
        raise TypeError(f"{op}: {argument} is a {kind}, expected {expected}{hint}")
    native: Any = matrix._native
    indptr, indices = _structure(op, argument, native)
    values = _part(op, argument, matrix._VALUES, getattr(native, matrix._VALUES))
    axes = 1 if isinstance(matrix, CSR) else 3
    if values.ndim != axes:
        raise ValueError(
            f"{op}: {argument}.{matrix._VALUES}.ndim is {values.ndim}, expected {axes}"
        )
    return native.shape, indptr, indices, values


class Groups(NamedTuple):
    """What an N:M matrix is beside its arrays."""

    rows: int
    cols: int
    n: int
    m: int
    axis: int


def groups_of(op: str, argument: str, matrix: NM) -> tuple[Groups, Array, Array]:
    """Take an N:M matrix apart into what it is, its indices and its values."""
    native: Any = matrix._native
    rows, cols = native.shape
    spec = Groups(rows, cols, native.n, native.m, native.axis)
    indices = _part(op, argument, "indices", native.indices)
    return spec, indices, _part(op, argument, "values", native.values)


def structure_of(op: str, argument: str, matrix: Any) -> tuple[Array, Array]:
    """Return the index arrays of a CSR, whatever its values."""
    if not isinstance(matrix, CSR):
        hint = _interop.sparse_hint(matrix)
        raise TypeError(f"{op}: {argument} is a {type(matrix).__name__}, expected a CSR{hint}")
    return _structure(op, argument, matrix._native)


def _structure(op: str, argument: str, native: Any) -> tuple[Array, Array]:
    indptr = _part(op, argument, "indptr", native.indptr)
    return indptr, _part(op, argument, "indices", native.indices)


def _part(op: str, argument: str, name: str, part: Any) -> Array:
    return array(op, f"{argument}.{name}", _interop.exported(part))


def foreign(
    name: str,
    results: Any,
    *operands: Array,
    in_place: dict[int, int] | None = None,
    **attributes: Any,
) -> Any:
    """Call a handler; `in_place` says which operands it updates, and which results these become.

    Shapes and element types are checked here, when the call is traced, by what the core itself
    asks: an error of a handler would reach the caller as one of XLA's.
    """
    made = results if isinstance(results, tuple) else (results,)
    described = ([(x.dtype.name, x.shape) for x in given] for given in (operands, made))
    try:
        CHECKS[name](*described, attributes)
    except (TypeError, ValueError) as error:
        speaker, _, text = str(error).partition(": ")
        op, matrix = MATRICES.get(name, (name, ""))
        text = f"{op}: {matrix}.{text}" if speaker in FORMATS else f"{op}: {text}"
        raise type(error)(text) from None
    axes = _axes(operands)
    function = jax.ffi.ffi_call(
        PREFIX + name,
        results,
        # Under vmap, what is not batched gets an axis of extent 1: nothing is copied. Operands
        # that are updated must have all of the batch, so they are given one element at a time.
        vmap_method="sequential" if in_place else "expand_dims",
        input_output_aliases=in_place,
    )
    return _varying(function(*_varying(operands, axes), **attributes), axes)


def differentiable(function: Any, forward: Any, backward: Any, *, fixed: int = 1) -> Any:
    """Return a function with its derivative; the first `fixed` arguments are no operands.

    Operands that are the same on all devices of a `jax.shard_map` are made to vary as the others
    do, so that JAX sums their gradients over the devices.
    """
    made = jax.custom_vjp(function, nondiff_argnums=tuple(range(fixed)))
    made.defvjp(forward, backward)

    def call(*given: Any) -> Any:
        operands = given[fixed:]
        return made(*given[:fixed], *_varying(operands, _axes(operands)))

    return call


def _axes(operands: Any) -> frozenset[Any]:
    """Return the axes of a mesh of devices, along which what is traced varies in `shard_map`."""
    axes: frozenset[Any] = frozenset()
    for x in jax.tree_util.tree_leaves(operands):
        if isinstance(x, jax.core.Tracer):
            axes |= _vma(x)
    return axes


def _varying(tree: Any, axes: frozenset[Any]) -> Any:
    """Say to JAX that arrays vary along the axes; a foreign function's results do not tell."""
    if not axes:
        return tree

    def vary(x: Array) -> Array:
        missing = tuple(sorted(axes - _vma(x), key=str))
        if not missing:
            return x
        if hasattr(jax.lax, "pcast"):
            return jax.lax.pcast(x, missing, to="varying")
        return jax.lax.pvary(x, missing)  # JAX before 0.9

    return jax.tree_util.tree_map(vary, tree)


def _vma(x: Array) -> frozenset[Any]:
    """Return the axes along which an array varies, under the name that this JAX has for them."""
    of = getattr(x, "aval", None)
    axes = getattr(getattr(of, "manual_axis_type", None), "varying", getattr(of, "vma", ()))
    return frozenset(axes)


def _call(name: str, shape: tuple[int, ...], *operands: Array, **attributes: Any) -> Array:
    dtype = operands[3 if name == "spmm" else 0].dtype
    return foreign(name, jax.ShapeDtypeStruct(shape, dtype), *operands, **attributes)


def _linear(shape: Shape, x: Array, *w: Array) -> Array:
    return _call("linear", (*x.shape[:-1], shape[0]), x, *w, rows=shape[0], cols=shape[1])


def _linear_forward(shape: Shape, *operands: Array) -> tuple[Array, Any]:
    return linear(shape, *operands), operands


def _linear_backward(shape: Shape, operands: Any, g: Array) -> tuple[Any, ...]:
    x, *w = operands
    g2, x2 = (y.reshape(math.prod(y.shape[:-1]), y.shape[-1]) for y in (g, x))
    dx = spmm(shape, True, *w, g2.T).T.reshape(x.shape)
    return dx, None, None, sddmm(shape, g2.T, x2.T, *w)


def _spmm(shape: Shape, transpose_a: bool, *operands: Array) -> Array:
    rows, cols = shape
    result = (cols if transpose_a else rows, *operands[3].shape[1:])
    return _call("spmm", result, *operands, rows=rows, cols=cols, transpose_a=transpose_a)


def _spmm_forward(shape: Shape, transpose_a: bool, *operands: Array) -> tuple[Array, Any]:
    return spmm(shape, transpose_a, *operands), operands


def _spmm_backward(shape: Shape, transpose_a: bool, operands: Any, g: Array) -> tuple[Any, ...]:
    *a, b = operands
    db = spmm(shape, not transpose_a, *a, g)
    left, right = (x if x.ndim == 2 else x[:, None] for x in ((b, g) if transpose_a else (g, b)))
    return None, None, sddmm(shape, left, right, *a), db


def _sddmm(shape: Shape, *operands: Array) -> Array:
    return _call("sddmm", operands[4].shape, *operands, rows=shape[0], cols=shape[1])


def _sddmm_forward(shape: Shape, *operands: Array) -> tuple[Array, Any]:
    return sddmm(shape, *operands), operands


def _sddmm_backward(shape: Shape, operands: Any, g: Array) -> tuple[Any, ...]:
    a, b, indptr, indices, values = operands
    w = (indptr, indices, g)
    return spmm(shape, False, *w, b), spmm(shape, True, *w, a), None, None, jnp.zeros_like(values)


#: x·Wᵀ of (shape, x, indptr, indices, values).
linear: Any = differentiable(_linear, _linear_forward, _linear_backward)
#: A·b of (shape, transpose_a, indptr, indices, values, b).
spmm: Any = differentiable(_spmm, _spmm_forward, _spmm_backward, fixed=2)
#: (a·bᵀ) at the entries, of (shape, a, b, indptr, indices, values).
sddmm: Any = differentiable(_sddmm, _sddmm_forward, _sddmm_backward)


# N:M matrices: three functions that are closed under differentiation.


def _nm_linear(spec: Groups, x: Array, *w: Array) -> Array:
    return _call("nm_linear", (*x.shape[:-1], spec.rows), x, *w, **spec._asdict())


def _nm_linear_forward(spec: Groups, *operands: Array) -> tuple[Array, Any]:
    return nm_linear(spec, *operands), operands


def _nm_linear_backward(spec: Groups, operands: Any, g: Array) -> tuple[Any, ...]:
    x, *w = operands
    g2, x2 = (y.reshape(math.prod(y.shape[:-1]), y.shape[-1]) for y in (g, x))
    dx = nm_spmm(spec, True, *w, g2.T).T.reshape(x.shape)
    return dx, None, nm_sampled(spec, g2, x2, *w)


def _nm_spmm(spec: Groups, transpose_a: bool, *operands: Array) -> Array:
    b = operands[2]
    shape = (spec.cols if transpose_a else spec.rows, *b.shape[1:])
    result = jax.ShapeDtypeStruct(shape, b.dtype)
    return foreign("nm_spmm", result, *operands, **spec._asdict(), transpose_a=transpose_a)


def _nm_spmm_forward(spec: Groups, transpose_a: bool, *operands: Array) -> tuple[Array, Any]:
    return nm_spmm(spec, transpose_a, *operands), operands


def _nm_spmm_backward(spec: Groups, transpose_a: bool, operands: Any, g: Array) -> tuple[Any, ...]:
    *a, b = operands
    db = nm_spmm(spec, not transpose_a, *a, g)
    left, right = (x if x.ndim == 2 else x[:, None] for x in ((b, g) if transpose_a else (g, b)))
    return None, nm_sampled(spec, left.T, right.T, *a), db


def _nm_sampled(spec: Groups, *operands: Array) -> Array:
    return _call("nm_sampled", operands[3].shape, *operands, **spec._asdict())


def _nm_sampled_forward(spec: Groups, *operands: Array) -> tuple[Array, Any]:
    return nm_sampled(spec, *operands), operands


def _nm_sampled_backward(spec: Groups, operands: Any, h: Array) -> tuple[Any, ...]:
    g, x, indices, values = operands
    dg = nm_linear(spec, x, indices, h)
    dx = nm_spmm(spec, True, indices, h, g.T).T
    return dg, dx, None, jnp.zeros_like(values)


#: x·Wᵀ of (spec, x, indices, values).
nm_linear: Any = differentiable(_nm_linear, _nm_linear_forward, _nm_linear_backward)
#: A·b of (spec, transpose_a, indices, values, b).
nm_spmm: Any = differentiable(_nm_spmm, _nm_spmm_forward, _nm_spmm_backward, fixed=2)
#: (gᵀ·x) at the values, of (spec, g, x, indices, values).
nm_sampled: Any = differentiable(_nm_sampled, _nm_sampled_forward, _nm_sampled_backward)


# The layer that reads the weights of large activations; which they are is a constant.


def passing(x: Array, threshold: float | None, each: Array | None) -> Array:
    """Return which channels the product reads: NaN passes, and a token speaks for all."""
    kind = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    limit = jnp.asarray(threshold if each is None else each, kind)
    small = jnp.abs(jax.lax.stop_gradient(x).astype(kind)) < limit
    return ~small.reshape(math.prod(x.shape[:-1]), x.shape[-1]).all(0)


def _channels(threshold: float | None, x: Array, wt: Array, each: Array | None) -> Array:
    result = jax.ShapeDtypeStruct((*x.shape[:-1], wt.shape[1]), x.dtype)
    if each is not None:
        return foreign("sparse_linear", result, x, wt, each)
    return foreign("sparse_linear", result, x, wt, threshold=np.float64(threshold))


def _channels_forward(threshold: float | None, *operands: Any) -> tuple[Array, Any]:
    return channels(threshold, *operands), operands


def _channels_backward(threshold: float | None, operands: Any, g: Array) -> tuple[Any, ...]:
    x, wt, each = operands
    kind = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    passes = passing(x, threshold, each)
    dx = jnp.where(passes, jnp.matmul(g, wt.T, preferred_element_type=kind), 0).astype(x.dtype)
    kept, g2 = (
        y.reshape(math.prod(y.shape[:-1]), y.shape[-1]) for y in (jnp.where(passes, x, 0), g)
    )
    dwt = jnp.matmul(kept.T, g2, preferred_element_type=kind).astype(wt.dtype)
    return dx, dwt, None


#: x·wt of (threshold, x, wt, thresholds of the channels or None).
channels: Any = differentiable(_channels, _channels_forward, _channels_backward)


# The same for the changes of a stream, whose state is an operand and a result.


class Step(NamedTuple):
    """How a step of a stream is made: the threshold of all channels, if any."""

    threshold: float | None
    refresh: bool


def _delta(step: Step, *given: Any) -> Any:
    x, wt, last, sums, each = given
    limit: dict[str, Any] = {}
    operands = [x, wt, last, sums]
    if each is None:
        limit["threshold"] = np.float64(step.threshold)
    else:
        operands.append(each)
    results = (
        jax.ShapeDtypeStruct(sums.shape, x.dtype),
        *(jax.ShapeDtypeStruct(y.shape, y.dtype) for y in (last, sums)),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    y, last, sums, _ = foreign(
        "delta_linear", results, *operands, in_place={2: 1, 3: 2}, refresh=step.refresh, **limit
    )
    return y, last, sums


def _delta_forward(step: Step, *operands: Any) -> tuple[Any, Any]:
    x, wt, last, _, each = operands
    return delta(step, *operands), (x, wt, last, each)


def _delta_backward(step: Step, operands: Any, cotangents: Any) -> tuple[Any, ...]:
    x, wt, last, each = operands
    dy, dlast, dsums = cotangents
    kind = last.dtype
    change = x.astype(kind) - last
    passes = passing(change, step.threshold, each)
    g = dsums + dy.astype(kind)
    dsent = jnp.matmul(g, wt.T.astype(kind))  # by what a channel has sent
    dx = jnp.where(passes, dlast + dsent, 0).astype(x.dtype)
    if step.refresh:  # sums = last·wt, with the new last
        moved = jnp.where(passes, x.astype(kind), last)
        held, g_before = jnp.where(passes, 0, dlast + dsent), jnp.zeros_like(g)
    else:
        moved = jnp.where(passes, change, 0)
        held, g_before = jnp.where(passes, -dsent, dlast), g
    moved, g = (y.reshape(math.prod(y.shape[:-1]), y.shape[-1]) for y in (moved, g))
    return dx, jnp.matmul(moved.T, g).astype(wt.dtype), held, g_before, None


#: (y, last, sums) after a step of (step, x, wt, last, sums, thresholds of the channels or None).
delta: Any = differentiable(_delta, _delta_forward, _delta_backward)


# Matrices as pytrees: their arrays are leaves, their shape is part of the tree.


def _flatten(matrix: Any) -> tuple[tuple[Array, Array, Array], Shape]:
    native = matrix._native
    return (native.indptr, native.indices, getattr(native, matrix._VALUES)), native.shape


def _unflatten(kind: Any, shape: Shape, leaves: Any) -> Any:
    indptr, indices, values = leaves
    if all(map(_is_array, (indptr, indices))) and _are_values(kind, values):
        index = jnp.issubdtype(indices.dtype, jnp.integer) and indptr.dtype == indices.dtype
        if index and indptr.ndim == indices.ndim == 1:
            wide = "int64" if indices.dtype == np.int64 else None
            return kind(indptr, indices, values, shape, index_dtype=wide)
    # Traced, or no matrix at all: what a transformation of JAX's puts in its place.
    return kind._wrap(Traced(indptr, indices, values, shape))


def _are_values(kind: Any, values: Any) -> bool:
    """Say whether a CSR, also a pattern or one of several sets, or a BSR may have such values."""
    if kind is CSR and values is None:
        return True
    there = _is_array(values) and jnp.issubdtype(values.dtype, jnp.floating)
    return there and (values.ndim >= 1 if kind is CSR else values.ndim == 3)


def _is_array(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray)) and not isinstance(x, jax.core.Tracer)


def _flatten_groups(matrix: NM) -> tuple[tuple[Array, Array], Groups]:
    native = matrix._native
    rows, cols = native.shape
    spec = Groups(rows, cols, native.n, native.m, native.axis)
    return (native.values, native.indices), spec


def _unflatten_groups(spec: Groups, leaves: Any) -> NM:
    values, indices = leaves
    rows, cols, n, m, axis = spec
    plain = all(map(_is_array, leaves)) and values.ndim == 2 and indices.dtype == jnp.uint8
    if plain and jnp.issubdtype(values.dtype, jnp.floating):
        return NM(values, indices, (rows, cols), n, m, axis=axis)
    traced: Any = TracedNm(values, indices, (rows, cols), n, m, axis=axis)
    return NM._wrap(traced)


def _flatten_layout(layout: BlockLayout) -> tuple[tuple[Any, ...], Any]:
    native = layout._native
    return (native.indptr, native.indices, native.kinds, native.bits), (layout.shape, layout.block)


def _unflatten_layout(sizes: Any, leaves: Any) -> BlockLayout:
    shape, block = sizes
    indptr, indices, kinds, bits = leaves
    there = [x for x in leaves if x is not None]
    plain = all(map(_is_array, there)) and indptr is not None and indices is not None
    if plain and all(x.ndim == 1 and x.dtype == np.int32 for x in (indptr, indices)):
        return BlockLayout(indptr, indices, shape, block, kinds=kinds, bits=bits)
    traced: Any = TracedLayout(indptr, indices, shape, block, kinds=kinds, bits=bits)
    return BlockLayout._wrap(traced)


for _kind in (CSR, BSR):
    jax.tree_util.register_pytree_node(
        _kind, _flatten, lambda shape, leaves, kind=_kind: _unflatten(kind, shape, leaves)
    )
jax.tree_util.register_pytree_node(NM, _flatten_groups, _unflatten_groups)
jax.tree_util.register_pytree_node(BlockLayout, _flatten_layout, _unflatten_layout)
