"""A GPU: its arrays, calls captured into CUDA graphs, and its own limits.

A call is captured where that is possible, so that a short kernel is timed and not the interpreter
before it; the record's layout says which.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from time import perf_counter
from typing import Any

import numpy as np

from .dtypes import Array
from .libraries import TORCH, Call, Library, torch_module

#: Where PyTorch's tensors are. Tests put the CPU here, for a run without a GPU.
DEVICE = "cuda"
#: Bytes that are copied, and rows of the matrices that are multiplied, to measure the limits.
COPIED, SIDE = 1 << 30, 8192


@dataclass(frozen=True)
class CudaLibrary(Library):
    """PyTorch's tensors on a GPU, for gossamer too."""

    def put(self, stored: Array, dtype: str) -> Any:
        """Copy stored values to the GPU."""
        return TORCH.put(np.ascontiguousarray(stored), dtype).to(DEVICE)

    def put_index(self, array: Array) -> Any:
        """Copy integers to the GPU."""
        return TORCH.put_index(array).to(DEVICE)

    def wait(self) -> None:
        """Wait for the GPU."""
        _wait()

    def capture(self, call: Call) -> tuple[Call, str]:
        """Return a replay of the call, or the call itself where it cannot be captured."""
        torch = torch_module()
        if DEVICE != "cuda":
            return call, "eager"
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
            return call, "eager"

        def replay() -> Any:
            graph.replay()
            return result

        return replay, "graph"


@dataclass(frozen=True)
class CupyLibrary(Library):
    """CuPy's arrays."""

    def put(self, stored: Array, dtype: str) -> Any:
        """Copy stored values to the GPU."""
        return import_module("cupy").asarray(stored)

    def put_index(self, array: Array) -> Any:
        """Copy integers to the GPU."""
        return import_module("cupy").asarray(array)

    def wait(self) -> None:
        """Wait for the GPU."""
        import_module("cupy").cuda.Device().synchronize()


CUDA = CudaLibrary("cuda", needs=("torch",), device="cuda")
CUPY = CupyLibrary("cupy", needs=("cupy",), device="cuda")


def _wait() -> None:
    if DEVICE == "cuda":
        torch_module().cuda.synchronize()


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
