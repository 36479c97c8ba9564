"""What users have today: dense and sparse products of NumPy, PyTorch, SciPy and MKL.

Each peer gets the layout that it is fastest with among those that its users have: linear means
x [N, K] in, an [N, M] array or view out.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any, cast

import numpy as np

from .case import BLOCKS, CONVERSIONS, PRODUCTS, Array, Case, Matrix, from_bits
from .contenders import Call, Contender, as_numpy, as_stored, recode

_FLOATS = frozenset({"f32", "f64"})


def _plain(case: Case, returned: Any) -> Any:
    return as_numpy(returned)


# NumPy


def _numpy_dense(case: Case, matrix: Matrix) -> Any:
    return matrix.rows, matrix.indices, matrix.dense() if case.op in PRODUCTS else None


def _numpy_call(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    rows, columns, w = held
    b = inputs["b"]
    return {
        "linear": lambda: b @ w.T,
        "spmm": lambda: w @ b,
        "spmm-t": lambda: w.T @ b,
        "sddmm": lambda: (inputs["a"] @ b.T)[rows, columns],
    }[case.op]


# PyTorch


def torch_module() -> Any:
    """Import PyTorch."""
    torch = import_module("torch")
    # Beta-state notices of torch.sparse; the run's own messages would drown in them.
    warnings.filterwarnings("ignore", message=".*(Sparse|sparse).*", category=UserWarning)
    return torch


def torch_tensor(stored: Array, dtype: str) -> Any:
    """View stored values as a tensor."""
    torch = torch_module()
    if dtype == "bf16":
        return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(stored)


def _torch_dense(name: str, storage: str | None) -> Contender:
    def weights(case: Case, matrix: Matrix) -> Any:
        kind = storage or case.dtype
        if case.op == "sddmm":
            flat = matrix.rows.astype(np.int64) * case.k + matrix.indices
            return torch_module().from_numpy(flat)
        return torch_tensor(recode(matrix.dense(), case, kind), kind)

    def bind(case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        torch = torch_module()
        kind = storage or case.dtype
        dense = {x: torch_tensor(recode(y, case, kind), kind) for x, y in inputs.items()}
        b = dense["b"]
        return {
            "linear": lambda: torch.nn.functional.linear(b, w),
            "spmm": lambda: w @ b,
            "spmm-t": lambda: w.t() @ b,
            "sddmm": lambda: torch.take(dense["a"] @ b.t(), w),
        }[case.op]

    return Contender(
        name=name,
        runtime="torch",
        kind="dense" if storage is None else "low",
        ops=frozenset({*PRODUCTS, "sddmm"} if storage is None else PRODUCTS),
        weights=weights,
        bind=bind,
        result=_plain,
        dtypes=frozenset({"f32"}) if storage else frozenset({"f32", "f64", "bf16", "f16"}),
        needs=("torch",),
        storage=storage,
    )


def _torch_csr(name: str, index: str) -> Contender:
    methods = {
        "from_dense": "to_sparse_csr",
        "to_dense": "to_dense",
        "transpose": "to_sparse_csc",
    }

    def weights(case: Case, matrix: Matrix) -> Any:
        torch = torch_module()
        if case.op == "from_dense":
            return torch_tensor(matrix.dense(), case.dtype)
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(index)),
            torch.from_numpy(matrix.indices.astype(index)),
            torch_tensor(matrix.values, case.dtype),
            matrix.shape,
        )

    def bind(case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        torch = torch_module()
        if case.op in CONVERSIONS:
            return cast(Call, getattr(w, methods[case.op]))
        dense = {x: torch_tensor(y, case.dtype) for x, y in inputs.items()}
        b = dense["b"]
        # The transposed view, made once, as a user of Wᵀ would keep it.
        t = w.t() if case.op == "spmm-t" else None
        return {
            "linear": lambda: torch.nn.functional.linear(b, w),
            "spmm": lambda: w @ b,
            "spmm-t": lambda: t @ b,
            "sddmm": lambda: torch.sparse.sampled_addmm(w, dense["a"], b.t(), beta=0.0),
        }[case.op]

    def result(case: Case, out: Any) -> Any:
        if case.op == "sddmm":
            return as_numpy(out.values())
        if case.op == "to_dense":
            return as_stored(out)
        if case.op == "transpose":
            return (
                as_numpy(out.ccol_indices()),
                as_numpy(out.row_indices()),
                as_stored(out.values()),
            )
        if case.op == "from_dense":
            return (
                as_numpy(out.crow_indices()),
                as_numpy(out.col_indices()),
                as_stored(out.values()),
            )
        return as_numpy(out)

    ops = {*PRODUCTS, "sddmm", "to_dense", "transpose"}
    return Contender(
        name=name,
        runtime="torch",
        kind="sparse",
        # torch's own conversion makes int64 indices.
        ops=frozenset(ops | {"from_dense"} if index == "int64" else ops),
        weights=weights,
        bind=bind,
        result=result,
        dtypes=_FLOATS,
        needs=("torch",),
    )


def _torch_bsr(case: Case, matrix: Matrix) -> Any:
    torch = torch_module()
    indptr, indices, blocks = matrix.blocks(BLOCKS[case.pattern])
    parts = torch.from_numpy(indptr), torch.from_numpy(indices)
    return torch.sparse_bsr_tensor(*parts, torch_tensor(blocks, case.dtype), matrix.shape)


def _torch_bsr_call(case: Case, w: Any, inputs: dict[str, Array]) -> Call:
    linear, b = torch_module().nn.functional.linear, torch_tensor(inputs["b"], case.dtype)
    return (lambda: linear(b, w)) if case.op == "linear" else (lambda: w @ b)


# SciPy and MKL on SciPy's arrays


def _scipy_bsr(case: Case, matrix: Matrix) -> Any:
    indptr, indices, blocks = matrix.blocks(BLOCKS[case.pattern])
    sparse = import_module("scipy.sparse")
    bsr = sparse.bsr_matrix((blocks, indices, indptr), shape=matrix.shape)
    return bsr.T if case.op == "spmm-t" else bsr


def _scipy_csr(case: Case, matrix: Matrix) -> Any:
    if case.op == "from_dense":
        return matrix.dense()
    sparse = import_module("scipy.sparse")
    values = from_bits(matrix.values, case.dtype)
    csr = sparse.csr_matrix((values, matrix.indices, matrix.indptr), shape=matrix.shape)
    return csr.T if case.op == "spmm-t" else csr


def _scipy_call(case: Case, w: Any, inputs: dict[str, Array]) -> Call:
    if case.op == "from_dense":
        csr_matrix = import_module("scipy.sparse").csr_matrix
        return lambda: csr_matrix(w)
    if case.op in CONVERSIONS:
        return cast(Call, w.toarray if case.op == "to_dense" else w.tocsc)
    b = inputs["b"]
    return {
        "linear": lambda: (w @ b.T).T,
        "spmm": lambda: w @ b,
        "spmm-t": lambda: w @ b,
    }[case.op]


def _scipy_result(case: Case, out: Any) -> Any:
    if case.op in ("from_dense", "transpose"):
        return out.indptr, out.indices, out.data
    return out


def _mkl_call(case: Case, w: Any, inputs: dict[str, Array]) -> Call:
    product = import_module("sparse_dot_mkl").dot_product_mkl
    b = inputs["b"]
    if case.op == "linear":
        # Copying xᵀ costs less than MKL's column-major path does: 5 against 20 ms at N = 32.
        return lambda: product(w, np.ascontiguousarray(b.T)).T
    return lambda: product(w, b)


PEERS = [
    Contender(
        name="numpy",
        runtime="numpy",
        kind="dense",
        ops=frozenset({*PRODUCTS, "sddmm"}),
        weights=_numpy_dense,
        bind=_numpy_call,
        result=_plain,
        dtypes=_FLOATS,
    ),
    _torch_dense("torch", None),
    _torch_dense("torch-bf16", "bf16"),
    _torch_csr("torch-csr", "int32"),
    _torch_csr("torch-csr-i64", "int64"),
    Contender(
        name="scipy",
        runtime="scipy",
        kind="sparse",
        ops=frozenset({*PRODUCTS, *CONVERSIONS}),
        weights=_scipy_csr,
        bind=_scipy_call,
        result=_scipy_result,
        dtypes=_FLOATS,
        needs=("scipy",),
    ),
    Contender(
        name="torch-bsr",
        runtime="torch",
        kind="sparse",
        ops=frozenset({"linear", "spmm"}),
        weights=_torch_bsr,
        bind=_torch_bsr_call,
        result=_plain,
        dtypes=_FLOATS,
        needs=("torch",),
        patterns=frozenset(BLOCKS),
    ),
    Contender(
        name="scipy-bsr",
        runtime="scipy",
        kind="sparse",
        ops=frozenset(PRODUCTS),
        weights=_scipy_bsr,
        bind=_scipy_call,
        result=_plain,
        dtypes=_FLOATS,
        needs=("scipy",),
        patterns=frozenset(BLOCKS),
    ),
    Contender(
        name="mkl",
        runtime="mkl",
        kind="sparse",
        ops=frozenset(PRODUCTS),
        weights=_scipy_csr,
        bind=_mkl_call,
        result=_plain,
        dtypes=_FLOATS,
        needs=("scipy", "sparse_dot_mkl"),
    ),
]
