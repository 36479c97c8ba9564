"""Sparse attention over block layouts."""

from __future__ import annotations

from numbers import Integral
from typing import Any, NamedTuple, SupportsFloat, SupportsIndex

from gossamer import _core
from gossamer.formats._layout import BlockLayout

__all__ = ["AttentionGradients", "attention", "attention_backward"]

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
    options = _options(
        (causal, window, q_offset), (scale, softcap, bias, sinks), (cu_seqlens, cu_seqlens_k)
    )
    o, lse = _core.attention(q, k, v, _native(layout, "attention"), *options, *out)
    return o, lse


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
    options = _options(
        (causal, window, q_offset), (scale, softcap, bias, sinks), (cu_seqlens, cu_seqlens_k)
    )
    native = _native(layout, "attention_backward")
    slopes = _core.attention_backward(do, q, k, v, o, lse, native, *options, dlse, with_dbias, *out)
    return AttentionGradients(*slopes)


def _native(layout: Any, op: str) -> _core.Layout:
    if not isinstance(layout, BlockLayout):
        raise TypeError(f"{op}: layout is a {type(layout).__name__}, expected a BlockLayout")
    return layout._native


def _options(
    where: tuple[Any, Any, Any], rule: tuple[Any, Any, Any, Any], starts: tuple[Any, Any]
) -> Options:
    """Return the options in the order of the native half."""
    causal, window, q_offset = where
    before, after = (None, None) if window is None else _bounds(window)
    cu_seqlens, cu_seqlens_k = starts
    if cu_seqlens_k is None:
        cu_seqlens_k = cu_seqlens
    return (causal, before, after, q_offset, *rule, cu_seqlens, cu_seqlens_k)


def _bounds(window: Any) -> tuple[Any, Any]:
    if isinstance(window, Integral):
        return window, window
    before, after = window
    return before, after
