"""What the compressed formats have in common."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from gossamer import _core, _interop

Format = TypeVar("Format", bound="Compressed")


class Compressed:
    """A checked matrix over index arrays and values that the caller keeps; CSR or BSR."""

    __slots__ = ("__weakref__", "_native")

    _native: Any
    #: The attribute that holds the values.
    _VALUES: ClassVar[str]

    def _make(
        self,
        kind: type[_core.Csr | _core.Bsr],
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
    def indptr(self) -> Any:
        """Where each row, or row of blocks, starts, and after the last one their number.

        Read-only, or a copy: structure is checked once.
        """
        return _interop.frozen(self._native.indptr)

    @property
    def indices(self) -> Any:
        """The column of each entry, or block; read-only, or a copy."""
        return _interop.frozen(self._native.indices)

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
        """The type of the values, by NumPy's name."""
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

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = (self.indptr, self.indices, getattr(self, self._VALUES))
        return rebuild, (type(self), arrays, self.shape, self.index_dtype)


def rebuild(
    kind: Any, arrays: tuple[Any, Any, Any], shape: tuple[int, int], index_dtype: str
) -> Any:
    """Make a pickled matrix again."""
    return kind(*arrays, shape, index_dtype=index_dtype)
