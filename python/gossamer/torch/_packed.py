"""Products with packed matrices as operators: what PyTorch's dispatcher sees is the number of one.

A number stands for its matrix in this process, as long as that lives. The matrix's values have no
derivative; those by the dense operands, of any order, are products with the same matrix.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gossamer import products
from gossamer.formats import Packed
from gossamer.formats._packed import LIVING
from gossamer.torch._operator import Operator, autocasts, call, nobody_listens, register
from gossamer.torch._ops import core_activation, row_major


def packed_linear(
    x: Tensor, w: Packed, bias: Tensor | None, activation: tuple[str, float, float]
) -> Tensor:
    """Compute x·Wᵀ + bias, and the activation where no derivative is asked for."""
    x, bias = _autocast(x, w, bias)
    arguments = (x, w._key, *w.shape, bias, *activation)
    if nobody_listens(x) and not _tracked(x, bias):
        return _run_linear(*arguments)
    result: Tensor = call("packed_linear", *arguments)
    return result


def packed_spmm(a: Packed, b: Tensor, transpose_a: bool) -> Tensor:
    """Compute A·b, or Aᵀ·b."""
    b, _ = _autocast(b, a, None)
    result: Tensor = call("packed_spmm", a._key, *a.shape, b, transpose_a)
    return result


def _tracked(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _autocast(x: Tensor, w: Packed, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the operands in the matrix's type where autocast is on: it cannot be cast itself."""
    if not autocasts(x):
        return x, bias
    dtype = getattr(torch, w.dtype)
    return x.to(dtype), None if bias is None else bias.to(dtype)


def _matrix(op: str, key: int) -> Packed:
    matrix = LIVING.get(key)
    if matrix is None:
        raise ValueError(
            f"{op}: w is a Packed that this process does not have, expected one that lives: a "
            "program that is saved needs the matrix that was packed, or a SparseLinear"
        )
    return matrix


def _run_linear(
    x: Tensor,
    key: int,
    rows: int,
    cols: int,
    bias: Tensor | None,
    activation: str,
    lo: float,
    hi: float,
) -> Tensor:
    w = _matrix("linear", key)
    result: Tensor = products.linear(
        row_major(x), w, bias=bias, activation=core_activation(activation, lo, hi)
    )
    return result


def _run_linear_t(x: Tensor, key: int, rows: int, cols: int) -> Tensor:
    w = _matrix("linear", key)
    columns = x.reshape(math.prod(x.shape[:-1]), rows).t().contiguous()
    y: Tensor = products.spmm(w, columns, transpose_a=True)
    return y.t().contiguous().view(*x.shape[:-1], cols)


def _run_spmm(key: int, rows: int, cols: int, b: Tensor, transpose_a: bool) -> Tensor:
    a = _matrix("spmm", key)
    result: Tensor = products.spmm(a, row_major(b), transpose_a=transpose_a)
    return result


def _linear_setup(ctx: Any, inputs: Any, output: Any) -> None:
    _, *ctx.matrix, _, activation, _, _ = inputs
    if activation:
        raise NotImplementedError(
            "torch.ops.gossamer.packed_linear: activation is given, which has no derivative here: "
            "gossamer.torch.linear applies it afterwards"
        )
    ctx.kept = LIVING.get(ctx.matrix[0])


def _linear_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    dx = call("packed_linear_t", g, *ctx.matrix) if ctx.needs_input_grad[0] else None
    dbias = None
    if ctx.needs_input_grad[4]:
        dbias = g.sum(dim=tuple(range(g.dim() - 1))) if g.dim() > 1 else g
    return dx, None, None, None, dbias, None, None, None


def _linear_t_setup(ctx: Any, inputs: Any, output: Any) -> None:
    _, *ctx.matrix = inputs
    ctx.kept = LIVING.get(ctx.matrix[0])


def _linear_t_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return call("packed_linear", g, *ctx.matrix, None, "", 0.0, 0.0), None, None, None


def _spmm_setup(ctx: Any, inputs: Any, output: Any) -> None:
    *ctx.matrix, _, ctx.transposed = inputs
    ctx.kept = LIVING.get(ctx.matrix[0])


def _spmm_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return None, None, None, call("packed_spmm", *ctx.matrix, g, not ctx.transposed), None


def _spmm_shape(_key: int, rows: int, cols: int, b: Tensor, transpose_a: bool) -> Tensor:
    return b.new_empty((cols if transpose_a else rows, *b.shape[1:]))


_MATRIX = "int key, int rows, int cols"
for _name, _operator in {
    "packed_linear": Operator(
        f"(Tensor x, {_MATRIX}, Tensor? bias, str activation, float lo, float hi)",
        _run_linear,
        lambda x, _key, rows, *_: x.new_empty((*x.shape[:-1], rows)),
        *(_linear_setup, _linear_backward),
        by_rows=True,
    ),
    "packed_linear_t": Operator(
        f"(Tensor x, {_MATRIX})",
        _run_linear_t,
        lambda x, _key, _rows, cols: x.new_empty((*x.shape[:-1], cols)),
        *(_linear_t_setup, _linear_t_backward),
        by_rows=True,
    ),
    "packed_spmm": Operator(
        f"({_MATRIX}, Tensor b, bool transpose_a)",
        *(_run_spmm, _spmm_shape, _spmm_setup, _spmm_backward),
    ),
}.items():
    register(_name, _operator)
