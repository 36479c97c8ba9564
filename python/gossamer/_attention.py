"""Sparse attention over block layouts."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple, SupportsFloat, SupportsIndex

from gossamer import _core
from gossamer._numbers import several
from gossamer.formats._layout import BlockLayout

__all__ = [
    "AttentionGradients",
    "attention",
    "attention_backward",
    "attention_decode",
    "attention_workspace",
    "block_pool",
    "block_topk",
    "merge_attention",
]

Array = Any
Window = SupportsIndex | tuple[SupportsIndex | None, SupportsIndex | None]
Outputs = tuple[Array, Array]
Options = tuple[Any, Any, Any, Any, Any, Any, Any, Any, Any, Any]


def attention(
    q: Array,
    k: Array,
    v: Array,
    layout: BlockLayout,
    *,
    causal: bool = False,
    window: Window | None = None,
    scale: SupportsFloat | None = None,
    softcap: SupportsFloat | None = None,
    bias: Array = None,
    sinks: Array = None,
    q_offset: SupportsIndex | None = None,
    cu_seqlens: Array = None,
    cu_seqlens_k: Array = None,
    out: Outputs = (None, None),
) -> tuple[Array, Array]:
    """Attend to the keys that a block layout keeps, without any S × S array.

    s_ij = scale·q_i·k_j, then softcap·tanh(s_ij/softcap), then + bias_ij; lse_i = ln(e^sink +
    Σ_j e^(s_ij)); o_i = Σ_j e^(s_ij - lse_i)·v_j. A query without keys gets o = 0 and lse = -∞.

    Parameters
    ----------
    q, k, v : arrays [B, S, Hq, D], [B, Sk, Hkv, D] and [B, Sk, Hkv, Dv], or packed [T, H, D]
        Of one type, float32, float16 or bfloat16; any strides but the last; D, Dv up to 256.
    layout : BlockLayout of ceil(S / bm) by ceil(Sk / bn) blocks
    causal : leave out keys behind the query; the last query stands at the last key
    window : int, (before, after) or None: keys so near are kept; None in the pair is no bound
    scale, softcap : numbers or None; a scale of None is 1/√D
    bias : array [B or 1, Hq or 1, S, Sk], float32 or q's type, or None
    sinks : array [Hq], float32, or None: a logit of each head that has no value
    q_offset : int or None: where query 0 stands among the keys; None is Sk - S
    cu_seqlens, cu_seqlens_k : arrays [B + 1], int32, or None
        Where the packed sequences begin; None for those of k is as for q.
    out : (o, lse), written in place

    Returns
    -------
    o : array [B, S, Hq, Dv] or [T, Hq, Dv] of q's type
    lse : array [B, Hq, S] or [Hq, T], float32, the natural logarithm

    Raises
    ------
    TypeError, ValueError
        For element types; for shapes, strides, devices and options out of range.

    Examples
    --------
    >>> import numpy as np
    >>> q = np.ones((1, 4, 1, 8), np.float32)
    >>> layout = BlockLayout.from_mask(np.eye(2, dtype=bool)[None], block=2)
    >>> attention(q, q, q, layout, causal=True)[0].shape
    (1, 4, 1, 8)
    """
    bounds = _bounds("attention", window)
    options = _options(
        (causal, bounds, q_offset), (scale, softcap, bias, sinks), (cu_seqlens, cu_seqlens_k)
    )
    native, outs = _native(layout, "attention"), several("attention", "out", out, 2)
    o, lse = _core.attention(q, k, v, native, *options, *outs)
    return o, lse


def attention_workspace(
    q: Array,
    k: Array,
    v: Array,
    layout: BlockLayout,
    *,
    cu_seqlens: Array = None,
    cu_seqlens_k: Array = None,
) -> int:
    """Say how many bytes `attention` allocates at most, beside its results.

    They hold keys and values of one head after another, or of a few, and a tile for each of as
    many threads as `get_num_threads` says; neither grows with S·S, nor with the number of heads.

    Parameters
    ----------
    q, k, v, layout, cu_seqlens, cu_seqlens_k
        As attention takes them; the numbers in q, k and v are not read.

    Returns
    -------
    int

    Raises
    ------
    TypeError, ValueError
        What attention raises for these.

    Examples
    --------
    >>> import numpy as np
    >>> q = np.empty((1, 4096, 8, 64), np.float32)
    >>> layout = BlockLayout.window_global(blocks=64, window=4, block=64)
    >>> attention_workspace(q, q, q, layout) < 4 * q.nbytes
    True
    """
    native = _native(layout, "attention_workspace")
    keys = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
    size: int = _core.attention_workspace(q, k, v, native, cu_seqlens, keys)
    return size


class AttentionGradients(NamedTuple):
    """What attention_backward returns."""

    dq: Array
    dk: Array
    dv: Array
    dbias: Array
    """None unless it was asked for."""
    dsinks: Array
    """None without sinks."""


def attention_backward(  # noqa: PLR0917
    do: Array,
    q: Array,
    k: Array,
    v: Array,
    o: Array,
    lse: Array,
    layout: BlockLayout,
    *,
    dlse: Array = None,
    with_dbias: bool = False,
    causal: bool = False,
    window: Window | None = None,
    scale: SupportsFloat | None = None,
    softcap: SupportsFloat | None = None,
    bias: Array = None,
    sinks: Array = None,
    q_offset: SupportsIndex | None = None,
    cu_seqlens: Array = None,
    cu_seqlens_k: Array = None,
    out: tuple[Array, Array, Array] = (None, None, None),
) -> AttentionGradients:
    """Compute the gradients of attention; the same bits for every number of threads.

    With p_ij = e^(s_ij - lse_i) and ds_ij = p_ij·(do_i·v_j - do_i·o_i + dlse_i): dq = scale·ds·k,
    dk = scale·dsᵀ·q, dv = pᵀ·do, dbias = ds, dsink = Σ_i e^(sink - lse_i)·(dlse_i - do_i·o_i).

    Parameters
    ----------
    do, o : arrays of the shape and type of attention's o, whose gradient do is
    q, k, v, layout : as attention took them
    lse, dlse : arrays of the shape of attention's lse, float32; the gradient may be None
    with_dbias : compute dbias, float32, for a bias that is not broadcast
    causal, window, scale, softcap, bias, sinks, q_offset, cu_seqlens, cu_seqlens_k
        As attention took them.
    out : (dq, dk, dv), written in place

    Returns
    -------
    AttentionGradients (dq, dk, dv, dbias, dsinks)

    Raises
    ------
    TypeError, ValueError
        For element types; for shapes, strides, devices and options out of range.

    Examples
    --------
    >>> import numpy as np
    >>> q = np.ones((1, 4, 1, 8), np.float32)
    >>> layout = BlockLayout.from_mask(np.eye(2, dtype=bool)[None], block=2)
    >>> o, lse = attention(q, q, q, layout)
    >>> float(attention_backward(q, q, q, q, o, lse, layout).dv.sum())
    32.0
    """
    bounds = _bounds("attention_backward", window)
    options = _options(
        (causal, bounds, q_offset), (scale, softcap, bias, sinks), (cu_seqlens, cu_seqlens_k)
    )
    native = _native(layout, "attention_backward")
    dq, dk, dv = several("attention_backward", "out", out, 3)
    slopes = _core.attention_backward(
        do, q, k, v, o, lse, native, *options, dlse, with_dbias, dq, dk, dv
    )
    return AttentionGradients(*slopes)


def attention_decode(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    indptr: Array,
    indices: Array,
    *,
    lengths: Array = None,
    causal: bool = False,
    scale: SupportsFloat | None = None,
    softcap: SupportsFloat | None = None,
    sinks: Array = None,
    out: Outputs = (None, None),
) -> tuple[Array, Array]:
    """Attend with few queries to the pages, or the single tokens, that lists name.

    The formula is that of attention; each page is read once for all heads of a group.

    Parameters
    ----------
    q : array [B, t, Hq, D], float32, float16 or bfloat16
    k_cache, v_cache : arrays [pages, page_size, Hkv, D] and [..., Dv] of q's type
        Any strides but the last axis'; with page_size 1, lists are of tokens.
    indptr, indices : arrays [B·Hl + 1] and [n], int32
        Sequence b and head h of keys have the pages indices[p], indptr[b·Hl + h] ≤ p; Hl is 1 or
        Hkv. Each list is in the order of its tokens. Pages behind them are not read and may be
        anything: a padded table [B, n] is arange(B + 1)·n and its numbers in a row.
    lengths : array [B] or [B, Hl], int32, or None: tokens of each list; None fills all pages
    causal : the last query sees all tokens, each before it one less; else all see all
    scale, softcap, sinks : as attention takes them
    out : (o, lse), written in place

    Returns
    -------
    o : array [B, t, Hq, Dv] of q's type
    lse : array [B, Hq, t], float32

    Raises
    ------
    TypeError, ValueError
        For element types; for shapes, lists, strides, devices and options out of range.

    Examples
    --------
    >>> import numpy as np
    >>> cache = np.ones((3, 4, 1, 8), np.float32)
    >>> lists = np.array([0, 2], np.int32), np.array([2, 0], np.int32)
    >>> lse = attention_decode(cache[:1, :1], cache, cache, *lists)[1]
    >>> bool(np.allclose(lse, 8**0.5 + np.log(8)))
    True
    """
    numbers = (causal, scale, softcap, sinks)
    outs = several("attention_decode", "out", out, 2)
    o, lse = _core.attention_decode(q, k_cache, v_cache, indptr, indices, lengths, *numbers, *outs)
    return o, lse


def merge_attention(
    parts: Sequence[tuple[Array, Array]], *, out: Outputs = (None, None)
) -> tuple[Array, Array]:
    """Combine attentions over sets of keys that have none in common into that over all of them.

    lse = ln Σ_s e^(lse_s), o = Σ_s e^(lse_s - lse)·o_s.

    Parameters
    ----------
    parts : pairs (o, lse) as attention returns them, all of one shape and type
    out : (o, lse), written in place

    Returns
    -------
    o, lse : arrays of the shapes and types of the parts

    Raises
    ------
    TypeError, ValueError
        For element types; for shapes, strides and devices.

    Examples
    --------
    >>> import numpy as np
    >>> o, lse = np.ones((1, 1, 1, 2), np.float32), np.zeros((1, 1, 1), np.float32)
    >>> merge_attention([(o, lse), (3 * o, lse)])[0]
    array([[[[2., 2.]]]], dtype=float32)
    """
    pairs = pairs_of(parts)
    outs = several("merge_attention", "out", out, 2)
    o, lse = _core.merge_attention([o for o, _ in pairs], [lse for _, lse in pairs], *outs)
    return o, lse


def pairs_of(parts: Any) -> list[tuple[Any, ...]]:
    """Read what merge_attention combines."""
    op = "merge_attention"
    if not isinstance(parts, (tuple, list)):
        kind = type(parts).__name__
        raise TypeError(f"{op}: parts is of type {kind}, expected a list of pairs (o, lse)")
    return [several(op, f"parts[{i}]", pair, 2) for i, pair in enumerate(parts)]


def check_pairs(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Raise for what a framework's own arithmetic would broadcast or convert."""
    op = "merge_attention"
    if not pairs:
        raise ValueError(f"{op}: parts is empty, expected pairs (o, lse)")
    for i, pair in enumerate(pairs):
        for name, x, first in zip(("o", "lse"), pair, pairs[0], strict=True):
            if x.shape != first.shape:
                raise ValueError(
                    f"{op}: parts[{i}] has {name} of shape {tuple(x.shape)}, expected "
                    f"{tuple(first.shape)}"
                )
            if x.dtype != first.dtype:
                raise TypeError(
                    f"{op}: parts[{i}] has {name} of type {x.dtype}, expected {first.dtype}"
                )
    o, lse = (tuple(x.shape) for x in pairs[0])
    if len(o) not in (3, 4):
        raise ValueError(f"{op}: parts[0] has o of shape {o}, expected 3 or 4 axes")
    heads_first = (*o[:-3], o[-2], o[-3])
    if lse != heads_first:
        raise ValueError(f"{op}: parts[0] has lse of shape {lse}, expected {heads_first}")


