"""The core's products with derivatives: the same names and signatures, on PyTorch's tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gossamer._interop import sparse_hint
from gossamer._numbers import flag, real
from gossamer.formats import BSR, CSR, NM, Packed
from gossamer.products import Activation
from gossamer.torch._operator import autocasts, call, nobody_listens
from gossamer.torch._ops import PLAIN, Parts, parts_of, recorded_linear, run_linear
from gossamer.torch._packed import packed_linear, packed_spmm


def linear(
    x: Tensor,
    w: CSR | BSR | NM | Packed,
    *,
    bias: Tensor | None = None,
    activation: Activation | None = None,
) -> Tensor:
    """Apply a layer with sparse weights: activation(x·Wᵀ + bias), differentiable.

    Derivatives of any order reach x, bias and w's values, the latter at the entries only. The
    values of a Packed have none.

    Parameters
    ----------
    x : tensor [..., K], of any strides
    w : CSR, BSR or NM [M, K], over tensors that may require grad, or Packed
    bias : tensor [M], or None
    activation : as for `gossamer.linear`

    Returns
    -------
    tensor [..., M]

    Raises
    ------
    TypeError
        For element types that differ or are not floating; where w is none of the formats.
    ValueError
        For shape and device.

    Examples
    --------
    >>> import torch, gossamer
    >>> values = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> w = gossamer.CSR.from_dense(torch.eye(2)).with_values(values)
    >>> linear(torch.tensor([[3.0, 4.0]]), w).sum().backward()
    >>> values.grad
    tensor([3., 4.])
    """
    if isinstance(w, Packed):
        need_tensors("linear", x=x)
        need_tensor_or_none("linear", "bias", bias)
        name, lo, hi = read_activation("linear", activation)
        if name and tracked(x, bias):
            return ACTIVATIONS[name](packed_linear(x, w, bias, ("", 0.0, 0.0)), lo, hi)
        return packed_linear(x, w, bias, (name, lo, hi))
    return linear_of(x, parts_of("linear", "w", w), bias, activation, 0)


def linear_of(
    x: Tensor, parts: Parts, bias: Tensor | None, activation: Activation | None, key: int
) -> Tensor:
    """Apply `linear` to a matrix that was taken apart.

    Packed at the place `key`; the plain matrix at -key; or at none, for 0.
    """
    if not isinstance(x, Tensor) or not _is_dense(x):
        need_tensors("linear", x=x)
    need_tensor_or_none("linear", "bias", bias)
    name, lo, hi = read_activation("linear", activation)
    values = parts.values
    if autocasts(x):
        x, values, bias = autocast(x, values, bias)
        parts, key = parts._replace(values=values), max(key, 0)  # values of this call only
    if tracked(x, values, bias):
        y = recorded_linear(x, parts, bias, *PLAIN[1:-1], key)
        return ACTIVATIONS[name](y, lo, hi) if name else y
    if nobody_listens(x, values):
        result: Tensor = run_linear(x, *parts, bias, name, lo, hi, key)
        return result
    result = call("linear", x, *parts, bias, name, lo, hi, key)
    return result


def spmm(
    a: CSR | BSR | NM | Packed,
    b: Tensor,
    *,
    transpose_a: bool = False,
    bias: Tensor | None = None,
    activation: Activation | None = None,
) -> Tensor:
    """Multiply a sparse matrix by a dense one: activation(A·b + bias), differentiable.

    Parameters
    ----------
    a : CSR, BSR or NM [M, K], over tensors that may require grad, or Packed
    b : tensor [K, N] or [K], of any strides
    transpose_a : bool
        Aᵀ for A, which is then [K, M].
    bias : tensor [M], or None
        One value for each row of the product.
    activation : as for `gossamer.spmm`

    Returns
    -------
    tensor [M, N] or [M]

    Raises
    ------
    TypeError
        For element types that differ or are not floating; where a is none of the formats.
    ValueError
        For shape and device.

    Examples
    --------
    >>> import torch, gossamer
    >>> b = torch.ones(2, 1, requires_grad=True)
    >>> spmm(gossamer.CSR.from_dense(torch.tensor([[1.0, 2.0]])), b).sum().backward()
    >>> b.grad
    tensor([[1.],
            [2.]])
    """
    need_tensors("spmm", b=b)
    transpose_a = flag("spmm", "transpose_a", transpose_a)
    name, lo, hi = read_activation("spmm", activation)
    if isinstance(a, Packed):
        result = packed_spmm(a, b, transpose_a)
    else:
        parts = parts_of("spmm", "a", a)
        b, values, bias = autocast(b, parts.values, bias)
        result = call("spmm", *parts._replace(values=values), b, transpose_a)
    if bias is not None:
        check_bias("spmm", bias, result, 0)
        result = result + (bias if result.dim() == 1 else bias[:, None])
    return ACTIVATIONS[name](result, lo, hi) if name else result


def sddmm(a: Tensor, b: Tensor, pattern: CSR | BSR) -> Tensor:
    """Multiply two dense matrices at the entries of a pattern only, differentiable.

    out[p] = Σ_d a[i, d]·b[j, d] for each entry p = (i, j) of the pattern.

    Parameters
    ----------
    a : tensor [M, D], of any strides
    b : tensor [N, D]
    pattern : CSR or BSR [M, N]
        Its values are not read.

    Returns
    -------
    tensor [nnz], or [nb, br, bc] for a BSR
        `pattern.with_values(out)` makes a matrix of it.

    Raises
    ------
    TypeError
        For element types that differ or are not floating; where pattern is no CSR or BSR.
    ValueError
        For shape and device.

    Examples
    --------
    >>> import torch, gossamer
    >>> a = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> pattern = gossamer.CSR.from_dense(torch.tensor([[0.0, 1.0]]))
    >>> sddmm(a, torch.tensor([[5.0, 6.0], [7.0, 8.0]]), pattern).sum().backward()
    >>> a.grad
    tensor([[7., 8.]])
    """
    need_tensors("sddmm", a=a, b=b)
    parts = parts_of("sddmm", "pattern", pattern)
    a, b, _ = autocast(a, b, None)
    result = call("sddmm", a, b, *parts)
    return result


def tracked(*tensors: Tensor | None) -> bool:
    """Say whether a derivative is recorded of what is computed with these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def autocast(x: Tensor, y: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the operands in the type of the autocast region that they are in, if any."""
    if not autocasts(x):
        return x, y, z
    dtype = torch.get_autocast_dtype(x.device.type)

    def cast(t: Tensor) -> Tensor:
        return t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t

    return cast(x), cast(y), None if z is None else cast(z)


def number(op: str, name: str, x: Any) -> float | None:
    """Return a number as PyTorch's dispatcher takes it, or None."""
    return None if x is None else real(op, name, x)


def need_tensors(op: str, **operands: Any) -> None:
    """Raise for operands that are no tensors."""
    for name, x in operands.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: {name} is a {type(x).__name__}, expected a tensor")
        _need_dense(op, name, x)


def _is_dense(x: Tensor) -> bool:
    """Say whether a tensor's numbers lie in memory one by one."""
    return x.layout is torch.strided and not (x.is_nested or x.is_quantized)


def _need_dense(op: str, name: str, x: Tensor) -> None:
    if _is_dense(x):
        return
    kind = "nested" if x.is_nested else "quantized" if x.is_quantized else x.layout
    raise ValueError(f"{op}: {name} is a {kind} tensor, expected a dense one{sparse_hint(x)}")


def need_tensor_or_none(op: str, name: str, x: Any) -> None:
    """Raise for an operand that is neither a tensor nor left out."""
    if x is not None and not isinstance(x, Tensor):
        raise TypeError(f"{op}: {name} is a {type(x).__name__}, expected a tensor or None")
    if x is not None:
        _need_dense(op, name, x)


def check_bias(op: str, bias: Any, y: Tensor, axis: int = -1) -> None:
    """Raise for a bias that PyTorch would broadcast or convert; outputs lie along an axis of y."""
    need_tensor_or_none(op, "bias", bias)
    outputs = (y.shape[axis],)
    if tuple(bias.shape) != outputs:
        raise ValueError(f"{op}: bias.shape is {tuple(bias.shape)}, expected {outputs}")
    if bias.dtype != y.dtype:
        raise TypeError(f"{op}: bias.dtype is {bias.dtype}, expected {y.dtype}")


def read_activation(op: str, activation: Any) -> tuple[str, float, float]:
    if activation is None:
        return "", 0.0, 0.0
    if isinstance(activation, str) and activation in ACTIVATIONS and activation != "clamp":
        return activation, 0.0, 0.0
    if isinstance(activation, tuple) and len(activation) == 3 and activation[0] == "clamp":
        lo, hi = (real(op, f"activation[{i}]", activation[i]) for i in (1, 2))
        if not lo <= hi:
            raise ValueError(f"{op}: activation is clamp from {lo} to {hi}, expected lo <= hi")
        return "clamp", lo, hi
    raise ValueError(
        f"{op}: activation is {activation!r}, expected None, 'relu', 'relu6', 'gelu', 'silu' or "
        "('clamp', lo, hi)"
    )


def bounded(y: Tensor) -> Tensor:
    """Replace ±∞ by the outermost numbers: there the formulas of GELU and SiLU are ∞·0 = NaN."""
    limits = torch.finfo(y.dtype)
    return y.clamp(limits.min, limits.max)


def _smooth(name: str, y: Tensor) -> Tensor:
    """Return GELU or SiLU with the limits at ±∞ that the core has, and those of the derivative."""
    if torch.compiler.is_compiling():  # which fuses it, and warns of a class with setup_context
        return torch.where(y == torch.inf, y, getattr(torch.nn.functional, name)(bounded(y)))
    curve: Tensor = _Smooth.apply(y, name)
    return curve


class _Smooth(torch.autograd.Function):  # type: ignore[misc]
    """The same, which saves its operand alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, name: str) -> Tensor:
        curve = getattr(torch.nn.functional, name)(bounded(y))
        return torch.where(y == torch.inf, y, curve)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        y, ctx.name = inputs
        ctx.save_for_backward(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        y = bounded(ctx.saved_tensors[0])
        if ctx.name == "gelu":
            return torch.ops.aten.gelu_backward(g, y), None
        if not torch.is_grad_enabled():
            return torch.ops.aten.silu_backward(g, y), None
        s = torch.sigmoid(y)
        return g * s * (1 + y * (1 - s)), None


#: What the epilogue's activations are to PyTorch, which saves what their derivatives need.
ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "relu": lambda y, _lo, _hi: torch.relu(y),
    "relu6": lambda y, _lo, _hi: torch.nn.functional.relu6(y),
    "gelu": lambda y, _lo, _hi: _smooth("gelu", y),
    "silu": lambda y, _lo, _hi: _smooth("silu", y),
    "clamp": torch.clamp,
}
