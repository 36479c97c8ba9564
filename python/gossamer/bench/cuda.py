"""A GPU: its arrays, calls captured into CUDA graphs, and its own limits.

Calls are captured where that is possible, many in one graph, so that a short kernel is timed and
neither the interpreter nor the launch before it; the record's layout says which.
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
#: A graph makes so many calls at most, and no more than take so many seconds together.
MOST_CALLS, GRAPH_SECONDS = 100, 0.002


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

    def capture(self, calls: list[Call]) -> tuple[list[Call], int, str]:
        """Return graphs of many calls each, or the calls where they cannot be captured.

        A graph makes as many calls as take a few milliseconds together, so that its launch, some
        microseconds, does not count.
        """
        torch = torch_module()
        if DEVICE != "cuda":
            return calls, 1, "eager"
        for call in calls[:2]:
            call()
        _wait()
        start = perf_counter()
        calls[0]()
        _wait()
        many = max(1, min(MOST_CALLS, round(GRAPH_SECONDS / max(perf_counter() - start, 1e-6))))
        replays: list[Call] = []
        for first in range(0, len(calls), many):
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    result = calls[first]()
                    for i in range(1, many):
                        calls[(first + i) % len(calls)]()
                graph.replay()
                _wait()
            except RuntimeError:
                # A capture that failed leaves its error behind.
                with contextlib.suppress(RuntimeError):
                    _wait()
                return calls, 1, "eager"
            replays.append(partial(_replay, graph, result))
        return replays, many, "graph"

    def cold_bytes(self, processor: int) -> int:
        """Return four times the GPU's L2 cache."""
        if DEVICE != "cuda":
            return processor
        return 4 * int(torch_module().cuda.get_device_properties().L2_cache_size)


def _replay(graph: Any, result: Any) -> Any:
    graph.replay()
    return result


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


def is_missing() -> bool:
    """Tell whether there is no GPU to measure on."""
    if DEVICE != "cuda" or import_module("gossamer").info()["cuda"]["available"]:
        return False
    return TORCH.missing() is not None or not torch_module().cuda.is_available()


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
