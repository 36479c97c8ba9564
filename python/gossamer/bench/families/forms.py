"""The forms that libraries keep a sparse matrix in.

`form(library, case, matrix, storage)` makes what a user keeps between calls.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from ..dtypes import Array, recode
from ..libraries import TORCH, Library, torch_module
from ..op import Case
from .sparse import BLOCKS, GROUPS, Matrix

Form: TypeAlias = Callable[[Library, Case, Matrix, str], Any]
#: Makes a sparse matrix of (indptr, indices, values or blocks, shape).
Make: TypeAlias = Callable[..., Any]


def dense(library: Library, case: Case, matrix: Matrix, storage: str) -> Any:
    """Keep the matrix with its zeros."""
    return library.put(recode(matrix.dense(), case.dtype, storage), storage)


def csr(make: Make) -> Form:
    """Keep a CSR matrix, made by `make`."""

    def form(library: Library, case: Case, matrix: Matrix, storage: str) -> Any:
        values = library.put(recode(matrix.values, case.dtype, storage), storage)
        index = index_of(library, values)
        return make(index(matrix.indptr), index(matrix.indices), values, matrix.shape)

    return form


def bsr(make: Make) -> Form:
    """Keep a BSR matrix, made by `make`."""

    def form(library: Library, case: Case, matrix: Matrix, storage: str) -> Any:
        indptr, indices, blocks = matrix.blocks(BLOCKS[case["pattern"]])
        values = library.put(blocks, case.dtype)
        index = index_of(library, values)
        return make(index(indptr), index(indices), values, matrix.shape)

    return form


def hold(form: Form, library: Library, storage: str | None = None) -> Callable[[Case, Matrix], Any]:
    """Hold a form, in a type of the contender's own where it has one."""
    return lambda case, matrix: form(library, case, matrix, storage or case.dtype)


def index_of(library: Library, values: Any) -> Callable[[Array], Any]:
    """Find what makes index arrays of the framework that the values are of."""
    on_cpu = library.device == "cpu" and hasattr(values, "detach")
    return TORCH.put_index if on_cpu else library.put_index


def gossamer_module() -> Any:
    """Import the library."""
    return import_module("gossamer")


def gossamer_csr(*parts: Any) -> Any:
    """Make a CSR matrix of ours."""
    return gossamer_module().CSR(*parts)


def gossamer_packed(*parts: Any) -> Any:
    """Pack a CSR matrix of ours."""
    return gossamer_module().pack(gossamer_csr(*parts))


def gossamer_packed_wide(*parts: Any) -> Any:
    """Pack a CSR matrix of ours for many columns."""
    return gossamer_module().pack(gossamer_csr(*parts), n=4096)


def gossamer_bsr(*parts: Any) -> Any:
    """Make a BSR matrix of ours."""
    return gossamer_module().BSR(*parts)


def gossamer_nm(library: Library, case: Case, matrix: Matrix, storage: str) -> Any:
    """Keep an N:M matrix of ours."""
    n, m = GROUPS[case["pattern"]]
    return gossamer_module().NM.from_dense(dense(library, case, matrix, storage), n, m)


def torch_csr(*parts: Any) -> Any:
    """Make a CSR matrix of PyTorch's."""
    return torch_module().sparse_csr_tensor(*parts)


def torch_csr_i64(indptr: Any, indices: Any, values: Any, shape: tuple[int, int]) -> Any:
    """Make a CSR matrix of PyTorch's with int64 indices."""
    return torch_csr(indptr.long(), indices.long(), values, shape)


def torch_bsr(*parts: Any) -> Any:
    """Make a BSR matrix of PyTorch's."""
    return torch_module().sparse_bsr_tensor(*parts)


def scipy_class() -> Any:
    """Find SciPy's class of CSR matrices, which converts dense arrays."""
    return import_module("scipy.sparse").csr_matrix


def scipy_csr(indptr: Any, indices: Any, values: Any, shape: tuple[int, int]) -> Any:
    """Make a CSR matrix of SciPy's."""
    return scipy_class()((values, indices, indptr), shape=shape)


def scipy_bsr(indptr: Any, indices: Any, blocks: Any, shape: tuple[int, int]) -> Any:
    """Make a BSR matrix of SciPy's."""
    sparse = import_module("scipy.sparse")
    return sparse.bsr_matrix((blocks, indices, indptr), shape=shape)


def cupy_class() -> Any:
    """Find CuPy's class of CSR matrices, which converts dense arrays."""
    return import_module("cupyx.scipy.sparse").csr_matrix


def cupy_csr(indptr: Any, indices: Any, values: Any, shape: tuple[int, int]) -> Any:
    """Make a CSR matrix of CuPy's."""
    return cupy_class()((values, indices, indptr), shape=shape)


def entries(indptr: Array, indices: Array, blocks: Array) -> tuple[Array, Array, Array]:
    """Return the CSR arrays of a BSR matrix whose blocks have no zeros."""
    side = blocks.shape[1]
    lengths = np.diff(indptr)
    starts = np.concatenate([[0], np.cumsum(np.repeat(lengths * side, side))]).astype(np.int32)
    columns = (indices[:, None] * side + np.arange(side)).astype(np.int32)
    rows = [slice(*span) for span in pairwise(indptr)]
    of_rows = [np.tile(columns[row].reshape(-1), side) for row in rows]
    values = [blocks[row].transpose(1, 0, 2).reshape(-1) for row in rows]
    return starts, np.concatenate(of_rows), np.concatenate(values)
