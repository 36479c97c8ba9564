"""The packed form of sparse matrices."""

from __future__ import annotations

from gossamer import _core
from gossamer.formats._csr import CSR


class Packed:
    """A sparse matrix re-laid for this machine's fastest kernels; made by `pack`, immutable.

    `spmm` and `linear` take it wherever they take the matrix that it was made of.
    """

    __slots__ = ("__weakref__", "_native")

    _native: _core.Packed

    def __init__(self) -> None:
        raise TypeError("Packed is made by gossamer.pack")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._native.shape

    @property
    def ndim(self) -> int:
        """Always 2."""
        return 2

    @property
    def nnz(self) -> int:
        """The number of entries of the matrix that was packed."""
        return self._native.nnz

    @property
    def dtype(self) -> str:
        """The type of the values, by NumPy's name."""
        return self._native.dtype

    @property
    def device(self) -> str:
        """Where the memory is."""
        return self._native.device

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._native.nbytes

    @property
    def layouts(self) -> str:
        """The layouts built, for reports."""
        return self._native.layouts

    def __repr__(self) -> str:
        return (
            f"Packed(shape={self.shape}, nnz={self.nnz}, dtype={self.dtype}, "
            f"layouts={self.layouts}, nbytes={self.nbytes})"
        )


def pack(a: CSR, *, n: int | None = None) -> Packed:
    """Copy a matrix into the layouts of this machine's fastest kernels.

    Packing pays when the matrix meets many operands. Later changes of a's values are not seen.

    Parameters
    ----------
    a : CSR [M, K]
    n : int or None
        The number of dense columns (spmm) or activation rows (linear) to come, where it is known:
        only the layout that it needs is built. Every width still works.

    Returns
    -------
    Packed

    Raises
    ------
    TypeError
        Where `a` is not a CSR matrix.
    ValueError
        Where `n` is less than 1.

    Examples
    --------
    >>> import numpy as np
    >>> packed = pack(CSR.from_dense(np.eye(3, dtype=np.float32)))
    >>> packed.shape, packed.nnz
    ((3, 3), 3)
    """
    if not isinstance(a, CSR):
        raise TypeError(f"pack: a is a {type(a).__name__}, expected a CSR")
    packed = Packed.__new__(Packed)
    packed._native = _core.pack(a._native, n)
    return packed
