"""Multi-head attention over a block layout, as a module."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from gossamer import _interop
from gossamer._numbers import integer
from gossamer.formats._layout import BlockLayout
from gossamer.torch._attention import Window, attention_of

Builder = Callable[[int, int], BlockLayout]
_BUFFERS = ("indptr", "indices", "kinds", "bits")


class SparseAttention(nn.Module):  # type: ignore[misc]
    """Multi-head attention to the keys that a block layout keeps; like `nn.MultiheadAttention`.

    out = concat over heads h of attention(x_q·W_qᵀ, x_k·W_kᵀ, x_v·W_vᵀ)_h, times W_oᵀ, each with
    its bias. Nothing of the size S × S is made. Batches come first, as with `batch_first=True`.

    Parameters
    ----------
    embed_dim : int
    num_heads : int
        Of queries; a divisor of embed_dim.
    layout : BlockLayout, or a function of the numbers of queries and keys that returns one
        A BlockLayout fits the lengths that it was made for; its arrays are buffers of the module
        and part of its state. What a function returns is kept for the pairs of lengths used last.
    num_kv_heads : int or None
        Heads of keys and values, a divisor of num_heads (GQA); None is num_heads.
    kdim, vdim : int or None
        Features of keys and of values; None is embed_dim.
    causal, window, scale, softcap : as for `gossamer.attention`
    bias : bool
        Whether the projections have one.
    device, dtype : as for `torch.nn.Linear`

    Raises
    ------
    TypeError
        For a layout that is neither.
    ValueError
        For numbers of heads that do not divide.

    Examples
    --------
    >>> import torch, gossamer
    >>> def pattern(queries, keys):
    ...     blocks = -(-queries // 16), -(-keys // 16)
    ...     return gossamer.BlockLayout.window_global(blocks=blocks, window=1, globals=1, block=16)
    >>> layer = SparseAttention(64, 4, pattern, num_kv_heads=2, causal=True)
    >>> x = torch.ones(2, 100, 64)
    >>> layer(x)[0].shape
    torch.Size([2, 100, 64])
    """

    indptr: Tensor | None
    indices: Tensor | None
    kinds: Tensor | None
    bits: Tensor | None
    #: What `nn.TransformerEncoderLayer` asks of its attention.
    batch_first = True
    in_proj_bias = None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        layout: BlockLayout | Builder,
        *,
        num_kv_heads: int | None = None,
        kdim: int | None = None,
        vdim: int | None = None,
        causal: bool = False,
        window: Window | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        op = "SparseAttention"
        embed_dim = integer(op, "embed_dim", embed_dim)
        num_heads = integer(op, "num_heads", num_heads)
        kv_heads = num_heads if num_kv_heads is None else integer(op, "num_kv_heads", num_kv_heads)
        kdim = embed_dim if kdim is None else integer(op, "kdim", kdim)
        vdim = embed_dim if vdim is None else integer(op, "vdim", vdim)
        for name, size in (("embed_dim", embed_dim), ("kdim", kdim), ("vdim", vdim)):
            if size < 1:
                raise ValueError(f"{op}: {name} is {size}, expected at least 1")
        for name, whole, part, of in (
            ("num_heads", embed_dim, num_heads, "embed_dim"),
            ("num_kv_heads", num_heads, kv_heads, "num_heads"),
        ):
            if part < 1 or whole % part:
                raise ValueError(f"{op}: {name} is {part}, expected a divisor of {of} = {whole}")
        self.embed_dim, self.num_heads, self.num_kv_heads = embed_dim, num_heads, kv_heads
        self.head_dim = embed_dim // num_heads
        self.causal, self.window, self.scale, self.softcap = causal, window, scale, softcap
        made = {"bias": bias, "device": device, "dtype": dtype}
        inner = kv_heads * self.head_dim
        self.q_proj = nn.Linear(embed_dim, embed_dim, **made)
        self.k_proj = nn.Linear(kdim, inner, **made)
        self.v_proj = nn.Linear(vdim, inner, **made)
        self.out_proj = nn.Linear(embed_dim, embed_dim, **made)
        self._build: Builder | None = None
        self._sizes: list[int] = []
        parts: tuple[Any, ...] = (None,) * 4
        if isinstance(layout, BlockLayout):
            with torch.no_grad():
                parts, self._sizes = _parts_of(layout, device)
        elif callable(layout):
            self._build = layout
        else:
            raise TypeError(
                f"SparseAttention: layout is a {type(layout).__name__}, expected a BlockLayout or "
                "a function that returns one"
            )
        for name, part in zip(_BUFFERS, parts, strict=True):
            self.register_buffer(name, part)
        self._open()

    def _open(self) -> None:
        self._made: dict[tuple[str, str, str], tuple[Any, ...]] = {}
        self._key = 0 if self._build is None else _register(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}  # a copy builds anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._open()

    @property
    def in_proj_weight(self) -> Any:
        """No tensor: `nn.TransformerEncoder` then leaves its fused path, which would read one."""
        return _NotFused()

    @classmethod
    def from_dense(
        cls, attention: nn.MultiheadAttention, layout: BlockLayout | Builder, **options: Any
    ) -> SparseAttention:
        """Make a sparse attention of a dense one, with copies of its weights.

        Parameters
        ----------
        attention : torch.nn.MultiheadAttention
            Without bias_k, bias_v and add_zero_attn. Its dropout is left out.
        layout : as for SparseAttention
        options : causal, window, scale and softcap of SparseAttention

        Returns
        -------
        SparseAttention
            On the weights' device, of their type, in the module's mode.

        Raises
        ------
        TypeError
            Where attention is no torch.nn.MultiheadAttention.
        ValueError
            Where it appends keys.

        Examples
        --------
        >>> import torch, gossamer
        >>> layout = gossamer.BlockLayout.window_global(blocks=4, window=1, block=16)
        >>> dense = torch.nn.MultiheadAttention(32, 2, batch_first=True)
        >>> SparseAttention.from_dense(dense, layout)(torch.ones(1, 64, 32))[0].shape
        torch.Size([1, 64, 32])
        """
        op = "SparseAttention.from_dense"
        if not isinstance(attention, nn.MultiheadAttention):
            raise TypeError(
                f"{op}: attention is a {type(attention).__name__}, expected a "
                "torch.nn.MultiheadAttention"
            )
        if attention.bias_k is not None or attention.add_zero_attn:
            raise ValueError(f"{op}: attention has bias_k or add_zero_attn, expected neither")
        weight, bias = attention.out_proj.weight, attention.in_proj_bias
        made = cls(
            *(attention.embed_dim, attention.num_heads, layout),
            kdim=attention.kdim,
            vdim=attention.vdim,
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            **options,
        )
        weights = (
            attention.in_proj_weight.chunk(3)
            if attention._qkv_same_embed_dim
            else (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        )
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        with torch.no_grad():
            projections = (made.q_proj, made.k_proj, made.v_proj)
            for projection, w, b in zip(projections, weights, biases, strict=True):
                projection.weight.copy_(w)
                if b is not None:
                    projection.bias.copy_(b)
            made.out_proj.load_state_dict(attention.out_proj.state_dict())
        made.train(attention.training)
        return made

    def layout(self, queries: int, keys: int | None = None) -> BlockLayout:
        """Return the layout for so many queries and keys.

        Parameters
        ----------
        queries, keys : int
            None is as many keys as queries.

        Returns
        -------
        BlockLayout

        Examples
        --------
        >>> import gossamer
        >>> layout = gossamer.BlockLayout.window_global(blocks=4, window=1, block=16)
        >>> SparseAttention(32, 2, layout).layout(64).nblocks
        10
        """
        parts, sizes = self._layout(queries, queries if keys is None else keys)
        indptr, indices, kinds, bits = parts
        shape, block = (sizes[0], sizes[1], sizes[2], sizes[3]), (sizes[4], sizes[5])
        return BlockLayout(indptr, indices, shape, block, kinds=kinds, bits=bits)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        key_padding_mask: None = None,
        need_weights: bool = False,
        attn_mask: None = None,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Attend.

        Parameters
        ----------
        query : tensor [B, S, embed_dim] or [S, embed_dim]
        key, value : tensor [B, Sk, kdim], [B, Sk, vdim], or the same without B
            None are query, and key.
        key_padding_mask, attn_mask : None
            The layout says who sees whom.
        need_weights : bool
            False: there are no weights.
        is_causal : bool
            Causal in this call, too, where the module is not.

        Returns
        -------
        tensor [B, S, embed_dim] or [S, embed_dim], and None
            In the place of the weights of `nn.MultiheadAttention`.
        """
        masks = {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask}
        if is_causal:  # a hint that the mask, which there may be, is causal
            masks.pop("attn_mask")
        for name, mask in masks.items():
            if mask is not None:
                raise ValueError(
                    f"SparseAttention: {name} is given, expected None: the layout says who sees "
                    "whom, and `causal`"
                )
        if need_weights:
            raise ValueError("SparseAttention: need_weights is True, expected False")
        key = query if key is None else key
        value = key if value is None else value
        axes = query.dim()
        if axes not in (2, 3):
            raise ValueError(f"SparseAttention: query.ndim is {axes}, expected 2 or 3")
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.is_nested:
                raise TypeError(f"SparseAttention: {name} is nested, expected one length for all")
            if x.dim() != axes:
                raise ValueError(
                    f"SparseAttention: {name}.ndim is {x.dim()}, expected query.ndim = {axes}"
                )
        batched = axes == 3
        if not batched:
            query, key, value = query[None], key[None], value[None]
        q = self.q_proj(query).unflatten(-1, (self.num_heads, self.head_dim))
        k = self.k_proj(key).unflatten(-1, (self.num_kv_heads, self.head_dim))
        v = self.v_proj(value).unflatten(-1, (self.num_kv_heads, self.head_dim))
        parts, sizes = self._layout(query.shape[1], key.shape[1])
        o, _ = attention_of(
            *(q, k, v, parts, sizes),
            causal=self.causal or is_causal,
            window=self.window,
            scale=self.scale,
            softcap=self.softcap,
        )
        result = self.out_proj(o.flatten(2))
        return (result if batched else result[0]), None

    def extra_repr(self) -> str:
        """Return what is shown between the parentheses."""
        where = "built for each length" if self._build else f"{tuple(self._sizes)}"
        return (
            f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, "
            f"num_kv_heads={self.num_kv_heads}, causal={self.causal}, layout={where}"
        )

    def _layout(self, queries: int, keys: int) -> tuple[tuple[Tensor | None, ...], list[int]]:
        if self._build is None:
            return (self.indptr, self.indices, self.kinds, self.bits), self._sizes
        device = str(self.q_proj.weight.device)
        # As text: a compiler that keeps lengths open settles on them here.
        *parts, sizes = _built(self._key, f"{queries}", f"{keys}", device)
        return tuple(parts), list(sizes)

    def get_extra_state(self) -> Any:
        """Return the sizes of the layout, which go with its arrays."""
        return torch.tensor(self._sizes, dtype=torch.int64)

    def set_extra_state(self, state: Any) -> None:
        """Take the sizes of the layout that is loaded."""
        integers = isinstance(state, Tensor) and state.dtype == torch.int64
        if not integers or state.shape not in {(0,), (6,)}:  # none of a layout that is built
            raise ValueError(f"SparseAttention: _extra_state is {state!r}, expected 6 integers")
        self._sizes = state.tolist()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # The layout is what is loaded, not what the module had.
        if self._build is None:
            for name in _BUFFERS:
                theirs, ours = state_dict.get(prefix + name), getattr(self, name)
                if theirs is None and name in ("kinds", "bits"):
                    setattr(self, name, None)
                elif theirs is not None and (ours is None or ours.shape != theirs.shape):
                    device = self.q_proj.weight.device
                    setattr(self, name, torch.empty_like(theirs, device=device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _parts_of(layout: BlockLayout, device: Any) -> tuple[tuple[Tensor | None, ...], list[int]]:
    native: Any = layout._native
    parts = tuple(
        None if x is None else _interop.as_torch(x).to(device=device)
        for x in (native.indptr, native.indices, native.kinds, native.bits)
    )
    return parts, [*native.shape, *native.block]


class _NotFused:
    """Something that is no plain tensor to PyTorch."""

    @classmethod
    def __torch_function__(
        cls, func: Any, _types: Any, _args: Any = (), _kwargs: Any = None
    ) -> Any:
        raise TypeError(f"SparseAttention.in_proj_weight: {func} reads it, but there is none")


#: Modules whose layout is built, by the key that compiled code knows them by. Only they themselves
#: hold what they build with: it may be a method of what holds them.
_modules: weakref.WeakValueDictionary[int, SparseAttention] = weakref.WeakValueDictionary()
_last = 0
_LAYOUTS = 64  # that a module keeps; each step of decoding asks for another


def _register(module: SparseAttention) -> int:
    global _last  # noqa: PLW0603
    _last += 1
    _modules[_last] = module
    return _last


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _built(key: int, queries: str, keys: str, device: str) -> tuple[Any, ...]:
    """Return a module's layout for so many queries and keys: four arrays and its sizes."""
    module = _modules[key]
    build: Any = module._build
    where = (queries, keys, device)
    result = module._made.pop(where, None)
    if result is None:
        with _disable_current_modes(), torch.no_grad():  # whatever traces the caller
            layout = build(int(queries), int(keys))
            if not isinstance(layout, BlockLayout):
                raise TypeError(
                    f"SparseAttention: layout returned a {type(layout).__name__}, expected a "
                    "BlockLayout"
                )
            parts, sizes = _parts_of(layout, device)
        result = (*parts, tuple(sizes))
    module._made[where] = result
    while len(module._made) > _LAYOUTS:
        module._made.pop(next(iter(module._made)), None)
    return result
