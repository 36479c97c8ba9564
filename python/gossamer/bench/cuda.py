"""Contenders on a GPU: ours, cuBLAS and cuSPARSE through PyTorch and CuPy, PyTorch's BSR.

All but CuPy's hold PyTorch tensors. A call is captured into a CUDA graph where that is possible, so
that a short kernel is timed and not the interpreter before it; the record's layout says which.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from time import perf_counter
from typing import Any, cast

import numpy as np

from .case import BLOCKS, CONVERSIONS, PRODUCTS, Array, Case, Matrix
from .contenders import Call, Contender, as_numpy, as_stored
from .peers import torch_module, torch_tensor

#: Where the arrays of these contenders are. Tests put the CPU here, for a run without a GPU.
DEVICE = "cuda"
#: Bytes that are copied, and rows of the matrices that are multiplied, to measure the limits.
COPIED, SIDE = 1 << 30, 8192

_ALL = frozenset((*PRODUCTS, "sddmm", *CONVERSIONS))


def _put(stored: Array, dtype: str) -> Any:
    return torch_tensor(np.ascontiguousarray(stored), dtype).to(DEVICE)


def _wait() -> None:
    if DEVICE == "cuda":
        torch_module().cuda.synchronize()


@dataclass
class Held:
    """What a contender keeps of a matrix, and whether its last call was captured."""

    matrix: Any
    layouts: str = "eager"


def _captured(held: Held, call: Call) -> Call:
    """Return a replay of the call, or the call itself where it cannot be captured."""
    torch = torch_module()
    held.layouts = "eager"
    if DEVICE != "cuda":
        return call
    call()
    _wait()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            result = call()
        graph.replay()
        _wait()
    except RuntimeError:
        # A capture that failed leaves its error behind.
        with contextlib.suppress(RuntimeError):
            _wait()
        return call
    held.layouts = "graph"

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def _bind(
    calls: Callable[[Case, Any, dict[str, Any]], Call],
    case: Case,
    held: Held,
    inputs: dict[str, Array],
) -> Call:
    dense = {name: _put(array, case.dtype) for name, array in inputs.items()}
    return _captured(held, calls(case, held.matrix, dense))


# Ours


def _ours_call(case: Case, w: Any, dense: dict[str, Any]) -> Call:
    gossamer = import_module("gossamer")
    if case.op == "from_dense":
        if isinstance(w, _DenseOfBlocks):
            return lambda: gossamer.BSR.from_dense(w.dense, BLOCKS[case.pattern])
        return lambda: gossamer.CSR.from_dense(w)
    if case.op in CONVERSIONS:
        return cast(Call, w.to_dense) if case.op == "to_dense" else lambda: w.T
    b = dense["b"]
    return {
        "linear": lambda: gossamer.linear(b, w),
        "spmm": lambda: gossamer.spmm(w, b),
        "spmm-t": lambda: gossamer.spmm(w, b, transpose_a=True),
        "sddmm": lambda: (w, gossamer.sddmm(dense["a"], b, w)),
    }[case.op]


@dataclass
class _DenseOfBlocks:
    dense: Any


def _host(array: Any) -> Any:
    return as_stored(array.cpu())


def _product(case: Case, returned: Any) -> Any:
    return as_numpy(returned.cpu())


def _ours_result(case: Case, returned: Any) -> Any:
    _wait()
    if case.op == "sddmm":
        pattern, sums = returned
        values = _product(case, sums)
        if values.ndim == 1:
            return values
        return _entries(_host(pattern.indptr), _host(pattern.indices), values)[2]
    if case.op not in CONVERSIONS:
        return _product(case, returned)
    if case.op == "to_dense":
        return _host(returned)
    indptr, indices = (_host(x) for x in (returned.indptr, returned.indices))
    if hasattr(returned, "values"):
        return indptr, indices, _host(returned.values)
    return _entries(indptr, indices, _host(returned.blocks))


def _entries(indptr: Array, indices: Array, blocks: Array) -> tuple[Array, Array, Array]:
    """Return the CSR arrays of a BSR matrix whose blocks have no zeros."""
    side = blocks.shape[1]
    lengths = np.diff(indptr)
    starts = np.concatenate([[0], np.cumsum(np.repeat(lengths * side, side))]).astype(np.int32)
    columns = (indices[:, None] * side + np.arange(side)).astype(np.int32)
    rows = [slice(*span) for span in pairwise(indptr)]
    entries = [np.tile(columns[row].reshape(-1), side) for row in rows]
    values = [blocks[row].transpose(1, 0, 2).reshape(-1) for row in rows]
    return starts, np.concatenate(entries), np.concatenate(values)


# PyTorch: dense, CSR by cuSPARSE, BSR by its own kernels


def _torch_call(case: Case, w: Any, dense: dict[str, Any]) -> Call:
    torch = torch_module()
    if case.op == "from_dense" and isinstance(w, _DenseOfBlocks):
        side = BLOCKS[case.pattern]
        return lambda: w.dense.to_sparse_bsr((side, side))
    if case.op in CONVERSIONS:
        methods = {"from_dense": "to_sparse_csr", "transpose": "to_sparse_csc"}
        return cast(Call, getattr(w, methods.get(case.op, case.op)))
    b = dense["b"]
    # The transposed view, made once, as a user of Wᵀ would keep it.
    t = w.t() if case.op == "spmm-t" else w
    return {
        "linear": lambda: torch.nn.functional.linear(b, w),
        "spmm": lambda: w @ b,
        "spmm-t": lambda: t @ b,
        "sddmm": lambda: torch.sparse.sampled_addmm(w, dense["a"], b.t(), beta=0.0),
    }[case.op]


def _torch_result(case: Case, returned: Any) -> Any:
    _wait()
    if case.op == "sddmm":
        return _product(case, returned.values())
    if case.op not in CONVERSIONS:
        return _product(case, returned)
    if case.op == "to_dense":
        return _host(returned)
    if case.op == "transpose":
        parts = returned.ccol_indices(), returned.row_indices(), returned.values()
    else:
        parts = returned.crow_indices(), returned.col_indices(), returned.values()
    arrays = [_host(x) for x in parts]
    return _entries(*arrays) if arrays[2].ndim == 3 else tuple(arrays)


def _dense_call(case: Case, w: Any, dense: dict[str, Any]) -> Call:
    if case.op != "sddmm":
        return _torch_call(case, w, dense)
    torch = torch_module()
    return lambda: torch.take(dense["a"] @ dense["b"].t(), w)


def _dense_result(case: Case, returned: Any) -> Any:
    _wait()
    return _product(case, returned)


def _dense(case: Case, matrix: Matrix) -> Held:
    if case.op == "sddmm":
        flat = matrix.rows.astype(np.int64) * case.k + matrix.indices
        return Held(torch_module().from_numpy(flat).to(DEVICE))
    return Held(_put(matrix.dense(), case.dtype))


def _csr(make: Callable[..., Any], case: Case, matrix: Matrix) -> Held:
    if case.op == "from_dense":
        return Held(_put(matrix.dense(), case.dtype))
    torch = torch_module()
    indptr, indices = (torch.from_numpy(x).to(DEVICE) for x in (matrix.indptr, matrix.indices))
    return Held(make()(indptr, indices, _put(matrix.values, case.dtype), matrix.shape))


def _bsr(make: Callable[..., Any], case: Case, matrix: Matrix) -> Held:
    if case.op == "from_dense":
        return Held(_DenseOfBlocks(_put(matrix.dense(), case.dtype)))
    torch = torch_module()
    indptr, indices, blocks = matrix.blocks(BLOCKS[case.pattern])
    parts = (torch.from_numpy(x).to(DEVICE) for x in (indptr, indices))
    return Held(make()(*parts, _put(blocks, case.dtype), matrix.shape))


# CuPy


def _cupy_csr(case: Case, matrix: Matrix) -> Held:
    cupy, sparse = import_module("cupy"), import_module("cupyx.scipy.sparse")
    if case.op == "from_dense":
        return Held(cupy.asarray(matrix.dense()))
    parts = (cupy.asarray(x) for x in (matrix.values, matrix.indices, matrix.indptr))
    return Held(sparse.csr_matrix(tuple(parts), shape=matrix.shape))


def _cupy_bind(case: Case, held: Held, inputs: dict[str, Array]) -> Call:
    w = held.matrix
    if case.op == "from_dense":
        csr_matrix = import_module("cupyx.scipy.sparse").csr_matrix
        return lambda: csr_matrix(w)
    if case.op in CONVERSIONS:
        return cast(Call, w.toarray if case.op == "to_dense" else w.tocsc)
    b = import_module("cupy").asarray(inputs["b"])
    t = w.T if case.op == "spmm-t" else w
    return (lambda: (t @ b.T).T) if case.op == "linear" else (lambda: t @ b)


def _cupy_wait() -> None:
    import_module("cupy").cuda.Device().synchronize()


def _cupy_result(case: Case, returned: Any) -> Any:
    cupy = import_module("cupy")
    if case.op in ("from_dense", "transpose"):
        return tuple(cupy.asnumpy(x) for x in (returned.indptr, returned.indices, returned.data))
    return cupy.asnumpy(returned)


def _contender(name: str, kind: str, **options: Any) -> Contender:
    settings: dict[str, Any] = {
        "runtime": "cuda",
        "ops": _ALL,
        "dtypes": frozenset({"f32", "f16", "bf16", "f64"}),
        "needs": ("torch",),
        "wait": _wait,
    }
    return Contender(name=name, kind=kind, device="cuda", **{**settings, **options})


_OURS: dict[str, Any] = {"bind": partial(_bind, _ours_call), "result": _ours_result}
_TORCH: dict[str, Any] = {"bind": partial(_bind, _torch_call), "result": _torch_result}
_BLOCK: dict[str, Any] = {
    "ops": frozenset({"linear", "spmm", "from_dense", "to_dense"}),
    "dtypes": frozenset({"f16", "bf16", "f32"}),
    "patterns": frozenset(BLOCKS),
}

CUDA = [
    _contender(
        "cuda-csr",
        "ours",
        weights=partial(_csr, lambda: import_module("gossamer").CSR),
        **_OURS,
    ),
    _contender(
        "cuda-bsr",
        "ours",
        weights=partial(_bsr, lambda: import_module("gossamer").BSR),
        **_OURS,
        **{**_BLOCK, "ops": _ALL},
    ),
    _contender(
        "cublas",
        "dense",
        weights=_dense,
        bind=partial(_bind, _dense_call),
        result=_dense_result,
        ops=frozenset((*PRODUCTS, "sddmm")),
    ),
    _contender(
        "torch-cusparse",
        "sparse",
        weights=partial(_csr, lambda: torch_module().sparse_csr_tensor),
        **_TORCH,
    ),
    _contender(
        "torch-cuda-bsr",
        "sparse",
        weights=partial(_bsr, lambda: torch_module().sparse_bsr_tensor),
        **_TORCH,
        **_BLOCK,
    ),
    _contender(
        "cupy-cusparse",
        "sparse",
        weights=_cupy_csr,
        bind=_cupy_bind,
        runtime="cupy",
        ops=_ALL - {"sddmm"},
        dtypes=frozenset({"f32", "f64"}),
        needs=("cupy",),
        result=_cupy_result,
        wait=_cupy_wait,
    ),
]


# The machine's own limits


def _seconds(call: Call, seconds: float = 0.3) -> float:
    """Time one call, as the best of rounds of about a tenth of `seconds`."""
    call()
    _wait()
    start = perf_counter()
    call()
    _wait()
    repeat = max(1, round(seconds / 10 / max(perf_counter() - start, 1e-6)))
    best = float("inf")
    for _ in range(10):
        start = perf_counter()
        for _ in range(repeat):
            call()
        _wait()
        best = min(best, (perf_counter() - start) / repeat)
    return best


def limits() -> dict[str, Any]:
    """Measure what copies and dense products of large arrays reach, in GB/s and GFLOP/s."""
    torch = torch_module()
    source = torch.empty(COPIED, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    copied = 2 * COPIED / _seconds(partial(target.copy_, source)) / 1e9
    del source, target
    gflops = {}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f64", torch.float64)):
        n = SIDE // 4 if name == "f64" else SIDE
        a = torch.randn(n, n, device=DEVICE).to(dtype)
        gflops[name] = 2 * n**3 / _seconds(partial(torch.mm, a, a)) / 1e9
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else DEVICE
    return {"device": name, "gbps": copied, "gflops": gflops}


if __name__ == "__main__":
    json.dump(limits(), sys.stdout)
    print()
