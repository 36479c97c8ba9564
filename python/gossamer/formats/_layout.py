"""The block layout: which blocks of an attention matrix are computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, SupportsIndex

from gossamer import _core, _interop
from gossamer._numbers import integer, is_one, refuse
from gossamer.formats import _file
from gossamer.formats._csr import CSR
from gossamer.formats._stored import Stored

Array = Any
Block = int | tuple[int, int]


class TracedLayout:
    """Stands for the native half of a layout inside a function that is traced."""

    __slots__ = ("bits", "block", "indices", "indptr", "kinds", "shape")

    def __init__(
        self,
        indptr: Array,
        indices: Array,
        shape: tuple[int, int, int, int],
        block: tuple[int, int],
        *,
        kinds: Array,
        bits: Array,
    ) -> None:
        self.indptr, self.indices, self.kinds, self.bits = indptr, indices, kinds, bits
        self.shape, self.block = shape, block

    @property
    def nblocks(self) -> int:
        """The number of blocks."""
        return int(self.indices.shape[0])

    @property
    def device(self) -> str:
        """Nowhere yet."""
        return "traced"

    def refuse(self, op: str, argument: str) -> None:
        """Raise the error of an operation that needs the arrays."""
        _interop.refuse_traced(op, argument, self.indices)


class BlockLayout(Stored):
    """The blocks of attention matrices that are computed, over index arrays that the caller keeps.

    Row r = (b·H + h)·Mb + i keeps block columns indices[p] for indptr[r] ≤ p < indptr[r + 1]:
    queries [i·bm, (i+1)·bm) of batch b and head h meet keys [indices[p]·bn, (indices[p]+1)·bn).

    Parameters
    ----------
    indptr : array [B·H·Mb + 1], int32 (int64 is copied)
    indices : array [nblocks], of indptr's type
        Columns of blocks, strictly increasing within a row.
    shape : (B, H, Mb, Nb)
        B is 1 where all of a batch share the layout; H is 1, the number of heads of keys, or that
        of queries.
    block : int or (bm, bn)
        Sides of at least 1.
    kinds : array [nblocks], uint8, or None
        0 and 1 keep the whole block (1 tells that causal or a window will mask a part of it, and
        changes no result), 2 keeps the elements whose bits are set.
    bits : array [n, bm, ceil(bn / 8)], uint8, or None
        Of the n blocks of kind 2, in their order; column c is bit c % 8 of byte c // 8, as
        `np.packbits(..., bitorder="little")` has it.
    check : bool or None
        False skips the pass over the arrays; wrong ones are then undefined behaviour.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shapes, layout, devices and corrupt structure.

    Examples
    --------
    >>> import numpy as np
    >>> a = BlockLayout(np.array([0, 1, 3]), np.array([0, 0, 1]), (1, 1, 2, 2), 64)
    >>> a
    BlockLayout(shape=(1, 1, 2, 2), block=(64, 64), nblocks=3, device=cpu)
    >>> a.density
    0.75
    """

    __slots__ = ("__weakref__", "_native")

    _ARRAYS = ("indptr", "indices", "kinds", "bits")
    _INDEX = _ARRAYS
    _FACTS: ClassVar[dict[str, _file.Form]] = {"shape": (int, int, int, int), "block": (int, int)}
    _SIDES = ("shape", "block")

    _native: _core.Layout

    def __init__(
        self,
        indptr: Array,
        indices: Array,
        shape: tuple[int, int, int, int],
        block: Block,
        *,
        kinds: Array = None,
        bits: Array = None,
        check: bool | None = None,
    ) -> None:
        op = "BlockLayout"
        if not isinstance(shape, (tuple, list)) or len(shape) != 4:
            raise TypeError(f"{op}: shape is {shape!r}, expected (B, H, Mb, Nb)")
        extents = [integer(op, f"shape[{i}]", extent) for i, extent in enumerate(shape)]
        self._native = _core.Layout(indptr, indices, kinds, bits, extents, _sides(op, block), check)

    @classmethod
    def _wrap(cls, native: _core.Layout) -> BlockLayout:
        self = cls.__new__(cls)
        self._native = native
        return self

    @classmethod
    def from_mask(cls, mask: Array, *, block: Block) -> BlockLayout:
        """Keep the blocks whose entry of a mask is nonzero.

        Parameters
        ----------
        mask : array [H, Mb, Nb] or [B, H, Mb, Nb], bool or uint8, any strides
        block : int or (bm, bn)

        Returns
        -------
        BlockLayout
            Over new arrays of mask's framework.

        Raises
        ------
        TypeError
            For element types.
        ValueError
            For shapes.

        Examples
        --------
        >>> import numpy as np
        >>> BlockLayout.from_mask(np.tri(4, dtype=bool)[None], block=64).nblocks
        10
        """
        return cls._wrap(_core.layout_from_mask(mask, _sides("BlockLayout.from_mask", block)))

    @classmethod
    def from_lists(
        cls,
        indices: Array,
        *,
        cols: SupportsIndex | None = None,
        block: Block,
        counts: Array = None,
    ) -> BlockLayout:
        """Keep the blocks that padded lists name, as FlexAttention's BlockMask holds them.

        Row (b, h, i) keeps indices[b, h, i, :counts[b, h, i]], in any order; what is repeated
        counts once and -1 stands for none.

        Parameters
        ----------
        indices : array [H, Mb, n] or [B, H, Mb, n], int32 or int64, any strides
        cols : int or None
            Nb, the columns of blocks; None for as many keys as queries, ⌈Mb·bm/bn⌉.
        block : int or (bm, bn)
        counts : array [H, Mb] or [B, H, Mb], int32 or int64, or None for n

        Returns
        -------
        BlockLayout
            Over new arrays of the framework of indices.

        Raises
        ------
        TypeError
            For element types.
        ValueError
            For shapes and for a column out of range.

        Examples
        --------
        >>> import numpy as np
        >>> lists = np.array([[[0, -1], [1, 0]]])
        >>> BlockLayout.from_lists(lists, cols=2, block=64).indices
        array([0, 0, 1], dtype=int32)
        """
        sides = _sides("BlockLayout.from_lists", block)
        if cols is None:
            cols = _as_many("BlockLayout.from_lists", indices, -2, sides)
        return cls._wrap(_core.layout_from_lists(indices, counts, cols, sides))

    @classmethod
    def from_topk(
        cls, indices: Array, *, cols: SupportsIndex | None = None, block: Block = 1
    ) -> BlockLayout:
        """Keep the blocks that each query, or block of queries, has chosen: MoBA, NSA, DSA.

        Parameters
        ----------
        indices : array [Mb, H, k] or [B, Mb, H, k], int32 or int64, any strides
            Columns of blocks, or of single keys with bn = 1, in any order; -1 stands for none.
        cols : int or None
            Nb, the columns of blocks; None for as many keys as queries, ⌈Mb·bm/bn⌉.
        block : int or (bm, bn)
            bm = 1 for lists of single queries, 1 for lists of single queries and keys.

        Returns
        -------
        BlockLayout
            Over new arrays of the framework of indices.

        Raises
        ------
        TypeError
            For element types.
        ValueError
            For shapes and for a column out of range.

        Examples
        --------
        >>> import numpy as np
        >>> BlockLayout.from_topk(np.array([[[0]], [[1]]]), cols=2, block=(1, 64)).nblocks
        2
        """
        sides = _sides("BlockLayout.from_topk", block)
        if cols is None:
            cols = _as_many("BlockLayout.from_topk", indices, -3, sides)
        return cls._wrap(_core.layout_from_topk(indices, cols, sides))

    @classmethod
    def from_csr(
        cls, pattern: CSR, *, block: Block, batch: SupportsIndex = 1, heads: SupportsIndex = 1
    ) -> BlockLayout:
        """Cover the entries of a pattern of single queries and keys with blocks, exactly.

        A block that has all its entries is of kind 0; others have bits.

        Parameters
        ----------
        pattern : CSR [B·H·S, keys]
            Its values are not read; it may have none.
        block : int or (bm, bn)
        batch, heads : int
            B and H.

        Returns
        -------
        BlockLayout
            Over new arrays of the pattern's framework.

        Raises
        ------
        TypeError
            For what is not a CSR.
        ValueError
            Where B·H does not divide the rows.

        Examples
        --------
        >>> import numpy as np
        >>> layout = BlockLayout.from_csr(CSR.from_dense(np.eye(4)), block=2)
        >>> layout.to_mask(elements=True)[0, 0].astype(int)
        array([[1, 0, 0, 0],
               [0, 1, 0, 0],
               [0, 0, 1, 0],
               [0, 0, 0, 1]])
        """
        op = "BlockLayout.from_csr"
        if not isinstance(pattern, CSR):
            raise TypeError(f"{op}: pattern is a {type(pattern).__name__}, expected a CSR")
        sides = _sides(op, block)
        return cls._wrap(_core.layout_from_csr(pattern._native, batch, heads, sides))

    @classmethod
    def local_stride(
        cls,
        *,
        heads: SupportsIndex,
        blocks: SupportsIndex,
        local: SupportsIndex,
        stride: SupportsIndex,
        block: Block,
        head_shift: SupportsIndex | None = None,
        dense_heads: SupportsIndex = 0,
        like: Array = None,
    ) -> BlockLayout:
        """Keep local blocks and strided columns, shifted from head to head: S2-Attention.

        Block (i, j) of head h is kept where j ≤ i and i - j < local, or (j + 1 + h·head_shift)
        mod stride = 0. With head_shift·heads ≥ stride, the heads together see every block (Lin et
        al., 2024; Phi-3-small).

        Parameters
        ----------
        heads : int
        blocks : int
            Rows and columns of blocks: ceil(S / block).
        local, stride : int, at least 1
            In blocks.
        block : int or (bm, bn)
        head_shift : int or None
            None is max(1, stride // heads); 0 gives all heads one pattern.
        dense_heads : int
            So many first heads keep all j ≤ i.
        like : array or None
            Whose framework's arrays the layout has, on its device; None for NumPy's.

        Returns
        -------
        BlockLayout
            Causal.

        Raises
        ------
        ValueError
            For numbers out of range.

        Examples
        --------
        >>> layout = BlockLayout.local_stride(heads=2, blocks=8, local=2, stride=4, block=64)
        >>> layout.to_mask()[0, :, 7].astype(int)
        array([[0, 0, 0, 1, 0, 0, 1, 1],
               [0, 1, 0, 0, 0, 1, 1, 1]])
        """
        op = "BlockLayout.local_stride"
        step, shift = integer(op, "stride", stride), head_shift
        if shift is None:
            shift = max(1, step // max(1, integer(op, "heads", heads)))
        native = _core.layout_local_stride(
            heads, blocks, local, step, shift, dense_heads, _sides(op, block), like
        )
        return cls._wrap(native)

    @classmethod
    def window_global(
        cls,
        *,
        heads: SupportsIndex = 1,
        blocks: SupportsIndex | tuple[int, int],
        window: SupportsIndex | tuple[int, int],
        block: Block,
        globals: SupportsIndex | Sequence[int] = 0,
        random: SupportsIndex = 0,
        seed: SupportsIndex = 0,
        causal: bool = False,
        like: Array = None,
    ) -> BlockLayout:
        """Keep a window, the rows and columns of global blocks and random ones: BigBird.

        Without random blocks, Longformer (Beltagy et al., 2020; Zaheer et al., 2020).

        Parameters
        ----------
        heads : int
            They differ in their random blocks only.
        blocks : int or (Mb, Nb)
        window : int or (before, after)
            Blocks before and behind that of the diagonal.
        block : int or (bm, bn)
        globals : int or ints
            How many first blocks are global, or which.
        random, seed : int
            Further blocks of each row; the same seed draws the same.
        causal : bool
            Keep only blocks j ≤ i.
        like : array or None
            Whose framework's arrays the layout has, on its device; None for NumPy's.

        Returns
        -------
        BlockLayout

        Raises
        ------
        ValueError
            For numbers out of range.
        NotImplementedError
            On a GPU, for more than 128 random blocks or 64 ranges of global ones.

        Examples
        --------
        >>> layout = BlockLayout.window_global(blocks=4, window=0, globals=1, block=64)
        >>> layout.to_mask()[0, 0].astype(int)
        array([[1, 1, 1, 1],
               [1, 1, 0, 0],
               [1, 0, 1, 0],
               [1, 0, 0, 1]])
        """
        op = "BlockLayout.window_global"
        extents = _two(op, "blocks", blocks)
        native = _core.layout_window_global(
            heads,
            extents,
            _two(op, "window", window),
            _first_or_listed(op, globals, max(extents)),
            random,
            _core.key(op, "seed", seed),
            causal,
            _sides(op, block),
            like,
        )
        return cls._wrap(native)

    @classmethod
    def vertical_slash(
        cls, columns: Array, slashes: Array, *, tokens: SupportsIndex, block: Block
    ) -> tuple[BlockLayout, BlockLayout]:
        """Keep chosen columns of keys and chosen diagonals: MInference's vertical-slash pattern.

        The first layout has the blocks with a pair at one of the distances q - k in slashes. The
        second has blocks of one column each: the chosen keys that no block of the first covers.
        They share nothing, so that `merge_attention` of the two attentions, both with causal=True,
        is the attention of the whole pattern (Jiang et al., 2024).

        Parameters
        ----------
        columns : array [H, n] or [B, H, n], int32 or int64
            Keys; -1 stands for none.
        slashes : array [H, m] or [B, H, m], int32 or int64
            Distances; -1 stands for none.
        tokens : int
            S, of queries and keys.
        block : int or (bm, bn)

        Returns
        -------
        blocks : BlockLayout, with `block`
        single : BlockLayout, with block (bm, 1)

        Raises
        ------
        TypeError
            For element types.
        ValueError
            For shapes and numbers out of range.

        Examples
        --------
        >>> import numpy as np
        >>> columns, slashes = np.array([[0]]), np.array([[0]])
        >>> a, b = BlockLayout.vertical_slash(columns, slashes, tokens=6, block=2)
        >>> a.nblocks, b.indptr
        (3, array([0, 0, 1, 2], dtype=int32))
        """
        sides = _sides("BlockLayout.vertical_slash", block)
        blocks, single = _core.layout_vertical_slash(columns, slashes, tokens, sides)
        return cls._wrap(blocks), cls._wrap(single)

    @property
    def indptr(self) -> Array:
        """Where each row of blocks starts, and after the last one their number.

        Read-only, or a copy: structure is checked once.
        """
        return _interop.frozen(self._native.indptr)

    @property
    def indices(self) -> Array:
        """The column of each block; read-only, or a copy."""
        return _interop.frozen(self._native.indices)

    @property
    def kinds(self) -> Array:
        """0 or 1 for a block that is kept whole, 2 for one with bits; None where there is no 2."""
        kinds = self._native.kinds
        return None if kinds is None else _interop.frozen(kinds)

    @property
    def bits(self) -> Array:
        """The elements that blocks of kind 2 keep, or None."""
        bits = self._native.bits
        return None if bits is None else _interop.frozen(bits)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Batch (or 1), heads, rows and columns of blocks."""
        shape: tuple[int, int, int, int] = self._native.shape
        return shape

    @property
    def block(self) -> tuple[int, int]:
        """Queries and keys of a block."""
        block: tuple[int, int] = self._native.block
        return block

    @property
    def nblocks(self) -> int:
        """The number of blocks that are kept."""
        nblocks: int = self._native.nblocks
        return nblocks

    @property
    def density(self) -> float:
        """The share of all blocks that is kept; 0 where there are none."""
        batch, heads, rows, cols = self.shape
        total = batch * heads * rows * cols
        return self.nblocks / total if total else 0.0

    @property
    def device(self) -> str:
        """Where the arrays are: "cpu" or "cuda:0"."""
        device: str = self._native.device
        return device

    def transpose(self) -> BlockLayout:
        """Return the layout of the transposed attention matrices.

        Returns
        -------
        BlockLayout
            With blocks (bn, bm), over new arrays.

        Examples
        --------
        >>> import numpy as np
        >>> layout = BlockLayout.from_mask(np.array([[[True, True], [False, True]]]), block=64)
        >>> layout.transpose().to_mask().astype(int)
        array([[[[1, 0],
                 [1, 1]]]])
        """
        return BlockLayout._wrap(_core.layout_transpose(self._native))

    def to_mask(self, *, elements: bool = False, out: Array = None) -> Array:
        """Write the layout out as a mask of its blocks, or of the elements in them.

        Parameters
        ----------
        elements : bool
        out : array of the result's shape, bool, or None

        Returns
        -------
        array [B, H, Mb, Nb], or [B, H, Mb·bm, Nb·bn] where `elements`, bool

        Raises
        ------
        TypeError
            For the element type of `out`.
        ValueError
            For its shape, device and layout.

        Examples
        --------
        >>> import numpy as np
        >>> BlockLayout.from_mask(np.eye(2, dtype=bool)[None], block=64).to_mask().astype(int)
        array([[[[1, 0],
                 [0, 1]]]])
        """
        return _core.layout_to_mask(self._native, elements, out)

    def __repr__(self) -> str:
        return (
            f"BlockLayout(shape={self.shape}, block={self.block}, nblocks={self.nblocks}, "
            f"device={self.device})"
        )


def _two(op: str, argument: str, value: Any) -> tuple[int, int]:
    """Read two integers, or one that stands for both."""
    if is_one(value):
        side = integer(op, argument, value)
        return side, side
    return _core.pair(op, argument, value)


def _first_or_listed(op: str, globals: Any, most: int) -> Any:
    """Return the first blocks as a list where their number is given."""
    if not is_one(globals):
        return globals
    count = integer(op, "globals", globals)
    if not 0 <= count <= most:
        refuse(op, "globals", count, f"0 to {most}")
    return list(range(count))


def _sides(op: str, block: Any) -> tuple[int, int]:
    """Read the sides of a block."""
    return _two(op, "block", block)


def _as_many(op: str, indices: Any, axis: int, sides: tuple[int, int]) -> int:
    """Return the columns of blocks that cover as many keys as there are queries."""
    shape = getattr(indices, "shape", ())
    if len(shape) < -axis:
        raise ValueError(f"{op}: indices.ndim is {len(shape)}, expected 3 or 4")
    return -(-int(shape[axis]) * sides[0] // max(sides[1], 1))
