"""Softmax and attention over the entries of a CSR pattern, with derivatives of the first order."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from gossamer import _csr_attention, _interop
from gossamer._numbers import real
from gossamer.formats import CSR
from gossamer.torch._functions import autocast, need_tensors, number
from gossamer.torch._operator import (
    Operator,
    call,
    refuses,
    register,
    remembered,
    saves_nothing,
)
from gossamer.torch._ops import row_major


def csr_softmax(a: CSR) -> CSR:
    """Apply softmax to the stored entries of each row, as `gossamer.csr_softmax`, differentiable.

    P[i, j] = e^(A[i, j]) / Σ_j' e^(A[i, j']) over the entries of row i.

    Parameters
    ----------
    a : CSR [M, N], with values [nnz] or [..., nnz] that may require grad

    Returns
    -------
    CSR [M, N]
        Sharing indptr and indices with `a`; its values belong to the graph of gradients.

    Raises
    ------
    TypeError, ValueError
        As `gossamer.csr_softmax`.

    Examples
    --------
    >>> import torch, gossamer
    >>> a = gossamer.CSR.from_dense(torch.tensor([[1.0, 0.0, 1.0], [0.0, 5.0, 0.0]]))
    >>> csr_softmax(a).values
    tensor([0.5000, 0.5000, 1.0000])
    """
    indptr, indices = _structure("csr_softmax", "a", a)
    if a.values is None:
        raise ValueError("csr_softmax: a.values is None, expected an array of values")
    values = _interop.as_torch(a.values)
    return a.with_values(call("csr_softmax", indptr, indices, values, list(a.shape)))


def csr_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: CSR,
    *,
    score: Literal["dot", "gat"] = "dot",
    scale: float | None = None,
    slope: float = 0.2,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend over the entries of a CSR pattern, as `gossamer.csr_attention`, differentiable once.

    The gradients of o and of lse reach q, k, v and bias.

    Parameters
    ----------
    q, k, v, pattern, score, scale, slope, bias
        As for `gossamer.csr_attention`, of any strides.

    Returns
    -------
    o, lse : tensors
        As `gossamer.csr_attention` returns them.

    Raises
    ------
    TypeError, ValueError
        As `gossamer.csr_attention`.

    Examples
    --------
    >>> import torch, gossamer
    >>> x = torch.eye(2, requires_grad=True)
    >>> pattern = gossamer.CSR.from_mask(torch.ones(2, 2).triu() > 0)
    >>> csr_attention(x, x, x, pattern)[0].sum().backward()
    >>> x.grad.shape
    torch.Size([2, 2])
    """
    need_tensors("csr_attention", q=q, k=k, v=v)
    indptr, indices = _structure("csr_attention", "pattern", pattern)
    op = "csr_attention"
    if not isinstance(score, str) or score not in ("dot", "gat"):
        raise ValueError(f"{op}: score is {score!r}, expected 'dot' or 'gat'")
    rule = score, number(op, "scale", scale), real(op, "slope", slope)
    q, k, bias = autocast(q, k, bias)
    v, _, _ = autocast(v, v, None)
    o, lse = call(op, q, k, v, indptr, indices, list(pattern.shape), *rule, bias)
    return o, lse


