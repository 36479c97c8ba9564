"""What the compressed formats have in common."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from gossamer import _core, _interop
from gossamer.formats import _file
from gossamer.formats._matrix import Array, Matrix, TracedMatrix

#: That of a matrix which is made, where it is no other's.
New = TypeVar("New")
Format = TypeVar("Format", bound="Compressed")


class Traced(TracedMatrix):
    """Stands for the native half of a CSR or a BSR."""

    __slots__ = ("indices", "indptr", "shape")

    def __init__(self, indptr: Any, indices: Any, values: Any, shape: tuple[int, int]) -> None:
        self.indptr, self.indices, self.values, self.shape = indptr, indices, values, shape

    def with_values(self, values: Any) -> Traced:
        """Return one of the same structure."""
        return Traced(self.indptr, self.indices, values, self.shape)

    @property
    def blocks(self) -> Any:
        """The values of a BSR."""
        return self.values

    @property
    def block(self) -> tuple[int, int]:
        """The sides of a BSR's blocks."""
        rows, cols = self.values.shape[1:]
        return rows, cols

    @property
    def nblocks(self) -> int:
        """The number of a BSR's blocks."""
        return int(self.values.shape[0])

    @property
    def index_dtype(self) -> str:
        """The type of the index arrays."""
        return str(self.indices.dtype)


class Compressed(Matrix[Array]):
    """A checked matrix over index arrays and values that the caller keeps; CSR or BSR."""

    __slots__ = ("__weakref__", "_native")

    _native: Any
    _FACTS: ClassVar[dict[str, _file.Form]] = {"shape": (int, int), "index_dtype": str}

    def _make(
        self,
        kind: type[_core.Csr | _core.CsrPattern | _core.Bsr],
        arrays: tuple[Any, Any, Any],
        shape: tuple[int, int],
        check: bool | None,
        index_dtype: str | None,
    ) -> None:
        rows, cols = _core.pair(type(self).__name__, "shape", shape)
        self._native = kind(*arrays, rows, cols, check, index_dtype)

    @classmethod
    def _wrap(cls: type[Format], native: Any) -> Format:
        self = cls.__new__(cls)
        self._native = native
        return self

    @property
    def indptr(self) -> Array:
        """Where each row, or row of blocks, starts, and after the last one their number.

        Read-only, or a copy: structure is checked once.
        """
        indptr: Array = _interop.frozen(self._native.indptr)
        return indptr

    @property
    def indices(self) -> Array:
        """The column of each entry, or block; read-only, or a copy."""
        indices: Array = _interop.frozen(self._native.indices)
        return indices

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        shape: tuple[int, int] = self._native.shape
        return shape

    @property
    def ndim(self) -> int:
        """Always 2."""
        return 2

    @property
    def nnz(self) -> int:
        """The number of values, zeros that are stored included."""
        nnz: int = self._native.nnz
        return nnz

    @property
    def density(self) -> float:
        """The share of the M·K positions that have a value; 0 for an empty matrix."""
        rows, cols = self.shape
        return self.nnz / (rows * cols) if rows and cols else 0.0

    @property
    def dtype(self) -> str:
        """The type of the values, by NumPy's name; None where there are none."""
        dtype: str = self._native.dtype
        return dtype

    @property
    def index_dtype(self) -> str:
        """The type of indptr and indices, by NumPy's name."""
        dtype: str = self._native.index_dtype
        return dtype

    @property
    def device(self) -> str:
        """Where the arrays are: "cpu" or "cuda:0"."""
        device: str = self._native.device
        return device

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(shape={self.shape}, {self._counts()}, dtype={self.dtype}, "
            f"index_dtype={self.index_dtype}, device={self.device})"
        )

    def _counts(self) -> str:
        return f"nnz={self.nnz}"

    def __getitem__(self: Format, rows: slice) -> Format:
        """Return consecutive rows `a[i:j]`, over the same values and a copy of the row pointers."""
        name = type(self).__name__
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"{name}: index is {rows!r}, expected a slice of rows, a[i:j]")
        start, stop, _ = rows.indices(self.shape[0])
        stop = max(start, stop)
        height = self._height()
        for bound in (start, stop):
            if bound % height:
                raise ValueError(f"{name}: index is {bound}, expected a multiple of {height} rows")
        indptr = self._native.indptr[start // height : stop // height + 1]
        entries = slice(int(indptr[0]), int(indptr[-1]))
        arrays = (indptr - indptr[0], self._native.indices[entries], self._values()[entries])
        return self._remade(
            dict(zip(self._ARRAYS, arrays, strict=True)), shape=(stop - start, self.shape[1])
        )

    def row_indices(self) -> Array:
        """Return the row of each entry, or the row of blocks of each block.

        Returns
        -------
        array [nnz] or [nb], of the index type

        Examples
        --------
        >>> import gossamer, numpy as np
        >>> gossamer.CSR.from_dense(np.array([[1.0, 2.0], [0.0, 3.0]])).row_indices()
        array([0, 0, 1], dtype=int32)
        """
        rows: Array = _interop.row_indices(self._native.indptr, len(self._native.indices))
        return rows

    def _with_values(self, values: Any) -> Any:
        if isinstance(self._native, Traced) or not _interop.is_traced(values):
            return self._native.with_values(values)
        native = self._native
        return Traced(native.indptr, native.indices, values, native.shape)

    def _values(self) -> Any:
        return getattr(self._native, self._VALUES)

    def _height(self) -> int:
        """Return how many rows an entry spans."""
        return 1

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), "index_dtype": self.index_dtype}
