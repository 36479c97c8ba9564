"""The core's products as foreign functions of XLA, with derivatives.

The handlers are in the extension (python/src/jax): XLA calls them without Python. Each takes the
component arrays of a matrix, which may all be traced. Derivatives of any order in reverse are calls
of the same three functions; the gradient of values exists at the entries only.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from gossamer import _core, _interop
from gossamer.formats import BSR, CSR
from gossamer.formats._compressed import Traced

Array = Any
Shape = tuple[int, int]

for _name, _handler in _core.jax_handlers().items():
    jax.ffi.register_ffi_target(f"gossamer_{_name}", _handler, platform="cpu")


def parts_of(op: str, argument: str, matrix: Any) -> tuple[Shape, Array, Array, Array]:
    """Take a matrix apart into its shape and arrays of JAX's."""
    if not isinstance(matrix, (CSR, BSR)):
        hint = _interop.sparse_hint(matrix)
        kind = type(matrix).__name__
        raise TypeError(f"{op}: {argument} is a {kind}, expected a CSR or a BSR{hint}")
    native: Any = matrix._native
    values = getattr(native, matrix._VALUES)
    arrays = (jnp.asarray(_interop.exported(x)) for x in (native.indptr, native.indices, values))
    return (native.shape, *arrays)


def _call(name: str, shape: tuple[int, ...], *operands: Array, **attributes: Any) -> Array:
    # Under vmap, what is not batched gets an axis of extent 1: nothing is copied.
    result = jax.ShapeDtypeStruct(shape, operands[0].dtype)
    if name == "spmm":
        result = jax.ShapeDtypeStruct(shape, operands[3].dtype)
    function = jax.ffi.ffi_call(f"gossamer_{name}", result, vmap_method="expand_dims")
    return function(*operands, **attributes)


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
linear: Any = jax.custom_vjp(_linear, nondiff_argnums=(0,))
linear.defvjp(_linear_forward, _linear_backward)
#: A·b of (shape, transpose_a, indptr, indices, values, b).
spmm: Any = jax.custom_vjp(_spmm, nondiff_argnums=(0, 1))
spmm.defvjp(_spmm_forward, _spmm_backward)
#: (a·bᵀ) at the entries, of (shape, a, b, indptr, indices, values).
sddmm: Any = jax.custom_vjp(_sddmm, nondiff_argnums=(0,))
sddmm.defvjp(_sddmm_forward, _sddmm_backward)


# Matrices as pytrees: their arrays are leaves, their shape is part of the tree.


def _flatten(matrix: Any) -> tuple[tuple[Array, Array, Array], Shape]:
    native = matrix._native
    return (native.indptr, native.indices, getattr(native, matrix._VALUES)), native.shape


def _unflatten(kind: Any, shape: Shape, leaves: Any) -> Any:
    if all(isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) for x in leaves):
        indptr, indices, values = leaves
        index = jnp.issubdtype(indices.dtype, jnp.integer) and indptr.dtype == indices.dtype
        axes = 1 if kind is CSR else 3
        if index and jnp.issubdtype(values.dtype, jnp.floating) and values.ndim == axes:
            return kind(indptr, indices, values, shape)
    # Traced, or no matrix at all: what a transformation of JAX's puts in its place.
    indptr, indices, values = leaves
    return kind._wrap(Traced(indptr, indices, values, shape))


for _kind in (CSR, BSR):
    jax.tree_util.register_pytree_node(
        _kind, _flatten, lambda shape, leaves, kind=_kind: _unflatten(kind, shape, leaves)
    )