def _structure(op: str, argument: str, a: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(a, CSR):
        raise TypeError(
            f"{op}: {argument} is a {type(a).__name__}, expected a CSR{_interop.sparse_hint(a)}"
        )
    native: Any = a._native
    return _interop.as_torch(native.indptr), _interop.as_torch(native.indices)


def _csr(indptr: Tensor, indices: Tensor, values: Tensor | None, sizes: list[int]) -> CSR:
    def make(check: bool | None) -> CSR:
        return CSR(indptr, indices, values, (sizes[0], sizes[1]), check=check)

    made: CSR = remembered([indptr, indices], ("pattern", *sizes), make)
    return made


_once = refuses(
    "gossamer.torch: a derivative of a gradient is asked for, expected one of the first order"
)


# Softmax.


def _softmax(indptr: Tensor, indices: Tensor, values: Tensor, sizes: list[int]) -> Tensor:
    a = _csr(indptr, indices, values.contiguous(), sizes)
    result: Tensor = _csr_attention.csr_softmax(a).values
    return result


def _softmax_setup(ctx: Any, inputs: Any, output: Any) -> None:
    indptr, indices, _, ctx.sizes = inputs
    ctx.save_for_backward(indptr, indices, output)


def _softmax_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    indptr, indices, p = ctx.saved_tensors
    return None, None, call("csr_softmax_backward", indptr, indices, p, g, ctx.sizes), None


def _run_softmax_backward(
    indptr: Tensor, indices: Tensor, p: Tensor, g: Tensor, sizes: list[int]
) -> Tensor:
    made = _csr_attention.csr_softmax_backward(_csr(indptr, indices, p, sizes), g.contiguous())
    result: Tensor = made.values
    return result


# Attention.


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    indptr: Tensor,
    indices: Tensor,
    sizes: list[int],
    score: str,
    scale: float | None,
    slope: float,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    q, k, v = map(row_major, (q, k, v))
    result: tuple[Tensor, Tensor] = _csr_attention.csr_attention(
        *(q, k, v, _csr(indptr, indices, None, sizes)),
        score=score,  # type: ignore[arg-type]
        scale=scale,
        slope=slope,
        bias=None if bias is None else bias.contiguous(),
    )
    return result


def _shape(q: Tensor, _k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    heads = q if rest[3] == "gat" else q[..., 0]  # [B, M, H], [M, H] or [M]
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    lse = heads if heads.dim() == 1 else heads.transpose(-1, -2)
    return q.new_empty((*heads.shape, v.shape[-1])), q.new_empty(lse.shape, dtype=kind)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, v, indptr, indices, *ctx.numbers, bias = inputs
    ctx.save_for_backward(q, k, v, indptr, indices, bias, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, do: Tensor | None, dlse: Tensor | None) -> tuple[Any, ...]:
    q, k, v, indptr, indices, bias, o, lse = ctx.saved_tensors
    do = torch.zeros_like(o) if do is None else do
    dq, dk, dv, dbias = call(
        *("csr_attention_backward", do, dlse, o, lse, q, k, v, indptr, indices),
        *(*ctx.numbers, bias),
    )
    return dq, dk, dv, *(None,) * 6, None if bias is None else dbias


def _run_backward(
    do: Tensor, dlse: Tensor | None, o: Tensor, lse: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    q, k, v, indptr, indices, sizes, score, scale, slope, bias = rest
    operands = map(row_major, (do, q, k, v, o, lse))
    made = _csr_attention.csr_attention_backward(
        *(*operands, _csr(indptr, indices, None, sizes)),
        score=score,
        scale=scale,
        slope=slope,
        bias=None if bias is None else bias.contiguous(),
        dlse=None if dlse is None else row_major(dlse),
    )
    return made if bias is not None else (*made, lse.new_empty(0))


def _shape_backward(
    _do: Tensor, _dlse: Tensor | None, _o: Tensor, lse: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    q, k, v, *_, bias = rest
    return (
        *(x.new_empty(x.shape) for x in (q, k, v)),
        lse.new_empty(0) if bias is None else bias.new_empty(bias.shape),
    )


_PATTERN = "Tensor indptr, Tensor indices"
_OPERANDS = (
    f"Tensor q, Tensor k, Tensor v, {_PATTERN}, int[] sizes, str score, float? scale, "
    "float slope, Tensor? bias"
)
for _name, _operator in {
    "csr_softmax": Operator(
        f"({_PATTERN}, Tensor values, int[] sizes)",
        *(_softmax, lambda _p, _i, values, _s: values.new_empty(values.shape)),
        *(_softmax_setup, _softmax_backward),
    ),
    "csr_softmax_backward": Operator(
        f"({_PATTERN}, Tensor p, Tensor g, int[] sizes)",
        *(_run_softmax_backward, lambda _p, _i, p, _g, _s: p.new_empty(p.shape)),
        *(saves_nothing, _once),
    ),
    "csr_attention": Operator(
        f"({_OPERANDS})",
        *(_run, _shape, _setup, _backward),
        returns="(Tensor, Tensor)",
    ),
    "csr_attention_backward": Operator(
        f"(Tensor do, Tensor? dlse, Tensor o, Tensor lse, {_OPERANDS})",
        *(_run_backward, _shape_backward, saves_nothing, _once),
        returns="(Tensor, Tensor, Tensor, Tensor)",
    ),
}.items():
    register(_name, _operator)
