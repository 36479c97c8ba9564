"""Array frameworks: how each lends its arrays and makes new ones.

This is the only module that names frameworks. It imports none but NumPy until it meets an array of
one. The native half calls `borrow`, `borrow_out`, `empty` and `finish` for every array that is
neither a `numpy.ndarray` itself nor a `_core.Tensor`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gossamer import _core

Shape = tuple[int, ...]


class Framework(NamedTuple):
    """What gossamer needs of one array framework."""

    borrow: Callable[[Any], Any]
    """The array whose memory holds the numbers of the one given."""
    stream: Callable[[Any], int | None]
    """The stream to order against, in the array API's numbering; None on the CPU."""
    empty: Callable[[Shape, str, Any], Any]
    """A new writable array of a shape and a dtype name, on the device of another."""
    finish: Callable[[Any, Any], Any]
    """What the caller gets for an array from `empty`, in the framework of another."""
    writable: bool
    """Whether its arrays may be `out`."""


def _same(array: Any) -> Any:
    return array


def _done(array: Any, _like: Any) -> Any:
    return array


def _own_empty(shape: Shape, dtype: str, _like: Any) -> Any:
    return _core.Tensor(shape, dtype)


def _no_stream(_array: Any) -> None:
    return None


def _numpy_empty(shape: Shape, dtype: str, like: Any) -> Any:
    # NumPy knows bfloat16 by object only.
    return np.empty(shape, like.dtype if like.dtype.name == dtype else dtype)


def _torch_borrow(array: Any) -> Any:
    # The export of a view whose negation is still pending would leave the negation out.
    return array.resolve_neg() if array.is_neg() else array


def _torch_stream(array: Any) -> int | None:
    if not array.is_cuda:
        return None
    import torch

    return torch.cuda.current_stream(array.device).cuda_stream or 1


def _torch_empty(shape: Shape, dtype: str, like: Any) -> Any:
    import torch

    return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)


def _cupy_stream(array: Any) -> int:
    import cupy

    with array.device:
        return cupy.cuda.get_current_stream().ptr or 1


def _cupy_empty(shape: Shape, dtype: str, like: Any) -> Any:
    import cupy

    with like.device:
        return cupy.empty(shape, like.dtype if like.dtype.name == dtype else dtype)


def _jax_stream(array: Any) -> int | None:
    # JAX has no current stream; its producer makes the legacy default stream wait. A tracer is on
    # no device: its __dlpack__ says why it cannot be read.
    device = getattr(array, "__dlpack_device__", None)
    return None if device is None or device()[0] == _CPU else 1


def _jax_finish(array: Any, _like: Any) -> Any:
    import jax

    return jax.dlpack.from_dlpack(array)


def _any_stream(array: Any) -> int | None:
    return None if array.__dlpack_device__()[0] == _CPU else 1


def _any_finish(array: Any, like: Any) -> Any:
    namespace = getattr(like, "__array_namespace__", None)
    return array if namespace is None else namespace().from_dlpack(array)


_CPU = 1
_JAX = Framework(_same, _jax_stream, _own_empty, _jax_finish, False)
_OTHER = Framework(_same, _any_stream, _own_empty, _any_finish, False)
_BY_MODULE = {
    "numpy": Framework(np.asarray, _no_stream, _numpy_empty, _done, True),
    "torch": Framework(_torch_borrow, _torch_stream, _torch_empty, _done, True),
    "cupy": Framework(_same, _cupy_stream, _cupy_empty, _done, True),
    "jax": _JAX,
    "jaxlib": _JAX,
}
_by_type: dict[type, Framework] = {}


