"""Conversions: dense to sparse, sparse to dense, and the transpose. Results must be exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..cuda import CUDA, CUPY
from ..dtypes import DTYPES, ITEM_BYTES, Array
from ..libraries import GOSSAMER, SCIPY, TORCH, Call, Library, as_stored
from ..op import Case, Contender, Work
from ..shapes import Shape
from ..targets import Part, Target, grid, order
from .forms import (
    Form,
    bsr,
    csr,
    cupy_class,
    cupy_csr,
    dense,
    entries,
    gossamer_bsr,
    gossamer_csr,
    gossamer_module,
    hold,
    scipy_class,
    scipy_csr,
    torch_bsr,
    torch_csr,
    torch_csr_i64,
)
from .sparse import BLOCKS, Matrix, SparseOp, of_blocks

_FLOATS: dict[str, Any] = {"dtypes": ("f32", "f64")}
_BLOCKS: dict[str, Any] = {"dtypes": ("f16", "bf16", "f32"), "suits": of_blocks}
_ONE_THREAD: dict[str, Any] = {"threads": 1, "default": False}


class Conversion(SparseOp):
    """A change of form, float64 references of which would say nothing: numbers must be the same."""

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw nothing: the matrix is all."""
        return {}

    def reference(self, case: Case, weights: Matrix, inputs: dict[str, Array]) -> dict[str, Array]:
        """Compare with the matrix itself."""
        return {"indptr": weights.indptr, "indices": weights.indices, "values": weights.values}

    def error(
        self, case: Case, weights: Matrix, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Compare (indptr, indices, values) bit for bit."""
        names = ("indptr", "indices", "values")
        same = all(np.array_equal(reference[x], y) for x, y in zip(names, result, strict=True))
        return 0.0 if same else float("inf")

    def work(self, case: Case, nnz: int) -> Work:
        """Count one read and one write: of the dense matrix, and of CSR with 32-bit indices."""
        size = ITEM_BYTES[case.dtype]
        total = float(case["m"] * case["k"] * size + nnz * (size + 4))
        return Work(0.0, 0.0, total, total)


class FromDense(Conversion):
    """A dense matrix to CSR, or BSR."""

    name = "from_dense"

    def held_bytes(self, case: Case, contender: Contender, nnz: int) -> float:
        """Count the dense matrix."""
        return float(case["m"] * case["k"] * ITEM_BYTES[case.dtype])

    def make_contenders(self) -> list[Contender]:
        """List ours, torch (which makes int64 indices), SciPy, and those of a GPU."""
        ours: dict[str, Any] = {"read": _our_arrays}
        torch: dict[str, Any] = {"read": _torch_rows}
        scipy, to_csr = {"read": _scipy_arrays, **_FLOATS}, _method("to_sparse_csr")
        return [
            _one("csr", "ours", GOSSAMER, dense, _csr_of, **ours),
            _one("csr-1t", "ours", GOSSAMER, dense, _csr_of, **ours, **_ONE_THREAD),
            _one("torch-csr-i64", "sparse", TORCH, dense, to_csr, **torch, **_FLOATS),
            _one("scipy", "sparse", SCIPY, dense, _made_by(scipy_class), **scipy),
            _one("cuda-csr", "ours", CUDA, dense, _csr_of, **ours),
            _one("cuda-bsr", "ours", CUDA, dense, _bsr_of, **ours, **_BLOCKS),
            _one("torch-cusparse", "sparse", CUDA, dense, to_csr, **torch),
            _one("torch-cuda-bsr", "sparse", CUDA, dense, _torch_bsr_of, **torch, **_BLOCKS),
            _one("cupy-cusparse", "sparse", CUPY, dense, _made_by(cupy_class), **scipy),
        ]


class ToDense(Conversion):
    """CSR, or BSR, to a dense matrix."""

    name = "to_dense"

    def error(
        self, case: Case, weights: Matrix, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Compare every element bit for bit."""
        same = result.shape == weights.shape and np.count_nonzero(result) == weights.nnz
        return 0.0 if same and bool((result == weights.dense()).all()) else float("inf")

    def make_contenders(self) -> list[Contender]:
        """List ours, torch, SciPy, and those of a GPU."""
        to_dense, to_array = _method("to_dense"), _method("toarray")
        ours, our_blocks = csr(gossamer_csr), bsr(gossamer_bsr)
        i32, i64 = csr(torch_csr), csr(torch_csr_i64)
        return [
            _one("csr", "ours", GOSSAMER, ours, to_dense),
            _one("csr-1t", "ours", GOSSAMER, ours, to_dense, **_ONE_THREAD),
            _one("torch-csr", "sparse", TORCH, i32, to_dense, **_FLOATS),
            _one("torch-csr-i64", "sparse", TORCH, i64, to_dense, **_FLOATS),
            _one("scipy", "sparse", SCIPY, csr(scipy_csr), to_array, **_FLOATS),
            _one("cuda-csr", "ours", CUDA, ours, to_dense),
            _one("cuda-bsr", "ours", CUDA, our_blocks, to_dense, **_BLOCKS),
            _one("torch-cusparse", "sparse", CUDA, i32, to_dense),
            _one("torch-cuda-bsr", "sparse", CUDA, bsr(torch_bsr), to_dense, **_BLOCKS),
            _one("cupy-cusparse", "sparse", CUPY, csr(cupy_csr), to_array, **_FLOATS),
        ]


class Transpose(Conversion):
    """CSR of the transpose, or BSR."""

    name = "transpose"

    def reference(self, case: Case, weights: Matrix, inputs: dict[str, Array]) -> dict[str, Array]:
        """Sort the entries by column."""
        by_column = np.argsort(weights.indices, kind="stable")
        indptr = np.zeros(case["k"] + 1, np.int32)
        np.cumsum(np.bincount(weights.indices, minlength=case["k"]), out=indptr[1:])
        return {
            "indptr": indptr,
            "indices": weights.rows[by_column],
            "values": weights.values[by_column],
        }

    def work(self, case: Case, nnz: int) -> Work:
        """Count one read and one write of CSR with 32-bit indices."""
        total = 2.0 * nnz * (ITEM_BYTES[case.dtype] + 4)
        return Work(0.0, 0.0, total, total)

    def make_contenders(self) -> list[Contender]:
        """List ours, torch, SciPy, and those of a GPU."""
        to_csc, to_sparse_csc = _method("tocsc"), _method("to_sparse_csc")
        form, our_blocks = csr(gossamer_csr), bsr(gossamer_bsr)
        i32, i64 = csr(torch_csr), csr(torch_csr_i64)
        ours: dict[str, Any] = {"read": _our_arrays}
        torch: dict[str, Any] = {"read": _torch_columns}
        scipy = {"read": _scipy_arrays, **_FLOATS}
        return [
            _one("csr", "ours", GOSSAMER, form, _transpose, **ours),
            _one("csr-1t", "ours", GOSSAMER, form, _transpose, **ours, **_ONE_THREAD),
            _one("torch-csr", "sparse", TORCH, i32, to_sparse_csc, **torch, **_FLOATS),
            _one("torch-csr-i64", "sparse", TORCH, i64, to_sparse_csc, **torch, **_FLOATS),
            _one("scipy", "sparse", SCIPY, csr(scipy_csr), to_csc, **scipy),
            _one("cuda-csr", "ours", CUDA, form, _transpose, **ours),
            _one("cuda-bsr", "ours", CUDA, our_blocks, _transpose, **ours, **_BLOCKS),
            _one("torch-cusparse", "sparse", CUDA, i32, to_sparse_csc, **torch),
            _one("cupy-cusparse", "sparse", CUPY, csr(cupy_csr), to_csc, **scipy),
        ]


def _one(
    name: str,
    kind: str,
    library: Library,
    form: Form,
    convert: Callable[[Case, Any], Call],
    *,
    read: Callable[[Any], Any] = as_stored,
    dtypes: Sequence[str] = DTYPES,
    **options: Any,
) -> Contender:
    return Contender(
        name=name,
        kind=kind,
        library=library,
        hold=hold(form, library),
        bind=lambda case, held, inputs: convert(case, held),
        result=lambda case, returned: read(returned),
        dtypes=dtypes,
        **options,
    )


def _method(name: str) -> Callable[[Case, Any], Call]:
    def convert(case: Case, held: Any) -> Call:
        call: Call = getattr(held, name)
        return call

    return convert


def _transpose(case: Case, held: Any) -> Call:
    return lambda: held.T


def _csr_of(case: Case, w: Any) -> Call:
    gossamer = gossamer_module()
    return lambda: gossamer.CSR.from_dense(w)


def _bsr_of(case: Case, w: Any) -> Call:
    gossamer, side = gossamer_module(), BLOCKS[case["pattern"]]
    return lambda: gossamer.BSR.from_dense(w, side)


def _torch_bsr_of(case: Case, w: Any) -> Call:
    side = BLOCKS[case["pattern"]]
    return lambda: w.to_sparse_bsr((side, side))


def _made_by(find: Callable[[], Any]) -> Callable[[Case, Any], Call]:
    def convert(case: Case, w: Any) -> Call:
        csr_matrix = find()
        return lambda: csr_matrix(w)

    return convert


def _our_arrays(returned: Any) -> tuple[Array, Array, Array]:
    indptr, indices = as_stored(returned.indptr), as_stored(returned.indices)
    if hasattr(returned, "values"):
        return indptr, indices, as_stored(returned.values)
    return entries(indptr, indices, as_stored(returned.blocks))


def _torch_rows(returned: Any) -> tuple[Array, Array, Array]:
    parts = returned.crow_indices(), returned.col_indices(), returned.values()
    indptr, indices, values = (as_stored(x) for x in parts)
    return entries(indptr, indices, values) if values.ndim == 3 else (indptr, indices, values)


def _torch_columns(returned: Any) -> tuple[Array, Array, Array]:
    parts = returned.ccol_indices(), returned.row_indices(), returned.values()
    indptr, indices, values = (as_stored(x) for x in parts)
    return indptr, indices, values


def _scipy_arrays(returned: Any) -> tuple[Array, Array, Array]:
    return as_stored(returned.indptr), as_stored(returned.indices), as_stored(returned.data)


FROM_DENSE, TO_DENSE, TRANSPOSE = FromDense(), ToDense(), Transpose()
OPS = [FROM_DENSE, TO_DENSE, TRANSPOSE]


def parts() -> list[Part]:
    """List the part `conversions` of the suite `foundation`."""
    levels = (0.5, 0.9)
    torch = ("torch-csr", "torch-csr-i64")
    wanted = (
        (FROM_DENSE, "torch's to_sparse_csr", torch, 8.0),
        (TO_DENSE, "torch's to_dense", torch, 8.0),
        (TRANSPOSE, "SciPy's tocsc", ("scipy",), 3.0),
    )
    cases = [c for op in OPS for c in grid(op, [Shape(4096, 4096)], sparsity=levels)]
    targets = tuple(
        Target(f"{op.name} vs {title}, {100 * s:g}%", "csr", others, bound, {"sparsity": (s,)},
               op=op.name)
        for op, title, others, bound in wanted
        for s in levels
    )  # fmt: skip
    who = ("csr", *torch, "scipy")
    return [Part("foundation", "conversions", tuple(order(cases)), who, targets)]
