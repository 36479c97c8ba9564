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
from time import perf_counter
from typing import Any

import numpy as np

from .case import PRODUCTS, Array, Case, Matrix, from_bits
from .contenders import Call, Contender, as_numpy
from .peers import torch_module, torch_tensor

_TENSOR_CORE = frozenset({"f16", "bf16"})
BLOCKS = {"block16": 16, "block32": 32}


def _put(stored: Array, dtype: str) -> Any:
    return torch_tensor(np.ascontiguousarray(stored), dtype).cuda()


def _wait() -> None:
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


def _products(
    multiply: Callable[[Any, Any], Any], linear: Callable[[Any, Any], Any]
) -> Callable[[Case, Held, dict[str, Array]], Call]:
    def bind(case: Case, held: Held, inputs: dict[str, Array]) -> Call:
        dense = {name: _put(array, case.dtype) for name, array in inputs.items()}
        b, w = dense["b"], held.matrix
        if case.op == "sddmm":
            sddmm = import_module("gossamer").sddmm
            return _captured(held, lambda: sddmm(dense["a"], b, w))
        op = partial(linear, b, w) if case.op == "linear" else partial(multiply, w, b)
        return _captured(held, op)

    return bind


def _on_host(case: Case, returned: Any) -> Any:
    _wait()
    return as_numpy(returned.cpu())


def _csr_parts(case: Case, matrix: Matrix) -> tuple[Any, Any, Any]:
    torch = torch_module()
    indptr, indices = (torch.from_numpy(x).cuda() for x in (matrix.indptr, matrix.indices))
    return indptr, indices, _put(matrix.values, case.dtype)


def _ours_csr(case: Case, matrix: Matrix) -> Held:
    return Held(import_module("gossamer").CSR(*_csr_parts(case, matrix), matrix.shape))


def _torch_csr(case: Case, matrix: Matrix) -> Held:
    return Held(torch_module().sparse_csr_tensor(*_csr_parts(case, matrix), matrix.shape))


def _blocks(case: Case, matrix: Matrix) -> tuple[Array, Array, Array]:
    """Return (indptr, indices, blocks) of a matrix whose pattern is made of blocks."""
    side = BLOCKS[case.pattern]
    rows, cols = matrix.shape[0] // side, matrix.shape[1] // side
    tiles = matrix.dense().reshape(rows, side, cols, side).transpose(0, 2, 1, 3)
    kept = (from_bits(tiles, case.dtype) != 0).any((2, 3))
    indptr = np.zeros(rows + 1, np.int32)
    np.cumsum(kept.sum(1), out=indptr[1:])
    return indptr, np.nonzero(kept)[1].astype(np.int32), np.ascontiguousarray(tiles[kept])


def _bsr(case: Case, matrix: Matrix, make: Callable[..., Any]) -> Held:
    torch = torch_module()
    indptr, indices, blocks = _blocks(case, matrix)
    parts = (torch.from_numpy(x).cuda() for x in (indptr, indices))
    return Held(make(*parts, _put(blocks, case.dtype), matrix.shape))


def _ours_bsr(case: Case, matrix: Matrix) -> Held:
    return _bsr(case, matrix, import_module("gossamer").BSR)


def _torch_bsr(case: Case, matrix: Matrix) -> Held:
    return _bsr(case, matrix, torch_module().sparse_bsr_tensor)


def _dense(case: Case, matrix: Matrix) -> Held:
    return Held(_put(matrix.dense(), case.dtype))


# CuPy


def _cupy_csr(case: Case, matrix: Matrix) -> Held:
    cupy, sparse = import_module("cupy"), import_module("cupyx.scipy.sparse")
    parts = (cupy.asarray(x) for x in (matrix.values, matrix.indices, matrix.indptr))
    return Held(sparse.csr_matrix(tuple(parts), shape=matrix.shape))


def _cupy_bind(case: Case, held: Held, inputs: dict[str, Array]) -> Call:
    cupy = import_module("cupy")
    w, b = held.matrix, cupy.asarray(inputs["b"])
    return (lambda: (w @ b.T).T) if case.op == "linear" else (lambda: w @ b)


def _cupy_wait() -> None:
    import_module("cupy").cuda.Device().synchronize()


def _cupy_result(case: Case, returned: Any) -> Any:
    return import_module("cupy").asnumpy(returned)


def _contender(name: str, kind: str, **options: Any) -> Contender:
    settings: dict[str, Any] = {
        "runtime": "cuda",
        "ops": frozenset({"linear", "spmm"}),
        "dtypes": frozenset({"f32", "f16", "bf16"}),
        "needs": ("torch",),
        "result": _on_host,
        "wait": _wait,
    }
    return Contender(name=name, kind=kind, device="cuda", **{**settings, **options})


def _linear(x: Any, w: Any) -> Any:
    return import_module("gossamer").linear(x, w)


def _spmm(w: Any, b: Any) -> Any:
    return import_module("gossamer").spmm(w, b)


def _torch_linear(x: Any, w: Any) -> Any:
    return torch_module().nn.functional.linear(x, w)


def _torch_product(w: Any, b: Any) -> Any:
    return w @ b


_OURS = _products(_spmm, _linear)
_TORCH = _products(_torch_product, _torch_linear)
_WITH_BLOCKS: dict[str, Any] = {"dtypes": _TENSOR_CORE, "patterns": frozenset(BLOCKS)}

CUDA = [
    _contender(
        "cuda-csr",
        "ours",
        weights=_ours_csr,
        bind=_OURS,
        ops=frozenset({"linear", "spmm", "sddmm"}),
        dtypes=frozenset({"f32", "f16", "bf16", "f64"}),
    ),
    _contender("cuda-bsr", "ours", weights=_ours_bsr, bind=_OURS, **_WITH_BLOCKS),
    _contender("cublas", "dense", weights=_dense, bind=_TORCH),
    _contender("torch-cusparse", "sparse", weights=_torch_csr, bind=_TORCH),
    _contender("torch-cuda-bsr", "sparse", weights=_torch_bsr, bind=_TORCH, **_WITH_BLOCKS),
    _contender(
        "cupy-cusparse",
        "sparse",
        weights=_cupy_csr,
        bind=_cupy_bind,
        runtime="cupy",
        ops=frozenset(PRODUCTS) - {"spmm-t"},
        dtypes=frozenset({"f32"}),
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


def limits(size: int = 1 << 30, side: int = 8192) -> dict[str, float | str]:
    """Measure what copies and dense products of large arrays reach, in GB/s and TFLOP/s."""
    torch = torch_module()
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    found: dict[str, float | str] = {"device": torch.cuda.get_device_name()}
    found["copy_gbps"] = 2 * size / _seconds(partial(target.copy_, source)) / 1e9
    for name in ("float32", "bfloat16"):
        a = torch.randn(side, side, device="cuda").to(getattr(torch, name))
        found[f"{name}_tflops"] = 2 * side**3 / _seconds(partial(torch.mm, a, a)) / 1e12
    return found


if __name__ == "__main__":
    json.dump(limits(), sys.stdout)
    print()
