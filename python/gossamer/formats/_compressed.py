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


class Structure:
    """Where a matrix has entries: format, shape and index arrays; equal where all of those are."""

    __slots__ = ("_arrays", "_facts")

    def __init__(self, facts: tuple[Any, ...], arrays: tuple[Any, ...]) -> None:
        self._facts, self._arrays = facts, arrays

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Structure):
            return NotImplemented
        return self._facts == other._facts and all(map(_interop.equal, self._arrays, other._arrays))

    def __hash__(self) -> int:
        return hash(self._facts)

    def __repr__(self) -> str:
        kind, shape, block, count = self._facts
        sides = "" if block is None else f", block={block}"
        return f"Structure({kind}, shape={shape}{sides}, entries={count})"


class Compressed(Matrix[Array]):
    """A checked matrix over index arrays and values that the caller keeps; CSR or BSR."""

    __slots__ = ("__weakref__", "_native")

    _native: Any
    #: The attribute that holds the values.
    _VALUES: ClassVar[str]
    #: NumPy's operators leave the matrix to its own.
    __array_ufunc__ = None

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

    def __matmul__(self, b: Array) -> Array:
        """Return A·B, as `gossamer.spmm` does."""
        from gossamer.products import spmm

        return spmm(self, b)  # type: ignore[arg-type]

    def __array__(self, *_args: Any, **_options: Any) -> Any:
        """Raise: a copy as large as the dense matrix is not made in silence."""
        kind = type(self).__name__
        raise TypeError(f"{kind}: a sparse matrix is no array, expected a call of its to_dense()")

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
        return self._remade(arrays, (stop - start, self.shape[1]))

    @property
    def structure(self) -> Structure:
        """Where the entries are: format, shape and index arrays, without the values.

        `a == b` compares it alone.

        Examples
        --------
        >>> import gossamer, numpy as np
        >>> a = gossamer.CSR.from_dense(np.eye(2))
        >>> a.structure == a.with_values(np.zeros(2)).structure
        True
        """
        native = self._native
        indptr, indices = native.indptr, native.indices
        count = int(indices.shape[0])
        facts = (type(self).__name__, self.shape, getattr(self, "block", None), count)
        return Structure(facts, (indptr, indices))

    def __eq__(self, other: object) -> bool:
        """Say whether another matrix has entries in the same places; values are not compared."""
        if not isinstance(other, Compressed):
            return NotImplemented
        return self is other or self.structure == other.structure

    def __hash__(self) -> int:
        return hash(self.structure)

    def to(self: Format, device: Any) -> Format:
        """Return the matrix with its arrays on a device.

        Parameters
        ----------
        device : "cpu", "cuda", "cuda:1", or the framework's own
            NumPy's arrays are on "cpu" only; CuPy's become NumPy's there.

        Returns
        -------
        CSR or BSR
            This one if it is there.

        Raises
        ------
        ValueError
            For a device that the framework does not have.

        Examples
        --------
        >>> import gossamer, numpy as np
        >>> a = gossamer.CSR.from_dense(np.eye(2))
        >>> a.to("cpu") is a
        True
        """
        native = self._native
        arrays = (native.indptr, native.indices, self._values())
        moved = tuple(_interop.moved(type(self).__name__, x, device) for x in arrays)
        if all(x is y for x, y in zip(arrays, moved, strict=True)):
            return self
        return self._remade(moved, self.shape)

    def copy(self: Format) -> Format:
        """Return a matrix with arrays of its own.

        Returns
        -------
        CSR or BSR

        Examples
        --------
        >>> import gossamer, numpy as np
        >>> a = gossamer.CSR.from_dense(np.eye(2))
        >>> b = a.copy()
        >>> b.values[:] = 3
        >>> a.values
        array([1., 1.])
        """
        arrays = (self._native.indptr, self._native.indices, self._values())
        return self._remade(tuple(map(_interop.copied, arrays)), self.shape)

    def astype(self: Format, dtype: Any) -> Format:
        """Return a matrix of the same structure with values of another type.

        Parameters
        ----------
        dtype : "float32", "float64", "float16" or "bfloat16", or the framework's own name of it

        Returns
        -------
        CSR or BSR
            Sharing the index arrays, and the values if they have that type.

        Raises
        ------
        TypeError
            For other types.

        Examples
        --------
        >>> import gossamer, numpy as np
        >>> gossamer.CSR.from_dense(np.eye(2)).astype("float32").dtype
        'float32'
        """
        values = _interop.astype(type(self).__name__, self._values(), dtype)
        return self._wrap(self._native.with_values(values))

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

    def same_structure(self, other: Compressed) -> bool:
        """Say whether another matrix has this one's format, shape and places of entries.

        Parameters
        ----------
        other : CSR or BSR

        Returns
        -------
        bool

        Examples
        --------
        >>> import gossamer, numpy as np
        >>> a = gossamer.CSR.from_dense(np.eye(2))
        >>> a.same_structure(a.with_values(np.zeros(2)))
        True
        """
        return type(other) is type(self) and self.structure == other.structure

    def save(self, path: Any) -> None:
        """Write the matrix to a file in the safetensors format.

        Its tensors are indptr, indices and values (of a BSR, blocks).

        Parameters
        ----------
        path : str or path

        Examples
        --------
        >>> import gossamer, numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     gossamer.CSR.from_dense(np.eye(2)).save(folder + "/a.safetensors")
        ...     gossamer.CSR.load(folder + "/a.safetensors").nnz
        2
        """
        arrays = {
            "indptr": self._native.indptr,
            "indices": self._native.indices,
            self._VALUES: self._values(),
        }
        _file.save(path, type(self).__name__, arrays, self.shape)

    @classmethod
    def load(cls: type[Format], path: Any, *, framework: str = "numpy") -> Format:
        """Read a matrix from a file that `save` wrote; its structure is checked.

        Parameters
        ----------
        path : str or path
        framework : "numpy", "torch" or "jax"
            Whose arrays it gets.

        Returns
        -------
        CSR or BSR

        Raises
        ------
        ValueError
            For a file that is not in the format, or holds something else or a corrupt structure.

        Examples
        --------
        >>> import gossamer, numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     gossamer.CSR.from_dense(np.eye(2)).save(folder + "/a.safetensors")
        ...     gossamer.CSR.load(folder + "/a.safetensors").values
        array([1., 1.])
        """
        names = ("indptr", "indices", cls._VALUES)
        arrays, shape = _file.load(path, cls.__name__, names, framework)
        made: Any = cls
        return made(*arrays, shape)  # type: ignore[no-any-return]

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

    def _remade(self: Format, arrays: tuple[Any, ...], shape: tuple[int, int]) -> Format:
        """Return a matrix of arrays that come of this one's, which were checked."""
        made: Any = type(self)
        return made(*arrays, shape, check=False, index_dtype=self.index_dtype)  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = (self.indptr, self.indices, getattr(self, self._VALUES))
        return rebuild, (type(self), arrays, self.shape, self.index_dtype)


def rebuild(
    kind: Any, arrays: tuple[Any, Any, Any], shape: tuple[int, int], index_dtype: str
) -> Any:
    """Make a pickled matrix again."""
    return kind(*arrays, shape, index_dtype=index_dtype)
