"""The CSR format."""

from __future__ import annotations

from typing import Any, overload

from gossamer import _core, _interop
from gossamer.formats._compressed import Compressed, New
from gossamer.formats._matrix import Array


class CSR(Compressed[Array]):
    """A sparse matrix in compressed sparse row form over arrays that the caller keeps.

    A[i, indices[p]] = values[p] for indptr[i] ≤ p < indptr[i + 1], and 0 elsewhere. Values may
    change in place afterwards; indptr and indices must not.

    Parameters
    ----------
    indptr : array [M + 1], int32 or int64
    indices : array [nnz], of indptr's type
        Columns, strictly increasing within a row.
    values : array [nnz], float32, float64, float16 or bfloat16, or None
        None makes a pattern: where entries are, for operations that read no values. An array
        [..., nnz] holds several sets of values, those of heads say, for operations that take them.
    shape : (M, K)
    check : bool or None
        False skips the pass over indptr and indices; wrong ones are then undefined behaviour. None
        is True on the CPU and False on a GPU, where the pass copies both arrays and waits.
    index_dtype : "int32", "int64" or None
        None narrows a copy of int64 indices to int32 where K and nnz fit.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shapes, layout, devices and corrupt structure.

    Examples
    --------
    >>> import numpy as np
    >>> a = CSR(np.array([0, 2, 3]), np.array([0, 2, 1]), np.array([1.0, 2.0, 3.0]), (2, 3))
    >>> a
    CSR(shape=(2, 3), nnz=3, dtype=float64, index_dtype=int32, device=cpu)
    >>> a.to_dense()
    array([[1., 0., 2.],
           [0., 3., 0.]])
    """

    __slots__ = ()

    _native: Any  # a Csr, a CsrPattern or, in a traced function, a Traced
    _ARRAYS = ("indptr", "indices", "values")
    _WRITE = staticmethod(_core.csr_to_dense)

    @overload
    def __init__(
        self: CSR[Any],
        indptr: Any,
        indices: Any,
        values: None,
        shape: tuple[int, int],
        *,
        check: bool | None = None,
        index_dtype: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        indptr: Any,
        indices: Any,
        values: Array,
        shape: tuple[int, int],
        *,
        check: bool | None = None,
        index_dtype: str | None = None,
    ) -> None: ...
    def __init__(
        self,
        indptr: Any,
        indices: Any,
        values: Any,
        shape: tuple[int, int],
        *,
        check: bool | None = None,
        index_dtype: str | None = None,
    ) -> None:
        one = values is not None and len(getattr(values, "shape", "1")) < 2
        kind = _core.Csr if one else _core.CsrPattern
        self._make(kind, (indptr, indices, values), shape, check, index_dtype)

    @classmethod
    def from_dense(cls, w: New, mask: Any = None) -> CSR[New]:
        """Make a CSR matrix of the entries of a dense one that are kept.

        Parameters
        ----------
        w : array [M, K], floating, rows may be strided
        mask : array [M, K], bool or uint8, or None
            Nonzero where an entry is kept. None keeps all but ±0; NaN is kept.

        Returns
        -------
        CSR
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
        >>> CSR.from_dense(np.array([[0.0, 5.0], [7.0, 0.0]])).indices
        array([1, 0], dtype=int32)
        """
        made: Any = cls._wrap(_core.csr_from_dense(w, mask))
        return made  # type: ignore[no-any-return]

    @classmethod
    def from_mask(cls, mask: New, *, dtype: Any = "float32") -> CSR[New]:
        """Make a CSR matrix of ones where a mask is true, or its pattern alone.

        Parameters
        ----------
        mask : array [M, K], bool or uint8
        dtype : the type of the ones, as for `astype`, or None
            None makes a pattern, without values: for `sddmm`, `csr_attention` and `BlockLayout`.

        Returns
        -------
        CSR
            Over new arrays of mask's framework.

        Raises
        ------
        TypeError
            For element types.
        ValueError
            For shapes and layout.

        Examples
        --------
        >>> import numpy as np
        >>> CSR.from_mask(np.eye(2, dtype=bool))
        CSR(shape=(2, 2), nnz=2, dtype=float32, index_dtype=int32, device=cpu)
        >>> CSR.from_mask(np.eye(2, dtype=bool), dtype=None).values is None
        True
        """
        _interop.admit(mask, "CSR.from_mask", "mask")
        if not hasattr(mask, "shape"):
            _interop.unknown(mask, "CSR.from_mask", "mask")
        if len(mask.shape) != 2:
            raise ValueError(f"CSR.from_mask: mask.ndim is {len(mask.shape)}, expected 2")
        name = "float32" if dtype is None else dtype
        ones: New = _interop.astype("CSR.from_mask", mask != 0, name)
        made = cls.from_dense(ones)
        return made.with_values(None) if dtype is None else made

    @classmethod
    def from_coo(
        cls,
        index: New | tuple[New, New],
        values: New | None = None,
        *,
        shape: tuple[int, int],
        duplicates: str = "sum",
    ) -> CSR[New]:
        """Make a CSR matrix of a list of places, the edges of a graph say.

        A[row[p], col[p]] = values[p]; entries may come in any order.

        Parameters
        ----------
        index : array [2, n], int32 or int64, or a pair of arrays [n]
            The rows, then the columns: the edge_index of a graph whose edge (i, j) is A[i, j].
        values : array [n], float32, float64, float16 or bfloat16, or None
            None makes a pattern.
        shape : (M, K)
        duplicates : "sum" or "refuse"
            Entries at one place are added, in the order of the list, in float32 (float64 for
            float64); without values they become one. "refuse" raises ValueError for them.

        Returns
        -------
        CSR
            Over new arrays of the framework of `index` and `values`.

        Raises
        ------
        TypeError
            For element types.
        ValueError
            For shapes, layout and indices out of range.

        Examples
        --------
        >>> import numpy as np
        >>> edges = np.array([[1, 0, 1], [0, 1, 0]])
        >>> CSR.from_coo(edges, np.array([2.0, 3.0, 4.0]), shape=(2, 2)).to_dense()
        array([[0., 3.],
               [6., 0.]])
        """
        places: Any = index
        if isinstance(places, (tuple, list)):
            if len(places) != 2:
                raise ValueError(f"CSR.from_coo: index has {len(places)} parts, expected 2")
        else:
            _interop.admit(places, "CSR.from_coo", "index")
            shape_of = tuple(getattr(places, "shape", ()))
            if len(shape_of) != 2 or shape_of[0] != 2:
                raise ValueError(f"CSR.from_coo: index.shape is {shape_of}, expected (2, n)")
        row, col = places[0], places[1]
        made: Any = cls._wrap(_core.csr_from_coo(row, col, values, shape, duplicates))
        return made  # type: ignore[no-any-return]

    @classmethod
    def from_sparse(cls, obj: Any) -> CSR[Any]:
        """Make a CSR matrix of another library's sparse matrix, sharing its values where it can.

        Duplicate entries are summed and columns sorted, in a copy.

        Parameters
        ----------
        obj : scipy.sparse (any format), torch (any layout), cupyx.scipy.sparse, JAX
            BCSR or BCOO; values float32, float64, float16 or bfloat16

        Returns
        -------
        CSR

        Raises
        ------
        TypeError
            For other objects and for element types.
        ValueError
            For batches of matrices.

        Examples
        --------
        >>> import scipy.sparse
        >>> CSR.from_sparse(scipy.sparse.eye_array(3, format="csc")).nnz
        3
        """
        if isinstance(obj, CSR):
            return obj
        indptr, indices, values, shape = _interop.sparse_parts(obj)
        return cls(indptr, indices, values, shape)

    @property
    def values(self) -> Array:
        """The value of each entry [nnz]; None for a pattern, [..., nnz] for several sets."""
        values: Array = self._native.values
        return values

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes of `values` before the entries: () for one matrix and for a pattern."""
        native = self._native
        return native.batch if isinstance(native, _core.CsrPattern) else ()

    def _counts(self) -> str:
        return f"nnz={self.nnz}" + (f", batch={self.batch}" if self.batch else "")

    @overload
    def with_values(self, values: None) -> CSR[Any]: ...
    @overload
    def with_values(self, values: New) -> CSR[New]: ...
    def with_values(self, values: Any) -> CSR[Any]:
        """Return a matrix of the same structure with other values.

        Parameters
        ----------
        values : array [nnz] or [..., nnz], float32, float64, float16 or bfloat16, or None
            None leaves the pattern.

        Returns
        -------
        CSR
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
        >>> a = CSR.from_dense(np.eye(2))
        >>> a.with_values(np.array([3.0, 4.0])).to_dense()
        array([[3., 0.],
               [0., 4.]])
        """
        return CSR._wrap(self._with_values(values))

    def transpose(self) -> tuple[CSR[Array], Array]:
        """Return the transpose and the permutation of the values that makes it.

        transposed.values[p] = values[permutation[p]]. That of a pattern is a pattern.

        Returns
        -------
        transposed : CSR [K, M]
            Over new arrays of this matrix's framework.
        permutation : array [nnz], of the index type

        Examples
        --------
        >>> import numpy as np
        >>> t, permutation = CSR.from_dense(np.array([[1.0, 2.0], [3.0, 0.0]])).transpose()
        >>> t.values, permutation
        (array([1., 3., 2.]), array([0, 2, 1], dtype=int32))
        """
        native = self._native
        if isinstance(native, _core.CsrPattern) and native.values is None:
            pattern, permutation = _core.csr_transpose_pattern(native)
            return CSR._wrap(pattern), permutation
        transposed, permutation = _core.csr_transpose(self._plain("CSR.transpose: "), True)
        return CSR._wrap(transposed), permutation

    @property
    def T(self) -> CSR[Array]:
        """The transpose alone, made anew at each access; quicker than with its permutation.

        Returns
        -------
        CSR [K, M]
            Over new arrays of this matrix's framework.

        Examples
        --------
        >>> import numpy as np
        >>> CSR.from_dense(np.array([[1.0, 2.0], [3.0, 0.0]])).T.to_dense()
        array([[1., 3.],
               [2., 0.]])
        """
        if self.values is None:
            return self.transpose()[0]
        native, _ = _core.csr_transpose(self._plain("CSR.T: "), False)
        return CSR._wrap(native)

    def _plain(self, where: str) -> Any:
        """Return the native half of a matrix with one value an entry; raise for any other."""
        native = self._native
        if not isinstance(native, _core.CsrPattern):
            return native
        shape = (*self.batch, self.nnz)
        found = "values is None" if native.values is None else f"values.shape is {shape}"
        raise ValueError(f"{where}{found}, expected an array of shape ({self.nnz},)")

    def _values(self) -> Any:
        return self._plain("CSR: ").values

    def to_scipy(self) -> Any:
        """Return a scipy.sparse.csr_array over the same memory.

        Its structure is read-only: what changes it in place (`eliminate_zeros`) needs a copy.

        Returns
        -------
        scipy.sparse.csr_array

        Examples
        --------
        >>> import numpy as np
        >>> CSR.from_dense(np.eye(2)).to_scipy().nnz
        2
        """
        self._plain("CSR.to_scipy: ")
        return _interop.scipy_csr(
            self._native.indptr, self._native.indices, self.values, self.shape
        )

    def to_jax(self) -> Any:
        """Return a JAX BCSR matrix.

        Returns
        -------
        jax.experimental.sparse.BCSR

        Examples
        --------
        >>> import numpy as np
        >>> CSR.from_dense(np.eye(2, dtype=np.float32)).to_jax().nse
        2
        """
        self._plain("CSR.to_jax: ")
        return _interop.jax_csr(self._native.indptr, self._native.indices, self.values, self.shape)

    def to_torch(self) -> Any:
        """Return a torch.sparse_csr tensor over the same values, with its own structure.

        Returns
        -------
        torch.Tensor

        Examples
        --------
        >>> import torch
        >>> CSR.from_dense(torch.eye(2)).to_torch().layout
        torch.sparse_csr
        """
        self._plain("CSR.to_torch: ")
        return _interop.torch_csr(
            self._native.indptr, self._native.indices, self.values, self.shape
        )
