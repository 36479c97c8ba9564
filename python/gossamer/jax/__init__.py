"""gossamer inside JAX: products under jit, grad and vmap; CSR and BSR as pytrees.

Nothing of gossamer imports this module; `import gossamer.jax` imports JAX. On CPUs only.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gossamer.formats import BSR, CSR
from gossamer.jax import _ops
from gossamer.products import Activation

__all__ = ["linear", "sddmm", "spmm"]

Array = Any


def linear(
    x: Array, w: CSR | BSR, *, bias: Array | None = None, activation: Activation | None = None
) -> Array:
    """Apply a layer with sparse weights: activation(x·Wᵀ + bias), under jit, grad and vmap.

    Parameters
    ----------
    x : array [..., K]
    w : CSR or BSR [M, K]
        Its arrays may be traced: `w.with_values(v)` for the derivative by v.
    bias : array [M], or None
    activation : as for `gossamer.linear`

    Returns
    -------
    array [..., M]

    Raises
    ------
    TypeError
        For element types that differ; where w is no CSR or BSR.
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
    shape, *parts = _ops.parts_of("linear", "w", w)
    x = jnp.asarray(x)
    if x.ndim == 0:
        raise ValueError("linear: x.ndim is 0, expected at least 1")
    _same_type("linear", "x", x, "w", parts[2])
    _extent("linear", f"x.shape[{x.ndim - 1}]", x.shape[-1], "w.shape[1]", shape[1])
    y = _ops.linear(shape, x, *parts)
    return _epilogue("linear", y, bias, activation)


def spmm(
    a: CSR | BSR,
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
    a : CSR or BSR [M, K]; [K, M] with `transpose_a`
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
        For element types that differ; where a is no CSR or BSR.
    ValueError
        For shapes.

    Examples
    --------
    >>> import jax, gossamer
    >>> a = gossamer.CSR.from_dense(2 * jax.numpy.eye(2))
    >>> jax.jit(spmm)(a, jax.numpy.array([3.0, 4.0]))
    Array([6., 8.], dtype=float32)
    """
    shape, *parts = _ops.parts_of("spmm", "a", a)
    b = jnp.asarray(b)
    if b.ndim not in (1, 2):
        raise ValueError(f"spmm: b.ndim is {b.ndim}, expected 1 or 2")
    _same_type("spmm", "b", b, "a", parts[2])
    axis = 0 if transpose_a else 1
    _extent("spmm", "b.shape[0]", b.shape[0], f"a.shape[{axis}]", shape[axis])
    y = _ops.spmm(shape, bool(transpose_a), *parts, b)
    return _epilogue("spmm", y, bias if bias is None or y.ndim == 1 else bias[:, None], activation)


def sddmm(a: Array, b: Array, pattern: CSR | BSR) -> Array:
    """Multiply two dense matrices at the entries of a pattern only, under jit, grad and vmap.

    out[p] = Σ_d a[i, d]·b[j, d] for each entry p = (i, j) of the pattern.

    Parameters
    ----------
    a : array [M, D]
    b : array [N, D]
    pattern : CSR or BSR [M, N]
        Its values are not read.

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
    a, b = jnp.asarray(a), jnp.asarray(b)
    for name, x, axis in (("a", a, 0), ("b", b, 1)):
        if x.ndim != 2:
            raise ValueError(f"sddmm: {name}.ndim is {x.ndim}, expected 2")
        _extent("sddmm", f"{name}.shape[0]", x.shape[0], f"pattern.shape[{axis}]", shape[axis])
    _same_type("sddmm", "b", b, "a", a)
    _extent("sddmm", "b.shape[1]", b.shape[1], "a.shape[1]", a.shape[1])
    return _ops.sddmm(shape, a, b, *parts)


def _same_type(op: str, name: str, x: Array, other: str, y: Array) -> None:
    if x.dtype != y.dtype:
        raise TypeError(f"{op}: {name}.dtype is {x.dtype}, expected {other}.dtype = {y.dtype}")


def _extent(op: str, name: str, got: int, other: str, expected: int) -> None:
    if got != expected:
        raise ValueError(f"{op}: {name} is {got}, expected {other} = {expected}")


def _epilogue(op: str, y: Array, bias: Array | None, activation: Any) -> Array:
    if bias is not None:
        y = y + bias
    if activation is None:
        return y
    if isinstance(activation, str) and activation in _ACTIVATIONS:
        return _ACTIVATIONS[activation](y)
    if isinstance(activation, tuple) and len(activation) == 3 and activation[0] == "clamp":
        return jnp.clip(y, activation[1], activation[2])
    raise ValueError(
        f"{op}: activation is {activation!r}, expected None, 'relu', 'relu6', 'gelu', 'silu' or "
        "('clamp', lo, hi)"
    )


_ACTIVATIONS = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "gelu": lambda y: jax.nn.gelu(y, approximate=False),
    "silu": jax.nn.silu,
}