def _root_module(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _framework(array: Any) -> Framework:
    kind = type(array)
    known = _by_type.get(kind)
    if known is None:
        roots = (_root_module(base) for base in kind.__mro__)
        known = next((_BY_MODULE[root] for root in roots if root in _BY_MODULE), _OTHER)
        _by_type[kind] = known
    return known


def borrow(array: Any, op: str, argument: str) -> Any:
    """Return a DLPack capsule of `array` to read, or a plain `numpy.ndarray` over its memory."""
    if not hasattr(array, "__dlpack__"):
        kind = type(array).__name__
        raise TypeError(f"{op}: {argument} is a {kind}, expected an array with __dlpack__")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{op}: {argument} is a masked array; call its filled() first")
    framework = _framework(array)
    lender = framework.borrow(array)
    if isinstance(lender, np.ndarray):
        return lender
    stream = framework.stream(lender)
    options = {} if stream is None else {"stream": stream}
    try:
        return lender.__dlpack__(max_version=(1, 0), **options)
    except TypeError:  # a producer from before versions
        return lender.__dlpack__(**options)


def borrow_out(array: Any, op: str, argument: str) -> Any:
    """Return what `borrow` does, for writing."""
    framework = _framework(array)
    if hasattr(array, "__dlpack__"):
        kind = type(array).__name__
        if not framework.writable:
            raise ValueError(
                f"{op}: {argument} is a {kind}, expected a NumPy, PyTorch or CuPy array; "
                "arrays of other frameworks may be immutable"
            )
        if framework.borrow(array) is not array and not isinstance(array, np.ndarray):
            raise ValueError(f"{op}: {argument} is a view with a pending negation")
    return borrow(array, op, argument)


def empty(shape: Shape, dtype: str, like: Any) -> Any:
    """Return a new writable array for the framework and the device of `like`."""
    return _framework(like).empty(shape, dtype, like)


def finish(array: Any, like: Any) -> Any:
    """Return an array from `empty` as one of the framework of `like`."""
    return _framework(like).finish(array, like)


def scipy_csr(indptr: Any, indices: Any, values: Any, shape: tuple[int, int]) -> Any:
    """Return a scipy.sparse.csr_array over the arrays."""
    from scipy.sparse import csr_array

    parts = (_as_numpy(values), _as_numpy(indices), _as_numpy(indptr))
    return csr_array(parts, shape=shape, copy=False)


def torch_csr(indptr: Any, indices: Any, values: Any, shape: tuple[int, int]) -> Any:
    """Return a torch.sparse_csr tensor over the arrays."""
    import torch

    parts = (_as_torch(indptr), _as_torch(indices), _as_torch(values))
    return torch.sparse_csr_tensor(*parts, size=shape, check_invariants=False)


def _as_numpy(array: Any) -> Any:
    return array if isinstance(array, np.ndarray) else np.from_dlpack(array)


def _as_torch(array: Any) -> Any:
    import torch

    if isinstance(array, torch.Tensor):
        return array
    if isinstance(array, np.ndarray) and array.dtype.name == "bfloat16":
        return torch.from_dlpack(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_dlpack(array)


SparseParts = tuple[Any, Any, Any, tuple[int, int]]


def _scipy_parts(matrix: Any) -> SparseParts:
    rows = matrix.tocsr()
    if not rows.has_canonical_format:
        if rows is matrix:
            rows = rows.copy()
        rows.sum_duplicates()
    return rows.indptr, rows.indices, rows.data, rows.shape


def _torch_parts(matrix: Any) -> SparseParts:
    import torch

    if matrix.layout == torch.strided:
        raise TypeError("from_sparse: obj is a dense torch.Tensor, expected a sparse one")
    if matrix.layout != torch.sparse_csr:
        matrix = (
            matrix.coalesce() if matrix.layout == torch.sparse_coo else matrix
        ).to_sparse_csr()
    return matrix.crow_indices(), matrix.col_indices(), matrix.values(), tuple(matrix.shape)


def _jax_parts(matrix: Any) -> SparseParts:
    if not hasattr(matrix, "indptr"):
        from jax.experimental.sparse import BCSR

        matrix = BCSR.from_bcoo(matrix.sum_duplicates())
    return matrix.indptr, matrix.indices, matrix.data, matrix.shape


_SPARSE = {
    "scipy": _scipy_parts,
    "cupyx": _scipy_parts,
    "torch": _torch_parts,
    "jax": _jax_parts,
}


def sparse_parts(matrix: Any) -> SparseParts:
    """Return (indptr, indices, values, shape) of a framework's sparse matrix."""
    kind = type(matrix)
    parts = _SPARSE.get(_root_module(kind))
    if parts is None:
        raise TypeError(
            f"from_sparse: obj is a {kind.__name__}, expected a sparse matrix of SciPy, PyTorch, "
            "CuPy or JAX"
        )
    if len(matrix.shape) != 2:
        raise ValueError(f"from_sparse: obj.ndim is {len(matrix.shape)}, expected 2")
    return parts(matrix)
