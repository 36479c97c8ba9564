"""Attention to a cache, and the choice of blocks, as operators of PyTorch's dispatcher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gossamer import _attention
from gossamer._numbers import flag, size, whole
from gossamer.torch._functions import autocast, need_tensor_or_none, need_tensors, number
from gossamer.torch._operator import Operator, call, refuses, register, saves_nothing
from gossamer.torch._ops import row_major


def attention_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    indptr: Tensor,
    indices: Tensor,
    *,
    lengths: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend with few queries to pages of a cache, as `gossamer.attention_decode`, when compiled.

    It has no derivative: in training, the keys are not a cache, and `attention` has one.

    Parameters
    ----------
    q, k_cache, v_cache, indptr, indices, lengths, causal, scale, softcap, sinks
        As for `gossamer.attention_decode`.

    Returns
    -------
    o : tensor [B, t, Hq, Dv] of q's type
    lse : tensor [B, Hq, t], float32

    Raises
    ------
    NotImplementedError
        Where a derivative is asked for.
    TypeError, ValueError
        As `gossamer.attention_decode`.

    Examples
    --------
    >>> import torch
    >>> cache = torch.ones(3, 4, 1, 8)
    >>> lists = torch.tensor([0, 2]).int(), torch.tensor([2, 0]).int()
    >>> lse = attention_decode(cache[:1, :1], cache, cache, *lists)[1]
    >>> lse.ravel()
    tensor([4.9079])
    """
    op = "attention_decode"
    need_tensors(op, q=q, k_cache=k_cache, v_cache=v_cache, indptr=indptr, indices=indices)
    q, k_cache, _ = autocast(q, k_cache, None)
    v_cache, _, _ = autocast(v_cache, v_cache, None)
    rule = flag(op, "causal", causal), number(op, "scale", scale), number(op, "softcap", softcap)
    o, lse = call(op, q, k_cache, v_cache, indptr, indices, lengths, *rule, sinks)
    return o, lse


def block_pool(x: Tensor, block: int, *, mode: str = "mean") -> Tensor:
    """Pool the rows of each block, as `gossamer.block_pool`, differentiable.

    out[b, j, h, d] = mean, max or min of x[b, i, h, d] over j·block ≤ i < (j + 1)·block.
    The gradient of a maximum or a minimum is shared by the rows that have it.

    Parameters
    ----------
    x : tensor [B, S, H, D], float32, float16 or bfloat16, of any strides
    block : int
    mode : "mean", "max" or "min"

    Returns
    -------
    tensor [B, ceil(S / block), H, D], float32

    Raises
    ------
    TypeError, ValueError
        As `gossamer.block_pool`.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([1.0, 2.0, 5.0]).reshape(1, 3, 1, 1).requires_grad_()
    >>> block_pool(x, 2).sum().backward()
    >>> x.grad.ravel()
    tensor([0.5000, 0.5000, 1.0000])
    """
    op = "block_pool"
    need_tensors(op, x=x)
    if x.dim() != 4:
        raise ValueError(f"{op}: x.ndim is {x.dim()}, expected 4")
    if not isinstance(mode, str) or mode not in ("mean", "max", "min"):
        raise ValueError(f"{op}: mode is {mode!r}, expected 'mean', 'max' or 'min'")
    result: Tensor = call(op, x, size(op, "block", block, 1), mode)
    return result


def block_topk(
    q: Tensor,
    pooled: Tensor,
    k: int,
    *,
    pooled_min: Tensor | None = None,
    rows: int = 1,
    block: int = 1,
    causal: bool = False,
    q_offset: int = 0,
    keep_first: int = 0,
    keep_local: int = 0,
) -> Tensor:
    """Choose k blocks of keys for each row of queries, as `gossamer.block_topk`, when compiled.

    To derivatives, what was chosen is a constant.

    Parameters
    ----------
    q, pooled, k, pooled_min, rows, block, causal, q_offset, keep_first, keep_local
        As for `gossamer.block_topk`, of any strides.

    Returns
    -------
    tensor [B, Mb, Hkv, k], int32
        Sorted, -1 at the end where there are fewer; `BlockLayout.from_topk` takes it outside of
        torch.compile.

    Raises
    ------
    TypeError, ValueError
        As `gossamer.block_topk`.

    Examples
    --------
    >>> import torch
    >>> pooled = torch.tensor([3.0, 1.0, 2.0]).reshape(1, 3, 1, 1)
    >>> block_topk(torch.ones(1, 1, 1, 1), pooled, 2)
    tensor([[[[0, 2]]]], dtype=torch.int32)
    """
    op = "block_topk"
    need_tensors(op, q=q, pooled=pooled)
    need_tensor_or_none(op, "pooled_min", pooled_min)
    for name, x in (("q", q), ("pooled", pooled)):
        if x.dim() != 4:
            raise ValueError(f"{op}: {name}.ndim is {x.dim()}, expected 4")
    count = size(op, "k", k, 0)
    places = whole(op, "rows", rows), whole(op, "block", block)
    least = None if pooled_min is None else pooled_min.detach()
    result: Tensor = call(
        *(op, q.detach(), pooled.detach(), count, least, *places, flag(op, "causal", causal)),
        whole(op, "q_offset", q_offset),
        *(whole(op, "keep_first", keep_first), whole(op, "keep_local", keep_local)),
    )
    return result


