"""The packed form of sparse matrices."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

from gossamer import _core
from gossamer._numbers import integer
from gossamer.formats._csr import CSR

#: The matrices of this process by their numbers, which stand for them where only numbers pass.
LIVING: weakref.WeakValueDictionary[int, Packed] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)
#: Bytes of a value.
_ITEMS = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}


class Packed:
    """A sparse matrix re-laid for this machine's fastest kernels; made by `pack`.

    `spmm` and `linear` take it wherever they take the matrix that it was made of. Its structure
    stays; `update` changes its values. A copy, by `copy` or `pickle`, is packed anew where it is
    made, of the matrix that this one was made of; on a GPU there are no products with the
    transpose.
    """

    __slots__ = ("__weakref__", "_key", "_native")

    _native: _core.Packed | _core.PackedTiles
    _key: int

    #: So that the operators of NumPy's arrays leave `x @ a` to Python, which refuses it.
    __array_ufunc__ = None

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
        """Bytes that the layouts hold, of the transpose too once `transpose_a` has asked for it.

        Each layout takes less than 1.15 times the bytes of the CSR with int32 indices, beyond some
        hundred bytes. On a GPU: 2 for an entry and 1/8 for an element, or below a density of a
        quarter 3 for an entry, and about 15 for each tile of 16 by 64; packed for more than 64
        columns, of random matrices some 150 for each tile. Of float32: 4 for an entry, 1/8 for an
        element, and about 25 for each tile.
        """
        return self._native.nbytes

    @property
    def layouts(self) -> str:
        """The layouts built, for reports."""
        return self._native.layouts

    def __matmul__(self, b: Any) -> Any:
        """Return A·B, as `gossamer.spmm` does."""
        from gossamer.products import spmm

        return spmm(self, b)

    def update(self, values: Any) -> Packed:
        """Replace the values, in one pass that looks at nothing of the structure again.

        No product with this matrix may run meanwhile.

        Parameters
        ----------
        values : array [nnz] of this matrix's dtype, contiguous
            In the order of the matrix that was packed.

        Returns
        -------
        Packed
            This one.

        Raises
        ------
        TypeError
            For the element type.
        ValueError
            For shape, layout and device.

        Examples
        --------
        >>> import numpy as np
        >>> from gossamer import spmm
        >>> packed = pack(CSR.from_dense(np.eye(2)))
        >>> spmm(packed.update(np.array([3.0, 4.0])), np.ones(2))
        array([3., 4.])
        """
        _core.packed_update(self._native, values)
        return self

    def to_dense(self, *, out: Any = None) -> Any:
        """Write the matrix out in full, zeros where it has no entry.

        Parameters
        ----------
        out : array [M, K] of this matrix's dtype, rows may be strided, or None

        Returns
        -------
        array [M, K]
            `out`, or a new array: NumPy's on the CPU, on a GPU of the framework of the values.

        Raises
        ------
        TypeError
            For the element type of `out`.
        ValueError
            For its shape, device and layout.

        Examples
        --------
        >>> import numpy as np
        >>> pack(CSR.from_dense(np.eye(2))).to_dense()
        array([[1., 0.],
               [0., 1.]])
        """
        return _core.packed_to_dense(self._native, out)

    def __reduce__(self) -> tuple[Any, ...]:
        parts = _core.packed_parts(self._native)
        if isinstance(self._native, _core.PackedTiles):
            return _repack, (CSR(*parts, self.shape, check=False), self._native.n)
        return _rebuild, (parts, self.shape, self.dtype, self._native.n)

    def __repr__(self) -> str:
        return (
            f"Packed(shape={self.shape}, nnz={self.nnz}, dtype={self.dtype}, "
            f"n={self._native.n}, layouts={self.layouts} ({self._native.why}), "
            f"nbytes={self.nbytes})"
        )


def pack(a: CSR, *, n: int | None = None) -> Packed:
    """Copy a matrix into the layouts of this machine's fastest kernels.

    Among them is a dense one, for matrices of so few zeros that skipping them takes longer than
    multiplying by them. The density, the width, the element type and the machine decide; `repr`
    tells what, and why.

    On a GPU density and width decide (docs/formats.md); each layout serves all widths. From which
    on a dense product is predicted to be faster, `repr` tells. Float32 is multiplied as such, not
    as tf32.

    Packing pays when the matrix meets many operands. Later changes of a's values are not seen:
    `Packed.update` takes them.

    Parameters
    ----------
    a : CSR [M, K]
    n : int or None
        The number of dense columns (spmm) or activation rows (linear) to come, where it is known:
        the layout for it serves all widths. None builds one layout now, and one for other widths
        when a product first needs it.

    Returns
    -------
    Packed

    Raises
    ------
    TypeError
        Where `a` is not a CSR matrix.
    ValueError
        Where `n` is less than 1.
    NotImplementedError
        For float64 on a GPU.

    Examples
    --------
    >>> import numpy as np
    >>> packed = pack(CSR.from_dense(np.eye(3, dtype=np.float32)))
    >>> packed.shape, packed.nnz
    ((3, 3), 3)
    """
    if not isinstance(a, CSR):
        raise TypeError(f"pack: a is a {type(a).__name__}, expected a CSR")
    return _wrap(_core.pack(a._plain("pack: a."), n))


def _wrap(native: _core.Packed | _core.PackedTiles) -> Packed:
    packed = Packed.__new__(Packed)
    packed._native = native
    packed._key = next(_numbers)
    LIVING[packed._key] = packed
    return packed


def _repack(a: CSR, n: int | None) -> Packed:
    """Pack a copied or pickled matrix again, whose arrays are on a GPU."""
    return pack(a, n=n)


def _rebuild(
    parts: tuple[bytes, bytes, bytes], shape: tuple[int, int], dtype: str, n: int | None
) -> Packed:
    """Pack a pickled matrix again; what was stored is checked, as it may come from anywhere."""
    names = ("indptr", "indices", "values")
    if not (isinstance(parts, tuple) and len(parts) == 3):
        raise ValueError("pack: the pickled matrix has no parts (indptr, indices, values)")
    for name, part in zip(names, parts, strict=True):
        if not isinstance(part, bytes):
            kind = type(part).__name__
            raise TypeError(f"pack: {name} of the pickled matrix is a {kind}, expected bytes")
    rows, cols = _core.pair("pack", "shape of the pickled matrix", shape)
    sizes = _ITEMS.get(dtype) if isinstance(dtype, str) else None
    if sizes is None:
        raise TypeError(f"pack: dtype of the pickled matrix is {dtype!r}, expected a float's name")
    index = 8 if len(parts[0]) // 8 > rows else 4
    for name, part, item in zip(names, parts, (index, index, sizes), strict=True):
        if len(part) % item:
            raise ValueError(
                f"pack: {name} of the pickled matrix has {len(part)} bytes, "
                f"expected a multiple of {item}"
            )
    if n is not None:
        n = integer("pack", "n", n)
    return _wrap(_core.packed_from_bytes(*parts, rows, cols, dtype, n))
