"""Sparse attention with its derivative, of the first order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gossamer import _attention, _interop
from gossamer._numbers import flag, whole
from gossamer.formats._layout import BlockLayout
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

Window = _attention.Window


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: BlockLayout,
    *,
    causal: bool = False,
    window: Window | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    q_offset: int | None = None,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend to the keys that a block layout keeps, as `gossamer.attention`, differentiable once.

    The gradients of o and of lse reach q, k, v, bias and sinks.

    Parameters
    ----------
    q, k, v, layout, causal, window, scale, softcap, bias, sinks, q_offset, cu_seqlens, cu_seqlens_k
        As for `gossamer.attention`, of any strides.

    Returns
    -------
    o : tensor [B, S, Hq, Dv] or [T, Hq, Dv] of q's type
    lse : tensor [B, Hq, S] or [Hq, T], float32

    Raises
    ------
    TypeError, ValueError
        As `gossamer.attention`.

    Examples
    --------
    >>> import torch, gossamer
    >>> q = torch.randn(1, 64, 2, 16, requires_grad=True)
    >>> layout = gossamer.BlockLayout.from_mask(torch.ones(1, 4, 4, dtype=torch.bool), block=16)
    >>> o, _ = attention(q, q, q, layout, causal=True)
    >>> o.sum().backward()
    >>> q.grad.shape
    torch.Size([1, 64, 2, 16])
    """
    if not isinstance(layout, BlockLayout):
        raise TypeError(f"attention: layout is a {type(layout).__name__}, expected a BlockLayout")
    native: Any = layout._native
    parts = tuple(
        None if x is None else _interop.as_torch(x)
        for x in (native.indptr, native.indices, native.kinds, native.bits)
    )
    return attention_of(
        *(q, k, v, parts, [*native.shape, *native.block]),
        causal=causal,
        window=window,
        scale=scale,
        softcap=softcap,
        bias=bias,
        sinks=sinks,
        q_offset=q_offset,
        cu_seqlens=cu_seqlens,
        cu_seqlens_k=cu_seqlens_k,
    )


