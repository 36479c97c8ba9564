"""The BSR format."""

from __future__ import annotations

from typing import Any

from gossamer import _core, _interop
from gossamer._numbers import is_one
from gossamer.formats._compressed import Compressed, New
from gossamer.formats._matrix import Array


class BSR(Compressed[Array]):
    """A sparse matrix of dense blocks over arrays that the caller keeps.

    A[i·br + r, indices[p]·bc + c] = blocks[p, r, c] for indptr[i] ≤ p < indptr[i + 1], and 0
    elsewhere. Values may change in place afterwards; indptr and indices must not.

    Parameters
    ----------
    indptr : array [M / br + 1], int32 or int64
    indices : array [nb], of indptr's type
        Columns of blocks, strictly increasing within a row of blocks.
    blocks : array [nb, br, bc], float32, float64, float16 or bfloat16
        Any sides of at least 1 that divide M and K.
    shape : (M, K)
    check : bool or None
        False skips the pass over indptr and indices; wrong ones are then undefined behaviour. None
        is True on the CPU and False on a GPU, where the pass copies both arrays and waits.
    index_dtype : "int32", "int64" or None
        None narrows a copy of int64 indices to int32 where M, K and nb fit.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shapes, layout, devices and corrupt structure.

    Examples
    --------
    >>> import numpy as np
    >>> a = BSR(np.array([0, 1]), np.array([1]), np.array([[[1.0, 2.0]]]), (1, 4))
    >>> a
    BSR(shape=(1, 4), block=(1, 2), nblocks=1, dtype=float64, index_dtype=int32, device=cpu)
    >>> a.to_dense()
    array([[0., 0., 1., 2.]])
    """

    __slots__ = ()

    _native: _core.Bsr
    _ARRAYS = ("indptr", "indices", "blocks")
    _SIDES = ("shape", "block")
    _VALUES = "blocks"
    _WRITE = staticmethod(_core.bsr_to_dense)

    def __init__(
        self,
        indptr: Any,
        indices: Any,
        blocks: Array,
        shape: tuple[int, int],
        *,
        check: bool | None = None,
        index_dtype: str | None = None,
    ) -> None:
        self._make(_core.Bsr, (indptr, indices, blocks), shape, check, index_dtype)

    @classmethod
    def from_dense(cls, w: New, block: int | tuple[int, int], mask: Any = None) -> BSR[New]:
        """Make a BSR matrix of the blocks of a dense one that hold an entry which is kept.

        Parameters
        ----------
        w : array [M, K], floating, rows may be strided
        block : (br, bc), or one number for both
            They must divide M and K.
        mask : array [M, K], bool or uint8, or None
            Nonzero where an entry is kept; the rest of a block is zero. None keeps all but ±0; NaN
            is kept.

        Returns
        -------
        BSR
            Over new arrays of w's framework.

        Raises
        ------
        TypeError
            For element types.
        ValueError
            For shapes and layout.

        Examples
        --------
        >>> import numpy as np
        >>> BSR.from_dense(np.eye(4), 2).indices
        array([0, 1], dtype=int32)
        """
        rows, cols = _sides("BSR.from_dense", block)
        made: Any = cls._wrap(_core.bsr_from_dense(w, rows, cols, mask))
        return made  # type: ignore[no-any-return]

    @classmethod
    def from_sparse(cls, obj: Any, *, block: int | tuple[int, int] | None = None) -> BSR[Any]:
        """Make a BSR matrix of another library's sparse matrix, sharing its values where it can.

        Duplicate blocks are summed and columns sorted, in a copy.

        Parameters
        ----------
        obj : scipy.sparse, torch or JAX; values float32, float64, float16 or bfloat16
        block : (br, bc), one number for both, or None
            None keeps the blocks of a matrix in BSR form; other forms need it.

        Returns
        -------
        BSR

        Raises
        ------
        TypeError
            For other objects and for element types.
        ValueError
            For batches of matrices, and for a block that is missing or does not divide the shape.

        Examples
        --------
        >>> import scipy.sparse
        >>> BSR.from_sparse(scipy.sparse.eye_array(4, format="csc"), block=2).nblocks
        2
        """
        sides = None if block is None else _sides("BSR.from_sparse", block)
        if isinstance(obj, BSR) and sides in (None, obj.block):
            return obj
        indptr, indices, blocks, shape = _interop.block_parts(obj, sides)
        return cls(indptr, indices, blocks, shape)

    @property
    def blocks(self) -> Array:
        """The values of each block [nb, br, bc]."""
        blocks: Array = self._native.blocks
        return blocks

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        return self._native.block

    @property
    def nblocks(self) -> int:
        """The number of blocks; `nnz` counts the values in them."""
        return self._native.nblocks

    def _height(self) -> int:
        return self.block[0]

    def _counts(self) -> str:
        return f"block={self.block}, nblocks={self.nblocks}"

    def with_values(self, blocks: New) -> BSR[New]:
        """Return a matrix of the same structure with other values.

        Parameters
        ----------
        blocks : array [nb, br, bc], float32, float64, float16 or bfloat16

        Returns
        -------
        BSR
            Sharing indptr and indices with this one.

        Raises
        ------
        TypeError
            For element types.
        ValueError
            For shape, layout and device.

        Examples
        --------
        >>> import numpy as np
        >>> a = BSR.from_dense(np.eye(2), (1, 2))
        >>> a.with_values(np.array([[[3.0, 0.0]], [[0.0, 4.0]]])).to_dense()
        array([[3., 0.],
               [0., 4.]])
        """
        return BSR._wrap(self._with_values(blocks))

    def transpose(self) -> tuple[BSR[Array], Array]:
        """Return the transpose and the permutation of the blocks that makes it.

        transposed.blocks[p] = blocks[permutation[p]]ᵀ.

        Returns
        -------
        transposed : BSR [K, M]
            Over new arrays of this matrix's framework.
        permutation : array [nb], of the index type

        Examples
        --------
        >>> import numpy as np
        >>> t, permutation = BSR.from_dense(np.array([[0.0, 1.0], [2.0, 3.0]]), 1).transpose()
        >>> t.blocks.ravel(), permutation
        (array([2., 1., 3.]), array([1, 0, 2], dtype=int32))
        """
        native, permutation = _core.bsr_transpose(self._native)
        return BSR._wrap(native), permutation

    @property
    def T(self) -> BSR[Array]:
        """The transpose alone, made anew at each access.

        Returns
        -------
        BSR [K, M]
            Over new arrays of this matrix's framework.

        Examples
        --------
        >>> import numpy as np
        >>> BSR.from_dense(np.array([[1.0, 2.0]]), 1).T.to_dense()
        array([[1.],
               [2.]])
        """
        return self.transpose()[0]

    def to_scipy(self) -> Any:
        """Return a scipy.sparse.bsr_array over the same memory.

        Its structure is read-only: what changes it in place (`eliminate_zeros`) needs a copy.

        Returns
        -------
        scipy.sparse.bsr_array

        Examples
        --------
        >>> import numpy as np
        >>> BSR.from_dense(np.eye(4), 2).to_scipy().blocksize
        (2, 2)
        """
        return _interop.scipy_bsr(
            self._native.indptr, self._native.indices, self.blocks, self.shape
        )

    def to_torch(self) -> Any:
        """Return a torch.sparse_bsr tensor over the same blocks, with its own structure.

        Returns
        -------
        torch.Tensor

        Examples
        --------
        >>> import torch
        >>> BSR.from_dense(torch.eye(4), 2).to_torch().layout
        torch.sparse_bsr
        """
        return _interop.torch_bsr(
            self._native.indptr, self._native.indices, self.blocks, self.shape
        )


def _sides(op: str, block: int | tuple[int, int]) -> tuple[int, int]:
    return _core.pair(op, "block", (block, block) if is_one(block) else block)
