"""The CSR format."""

from __future__ import annotations

from typing import Any

from gossamer import _core, _interop
from gossamer.formats._compressed import Compressed


class CSR(Compressed):
    """A sparse matrix in compressed sparse row form over arrays that the caller keeps.

    A[i, indices[p]] = values[p] for indptr[i] ≤ p < indptr[i + 1], and 0 elsewhere. Values may
    change in place afterwards; indptr and indices must not.

    Parameters
    ----------
    indptr : array [M + 1], int32 or int64
    indices : array [nnz], of indptr's type
        Columns, strictly increasing within a row.
    values : array [nnz], float32, float64, float16 or bfloat16
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

    _native: _core.Csr
    _VALUES = "values"

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
        self._make(_core.Csr, (indptr, indices, values), shape, check, index_dtype)

    @classmethod
    def from_dense(cls, w: Any, mask: Any = None) -> CSR:
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
        return cls._wrap(_core.csr_from_dense(w, mask))

    @classmethod
    def from_mask(cls, mask: Any, *, dtype: Any = "float32") -> CSR:
        """Make a CSR matrix of ones where a mask is true: a pattern for `sddmm`.

        Parameters
        ----------
        mask : array [M, K], bool or uint8
        dtype : the type of the ones, as for `astype`

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
        """
        return cls.from_dense(_interop.astype("CSR.from_mask", mask != 0, dtype))

    @classmethod
    def from_sparse(cls, obj: Any) -> CSR:
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
    def values(self) -> Any:
        """The value of each entry [nnz]."""
        return self._native.values

    def with_values(self, values: Any) -> CSR:
        """Return a matrix of the same structure with other values.

        Parameters
        ----------
        values : array [nnz], float32, float64, float16 or bfloat16

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

    def to_dense(self, *, out: Any = None) -> Any:
        """Write the matrix out in full.

        Parameters
        ----------
        out : array [M, K] of this matrix's dtype, rows may be strided, or None

        Returns
        -------
        array [M, K]
            `out`, or a new array of the framework of `values`.

        Raises
        ------
        TypeError
            For the element type of `out`.
        ValueError
            For its shape, device and layout.

        Examples
        --------
        >>> import numpy as np
        >>> CSR.from_dense(np.eye(2)).to_dense()
        array([[1., 0.],
               [0., 1.]])
        """
        return _core.csr_to_dense(self._native, out)

    def transpose(self) -> tuple[CSR, Any]:
        """Return the transpose and the permutation of the values that makes it.

        transposed.values[p] = values[permutation[p]].

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
        native, permutation = _core.csr_transpose(self._native, True)
        return CSR._wrap(native), permutation

    @property
    def T(self) -> CSR:
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
        native, _ = _core.csr_transpose(self._native, False)
        return CSR._wrap(native)

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
        return _interop.torch_csr(
            self._native.indptr, self._native.indices, self.values, self.shape
        )