def attention_of(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    parts: tuple[Tensor | None, ...],
    sizes: list[int],
    *,
    causal: bool = False,
    window: Window | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    q_offset: int | None = None,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Apply `attention` to a layout that was taken apart: four arrays, and shape and block."""
    need_tensors("attention", q=q, k=k, v=v)
    op = "attention"
    before, after = (
        None if x is None else whole(op, f"window[{i}]", x)
        for i, x in enumerate(_attention._bounds(op, window))
    )
    offset = None if q_offset is None else whole(op, "q_offset", q_offset)
    rule = number(op, "scale", scale), number(op, "softcap", softcap)
    q, k, _ = autocast(q, k, None)
    v, _, _ = autocast(v, v, None)
    if isinstance(bias, Tensor) and bias.requires_grad and bias.dim() == 4 and q.dim() in (3, 4):
        bias = _full(bias, q, cu_seqlens)
    options = (flag(op, "causal", causal), before, after, offset, *rule)
    o, lse = call(
        "attention", q, k, v, *parts, sizes, *options, bias, sinks, cu_seqlens, cu_seqlens_k
    )
    return o, lse


def _full(bias: Tensor, q: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Return a bias for each sequence and head, so that PyTorch sums its gradient."""
    packed = cu_seqlens.shape[0] - 1 if isinstance(cu_seqlens, Tensor) else 1
    sides = (q.shape[0] if q.dim() == 4 else packed, q.shape[-2])
    fits = all(have in (1, side) for have, side in zip(bias.shape, sides, strict=False))
    return bias.expand(*sides, *bias.shape[2:]) if fits else bias  # else the core says why


def merge_attention(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Combine attentions over sets of keys that have none in common, as `gossamer.merge_attention`.

    lse = ln Σ_s e^(lse_s), o = Σ_s e^(lse_s - lse)·o_s, in PyTorch's own operations, with their
    derivatives: attention over keys that several processes hold is trained through it.

    Parameters
    ----------
    parts : pairs (o, lse) as `attention` returns them, all of one shape and type

    Returns
    -------
    o, lse : tensors of the shapes and types of the parts

    Raises
    ------
    ValueError
        For no parts, and for shapes that differ.

    Examples
    --------
    >>> import torch
    >>> o, lse = torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1)
    >>> merge_attention([(o, lse), (3 * o, lse)])[0]
    tensor([[[[2., 2.]]]])
    """
    pairs = _attention.pairs_of(parts)
    for i, pair in enumerate(pairs):
        for name, x in zip(("o", "lse"), pair, strict=True):
            if not isinstance(x, Tensor):
                raise TypeError(
                    f"merge_attention: parts[{i}] has a {type(x).__name__} for {name}, expected a "
                    "tensor"
                )
    _attention.check_pairs(pairs)
    norms = torch.stack([lse for _, lse in pairs])
    # A query without keys, whose lse is -∞ in all parts, has no gradient.
    empty = (norms == -torch.inf).all(0)
    reached = norms.masked_fill(empty, 0)
    lse = torch.logsumexp(reached, 0).masked_fill(empty, -torch.inf)
    # Not e^(norm - lse), since lse rounds; and what a part without keys has for o may be anything.
    shares = torch.softmax(reached, 0).masked_fill(empty, 0)
    shares, without = (x.transpose(-1, -2).unsqueeze(-1) for x in (shares, norms == -torch.inf))
    o = (shares * torch.stack([o for o, _ in pairs]).masked_fill(without, 0)).sum(0)
    return o.to(pairs[0][0].dtype), lse


def _layout(parts: tuple[Any, ...], sizes: list[int]) -> BlockLayout:
    indptr, indices, kinds, bits = parts
    shape, block = (sizes[0], sizes[1], sizes[2], sizes[3]), (sizes[4], sizes[5])

    def make(check: bool | None) -> BlockLayout:
        return BlockLayout(indptr, indices, shape, block, kinds=kinds, bits=bits, check=check)

    layout: BlockLayout = remembered([x for x in parts if x is not None], ("layout", *sizes), make)
    return layout


def _options(options: tuple[Any, ...]) -> dict[str, Any]:
    causal, before, after, q_offset, scale, softcap, bias, sinks, starts, starts_k = options
    return {
        "causal": causal,
        "window": None if before is None and after is None else (before, after),
        "q_offset": q_offset,
        "scale": scale,
        "softcap": softcap,
        "bias": None if bias is None else row_major(bias),
        "sinks": sinks,
        "cu_seqlens": starts,
        "cu_seqlens_k": starts_k,
    }


def _run(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    layout = _layout(rest[:4], rest[4])
    options = _options(rest[5:])
    q, k, v = map(row_major, (q, k, v))
    result: tuple[Tensor, Tensor] = _attention.attention(q, k, v, layout, **options)
    return result


def _shape(q: Tensor, _k: Tensor, v: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
    heads_first = (q.shape[0], q.shape[2], q.shape[1]) if q.dim() == 4 else (q.shape[1], q.shape[0])
    lse = q.new_empty(heads_first, dtype=torch.float32)
    return q.new_empty((*q.shape[:-1], v.shape[-1])), lse


_TENSORS = (0, 1, 2, 3, 4, 5, 6, 14, 15, 16, 17)  # among the arguments


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.numbers = inputs[7:14]
    ctx.save_for_backward(*(inputs[i] for i in _TENSORS), *output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, do: Tensor | None, dlse: Tensor | None) -> tuple[Any, ...]:
    *tensors, o, lse = ctx.saved_tensors
    if do is None:
        do = torch.zeros_like(o)
    needs_bias = ctx.needs_input_grad[14]
    q, k, v, *parts = tensors[:7]
    dq, dk, dv, dbias, dsinks = call(
        "attention_backward",
        *(do, dlse, o, lse, q, k, v, *parts, *ctx.numbers, *tensors[7:], needs_bias),
    )
    gradients: list[Any] = [None] * 18
    for place, gradient in ((0, dq), (1, dk), (2, dv), (14, dbias), (15, dsinks)):
        if ctx.needs_input_grad[place]:
            gradients[place] = gradient
    if gradients[14] is not None:
        gradients[14] = gradients[14].to(tensors[7].dtype)
    return tuple(gradients)


def _run_backward(
    do: Tensor, dlse: Tensor | None, o: Tensor, lse: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    q, k, v, *more = rest
    *options, with_dbias = more[5:]
    do, q, k, v, o, lse = map(row_major, (do, q, k, v, o, lse))
    made = _attention.attention_backward(
        *(do, q, k, v, o, lse, _layout(tuple(more[:4]), more[4])),
        dlse=None if dlse is None else row_major(dlse),
        with_dbias=with_dbias,
        **_options(tuple(options)),
    )
    nothing = lse.new_empty(0)
    return tuple(nothing.clone() if x is None else x for x in made)


def _shape_backward(
    _do: Tensor, _dlse: Tensor | None, _o: Tensor, lse: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    q, k, v, *more = rest
    bias, sinks = more[11], more[12]
    return (
        *(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)),
        lse.new_empty(bias.shape if more[-1] else 0),
        lse.new_empty(0 if sinks is None else sinks.shape),
    )


_once = refuses(
    "attention: a derivative of its gradient is asked for, expected one of the first order"
)
_OPTIONS = (
    "Tensor indptr, Tensor indices, Tensor? kinds, Tensor? bits, int[] sizes, bool causal, "
    "int? before, int? after, int? q_offset, float? scale, float? softcap, Tensor? bias, "
    "Tensor? sinks, Tensor? cu_seqlens, Tensor? cu_seqlens_k"
)
register(
    "attention",
    Operator(
        f"(Tensor q, Tensor k, Tensor v, {_OPTIONS})",
        *(_run, _shape, _setup, _backward),
        returns="(Tensor, Tensor)",
    ),
)
register(
    "attention_backward",
    Operator(
        "(Tensor do, Tensor? dlse, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, "
        f"{_OPTIONS}, bool with_dbias)",
        *(_run_backward, _shape_backward, saves_nothing, _once),
        returns="(Tensor, Tensor, Tensor, Tensor, Tensor)",
    ),
)
