"""The N:M format."""

from __future__ import annotations

from typing import Any, ClassVar

from gossamer import _core, _interop
from gossamer.formats import _file
from gossamer.formats._matrix import Matrix, TracedMatrix


class TracedNm(TracedMatrix):
    """Stands for the native half of an N:M matrix."""

    __slots__ = ("axis", "indices", "m", "n", "shape")

    def __init__(
        self, values: Any, indices: Any, shape: tuple[int, int], n: int, m: int, *, axis: int
    ) -> None:
        self.values, self.indices, self.shape = values, indices, shape
        self.n, self.m, self.axis = n, m, axis

    def with_values(self, values: Any) -> TracedNm:
        """Return one of the same structure."""
        return TracedNm(values, self.indices, self.shape, self.n, self.m, axis=self.axis)

    def transpose(self) -> TracedNm:
        """Return the transpose."""
        rows, cols = self.shape
        return TracedNm(
            *(self.values, self.indices, (cols, rows)), self.n, self.m, axis=1 - self.axis
        )


class NM(Matrix):
    """A matrix with n values in each group of m neighbours, over arrays that the caller keeps.

    A line is a row (axis 1) or a column (axis 0), L elements long. Value s of line l is its element
    s // n · m + position s. Positions increase within a group and take b bits each, the fewest that
    hold m - 1: in `indices[l]` one follows another from the lowest bit of the first byte on. 2:4
    takes 9/16 of the bytes of a dense matrix of 16 bits, 17/32 of one of float32. Values may change
    in place afterwards; indices must not.

    Parameters
    ----------
    values : array [lines, L / m · n], float32, float64, float16 or bfloat16
    indices : array [lines, ⌈L / m · n · b / 8⌉], uint8
    shape : (M, K)
        The side along `axis` is a multiple of m.
    n, m : int, 1 ≤ n ≤ m ≤ 32
    axis : 1 for groups along rows, 0 for groups along columns
    check : bool or None
        False skips the pass over indices; wrong ones are then undefined behaviour. None skips it
        for arrays on a GPU, from which True copies them and waits.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For n, m, axis, shapes, layout and corrupt positions.

    Examples
    --------
    >>> import numpy as np
    >>> a = NM(np.array([[5.0, 7.0]]), np.array([[0b1001]], np.uint8), (1, 4), 2, 4)
    >>> a
    NM(shape=(1, 4), n=2, m=4, axis=1, nnz=2, dtype=float64, device=cpu)
    >>> a.to_dense()
    array([[0., 5., 7., 0.]])
    """

    __slots__ = ("__weakref__", "_native")

    _ARRAYS = ("values", "indices")
    _INDEX = ("indices",)
    _FACTS: ClassVar[dict[str, _file.Form]] = {"shape": (int, int), "n": int, "m": int, "axis": int}
    _SIDES = ("shape", "n", "m", "axis")
    _WRITE = staticmethod(_core.nm_to_dense)

    _native: _core.Nm  # or, in a function that JAX traces, a TracedNm

    def __init__(
        self,
        values: Any,
        indices: Any,
        shape: tuple[int, int],
        n: int,
        m: int,
        *,
        axis: int = 1,
        check: bool | None = None,
    ) -> None:
        rows, cols = _core.pair("NM", "shape", shape)
        self._native = _core.Nm(values, indices, rows, cols, n, m, axis, check)

    def _entries(self) -> int:
        return self.nnz

    @classmethod
    def _wrap(cls, native: Any) -> NM:
        self = cls.__new__(cls)
        self._native = native
        return self

    @classmethod
    def from_dense(cls, w: Any, n: int, m: int, *, axis: int = 1, mask: Any = None) -> NM:
        """Make an N:M matrix of the elements of a dense one that are kept.

        Parameters
        ----------
        w : array [M, K], floating, rows may be strided
            The side along `axis` is a multiple of m: a matrix with a shorter last group must be
            padded with zeros.
        n, m : int, 1 ≤ n ≤ m ≤ 32
        axis : 1 for groups along rows, 0 for groups along columns
        mask : array [M, K], bool or uint8, or None
            Nonzero where an element is kept. None keeps all but ±0; NaN is kept.

        Returns
        -------
        NM
            Over new arrays of w's framework. A group with fewer elements stores zeros, too, at the
            first of the other positions.

        Raises
        ------
        TypeError
            For element types.
        ValueError
            For n, m, axis, shapes and layout; for a group with more than n elements to keep.

        Examples
        --------
        >>> import numpy as np
        >>> NM.from_dense(np.array([[0.0, 5.0, 7.0, 0.0]]), 2, 4).values
        array([[5., 7.]])
        """
        return cls._wrap(_core.nm_from_dense(w, n, m, axis, mask))

    @property
    def values(self) -> Any:
        """The values [lines, L / m · n], line by line."""
        return self._native.values

    @property
    def indices(self) -> Any:
        """The packed positions of the values; read-only, or a copy."""
        return _interop.frozen(self._native.indices)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._native.shape

    @property
    def ndim(self) -> int:
        """Always 2."""
        return 2

    @property
    def n(self) -> int:
        """Values of a group."""
        return self._native.n

    @property
    def m(self) -> int:
        """Elements of a group."""
        return self._native.m

    @property
    def axis(self) -> int:
        """1 for groups along rows, 0 for groups along columns."""
        return self._native.axis

    @property
    def nnz(self) -> int:
        """The number of values, zeros that are stored included."""
        return self._native.nnz

    @property
    def density(self) -> float:
        """The share of the M·K positions that have a value; 0 for an empty matrix."""
        return self.n / self.m if self.nnz else 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of values and indices: lines · (L / m · n · itemsize + ⌈L / m · n · b / 8⌉)."""
        return self._native.nbytes

    @property
    def dtype(self) -> str:
        """The type of the values, by NumPy's name."""
        return self._native.dtype

    @property
    def device(self) -> str:
        """Where the arrays are."""
        return self._native.device

    def __repr__(self) -> str:
        return (
            f"NM(shape={self.shape}, n={self.n}, m={self.m}, axis={self.axis}, nnz={self.nnz}, "
            f"dtype={self.dtype}, device={self.device})"
        )

    def with_values(self, values: Any) -> NM:
        """Return a matrix of the same structure with other values.

        Parameters
        ----------
        values : array [lines, L / m · n], float32, float64, float16 or bfloat16

        Returns
        -------
        NM
            Sharing indices with this one.

        Raises
        ------
        TypeError
            For element types.
        ValueError
            For shape, layout and device.

        Examples
        --------
        >>> import numpy as np
        >>> a = NM.from_dense(np.array([[0.0, 5.0]]), 1, 2)
        >>> a.with_values(np.array([[3.0]])).to_dense()
        array([[0., 3.]])
        """
        native: Any = self._native
        if _interop.is_traced(values) and not isinstance(native, TracedNm):
            native = TracedNm(
                *(native.values, native.indices, native.shape), native.n, native.m, axis=native.axis
            )
        return NM._wrap(native.with_values(values))

    def transpose(self) -> NM:
        """Return the transpose, over the same arrays: its groups lie along the other axis.

        Returns
        -------
        NM [K, M]

        Examples
        --------
        >>> import numpy as np
        >>> NM.from_dense(np.array([[0.0, 5.0]]), 1, 2).transpose()
        NM(shape=(2, 1), n=1, m=2, axis=0, nnz=1, dtype=float64, device=cpu)
        """
        return NM._wrap(self._native.transpose())

    @property
    def T(self) -> NM:
        """The transpose.

        Returns
        -------
        NM [K, M]
            Over the same arrays.

        Examples
        --------
        >>> import numpy as np
        >>> NM.from_dense(np.array([[0.0, 5.0]]), 1, 2).T.to_dense()
        array([[0.],
               [5.]])
        """
        return self.transpose()