def _decode(
    q: Tensor, k: Tensor, v: Tensor, indptr: Tensor, indices: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    lengths, causal, scale, softcap, sinks = rest
    lists = indptr.contiguous(), indices.contiguous()
    result: tuple[Tensor, Tensor] = _attention.attention_decode(
        *(*map(row_major, (q, k, v)), *lists),
        lengths=None if lengths is None else lengths.contiguous(),
        causal=causal,
        scale=scale,
        softcap=softcap,
        sinks=sinks,
    )
    return result


def _decode_shape(q: Tensor, _k: Tensor, v: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = q.shape
    lse = q.new_empty((batch, heads, length), dtype=torch.float32)
    return q.new_empty((*q.shape[:-1], v.shape[-1])), lse


_no_derivative = refuses(
    "attention_decode: a derivative is asked for, expected none: gossamer.torch.attention has one; "
    "torch.no_grad() leaves it out"
)


def _constant(ctx: Any, _inputs: Any, output: Any) -> None:
    ctx.mark_non_differentiable(output)


def _topk(q: Tensor, pooled: Tensor, k: int, least: Tensor | None, *rest: Any) -> Tensor:
    rows, block, causal, q_offset, keep_first, keep_local = rest
    result: Tensor = _attention.block_topk(
        *(row_major(q), row_major(pooled), k),
        pooled_min=None if least is None else row_major(least),
        rows=rows,
        block=block,
        causal=causal,
        q_offset=q_offset,
        keep_first=keep_first,
        keep_local=keep_local,
    )
    return result


def _topk_shape(q: Tensor, pooled: Tensor, k: int, *_rest: Any) -> Tensor:
    return q.new_empty((*q.shape[:2], pooled.shape[2], k), dtype=torch.int32)


def _pool(x: Tensor, block: int, mode: str) -> Tensor:
    result: Tensor = _attention.block_pool(row_major(x), block, mode=mode)
    return result


def _pool_shape(x: Tensor, block: int, _mode: str) -> Tensor:
    blocks = -(-x.shape[1] // block)
    return x.new_empty((x.shape[0], blocks, *x.shape[2:]), dtype=torch.float32)


def _pool_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, ctx.block, ctx.mode = inputs
    ctx.save_for_backward(x, output)


def _pool_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, pooled = ctx.saved_tensors
    length, blocks = x.shape[1], pooled.shape[1]
    block = min(ctx.block, max(length, 1))

    def each_row(y: Tensor) -> Tensor:
        return y.repeat_interleave(block, dim=1)[:, :length]

    def each_block(y: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(y, (0, 0, 0, 0, 0, blocks * block - length))
        return padded.unflatten(1, (blocks, block)).sum(2)

    if ctx.mode == "mean":
        has = torch.ones_like(x, dtype=torch.bool)
    else:
        # Where a block has NaN, its result is NaN, and comes from the rows with NaN.
        has = (x.detach() == each_row(pooled.detach())) | x.detach().isnan()
    shares = g / each_block(has.float()).clamp(min=1)
    return torch.where(has, each_row(shares), 0).to(x.dtype), None, None


register(
    "attention_decode",
    Operator(
        "(Tensor q, Tensor k_cache, Tensor v_cache, Tensor indptr, Tensor indices, "
        "Tensor? lengths, bool causal, float? scale, float? softcap, Tensor? sinks)",
        *(_decode, _decode_shape, saves_nothing, _no_derivative),
        returns="(Tensor, Tensor)",
    ),
)
register(
    "block_pool",
    Operator("(Tensor x, int block, str mode)", _pool, _pool_shape, _pool_setup, _pool_backward),
)
register(
    "block_topk",
    Operator(
        "(Tensor q, Tensor pooled, int k, Tensor? pooled_min, int rows, int block, bool causal, "
        "int q_offset, int keep_first, int keep_local)",
        *(_topk, _topk_shape, _constant, refuses("block_topk: a derivative is asked for")),
    ),
)