def block_pool(x: Array, block: SupportsIndex, *, mode: str = "mean", out: Array = None) -> Array:
    """Pool the rows of each block: what MoBA, NSA and Quest compare queries with.

    out[b, j, h, d] = mean, max or min of x[b, i, h, d] over j·block ≤ i < (j + 1)·block. It is NaN
    where one of them is.

    Parameters
    ----------
    x : array [B, S, H, D], float32, float16 or bfloat16
    block : int
    mode : "mean", "max" or "min"
    out : array [B, ceil(S / block), H, D], float32, written in place

    Returns
    -------
    array [B, ceil(S / block), H, D], float32

    Raises
    ------
    TypeError, ValueError
        For element types; for shapes, strides and options out of range.

    Examples
    --------
    >>> import numpy as np
    >>> block_pool(np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1), 2).ravel()
    array([0.5, 2.5], dtype=float32)
    """
    result: Array = _core.attention_block_pool(x, block, mode, out)
    return result


def block_topk(
    q: Array,
    pooled: Array,
    k: SupportsIndex,
    *,
    pooled_min: Array = None,
    rows: SupportsIndex = 1,
    block: SupportsIndex = 1,
    causal: bool = False,
    q_offset: SupportsIndex = 0,
    keep_first: SupportsIndex = 0,
    keep_local: SupportsIndex = 0,
    out: Array = None,
) -> Array:
    """Choose for each row of queries the k blocks of keys with the highest scores, in float32.

    The score of block j is Σ over the heads of a group of q·pooled_j (MoBA, NSA) or, with
    pooled_min, of Σ_d max(q_d·pooled_jd, q_d·pooled_min_jd) (Quest: pooled is the maximum).

    Parameters
    ----------
    q : array [B, Mb, Hq, D]: queries, or pooled ones
    pooled, pooled_min : arrays [B, Nb, Hkv, D], of block_pool; pooled_min may be None
    k : int
    rows, block : queries of a row of q and keys of a block, for what follows
    causal : leave out blocks that begin behind the row's last query
    q_offset : where query 0 stands among the keys
    keep_first, keep_local : so many first blocks, and last ones up to the row's own, come first
    out : array [B, Mb, Hkv, k], int32, written in place

    Returns
    -------
    array [B, Mb, Hkv, k], int32
        Sorted, -1 at the end where there are fewer; BlockLayout.from_topk takes it. Ties keep the
        smaller index, NaN comes last.

    Raises
    ------
    TypeError, ValueError
        For element types; for shapes, strides and options out of range.

    Examples
    --------
    >>> import numpy as np
    >>> pooled = np.array([3.0, 1.0, 2.0], np.float32).reshape(1, 3, 1, 1)
    >>> block_topk(np.ones((1, 1, 1, 1), np.float32), pooled, 2)
    array([[[[0, 2]]]], dtype=int32)
    """
    result: Array = _core.attention_block_topk(
        q, pooled, k, pooled_min, rows, block, causal, q_offset, keep_first, keep_local, out
    )
    return result


def _native(layout: Any, op: str) -> _core.Layout:
    if not isinstance(layout, BlockLayout):
        raise TypeError(f"{op}: layout is a {type(layout).__name__}, expected a BlockLayout")
    return layout._native


def _options(
    where: tuple[Any, tuple[Any, Any], Any],
    rule: tuple[Any, Any, Any, Any],
    starts: tuple[Any, Any],
) -> Options:
    """Return the options in the order of the native half."""
    causal, (before, after), q_offset = where
    cu_seqlens, cu_seqlens_k = starts
    if cu_seqlens_k is None:
        cu_seqlens_k = cu_seqlens
    return (causal, before, after, q_offset, *rule, cu_seqlens, cu_seqlens_k)


def _bounds(op: str, window: Any) -> tuple[Any, Any]:
    """Read how many keys before and after a query are kept."""
    if window is None:
        return None, None
    if isinstance(window, (tuple, list)) and len(window) == 2:
        return window[0], window[1]
    if isinstance(window, Integral):
        return window, window
    raise TypeError(f"{op}: window is {window!r}, expected an integer, (before, after) or None")
