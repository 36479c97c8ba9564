"""A worker process: builds, checks and times contenders, told by JSON lines on stdin.

Thread counts are set in its environment before it starts, so no library sees another's threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .case import ITEM_BYTES, OPERANDS, Case, Matrix, check
from .contenders import Call, Contender, load_contenders

# A call that takes longer than this needs no second warm-up call; one that takes longer than
# VERY_SLOW needs none after the one whose result was checked.
SLOW = 0.02
VERY_SLOW = 1.0


class Bound:
    """A contender made ready for one case."""

    def __init__(self, calls: list[Call], wait: Callable[[], None] | None = None) -> None:
        self.wait = wait
        self.copies = len(calls)
        self.next: Iterator[Call] = itertools.cycle(calls)
        self.seconds = 0.0  # of one call, as last seen

    def run(self, repeat: int) -> float:
        """Time `repeat` calls, going on to the next copy of the weights with each."""
        calls = list(itertools.islice(self.next, repeat))
        start = perf_counter()
        for call in calls:
            call()
        if self.wait is not None:
            self.wait()
        elapsed = perf_counter() - start
        self.seconds = elapsed / repeat
        return self.seconds

    def warm(self, sample: float) -> None:
        """Touch everything, for another process has had the caches, and see how long it takes.

        Cold weights must stay so, and get by with few calls.
        """
        if self.seconds > VERY_SLOW:
            return
        if self.run(1) < SLOW:
            self.run(2)
            if self.copies == 1:
                self.run(max(1, int(0.5 * sample / self.seconds)))


class Worker:
    """Answers the commands of `Driver`."""

    def __init__(self, plugins: list[str]) -> None:
        self.contenders = load_contenders(plugins)
        self.folder = ""
        self.matrix: Matrix | None = None
        self.weights: dict[str, Any] = {}
        self.bound: dict[str, Bound] = {}

    def prepare(
        self, contender: str, case: dict[str, Any], matrix: str, inputs: str, cold_bytes: int
    ) -> dict[str, Any]:
        """Build the weights, run once, and compare the result with the reference."""
        who, what = self.contenders[contender], Case(**case)
        self.bound.pop(contender, None)
        if matrix != self.folder:
            self.weights.clear()
            self.bound.clear()
            self.matrix, self.folder = Matrix.load(Path(matrix), what), matrix
        assert self.matrix is not None
        arrays = {f.stem: np.load(f) for f in Path(inputs).glob("*.npy")}
        operands = {name: array for name, array in arrays.items() if name in OPERANDS}
        copies = [self._weights(who, what)]
        if what.cold:
            size = max(1, _bytes(who, what, self.matrix))
            count = min(max(2, -(-cold_bytes // size)), 4096)
            copies += [who.weights(what, self.matrix.copy()) for _ in range(count - 1)]
        bound = Bound([who.bind(what, weights, operands) for weights in copies], who.wait)
        start = perf_counter()
        returned = next(bound.next)()
        if who.wait is not None:
            who.wait()
        bound.seconds = perf_counter() - start
        storage = who.storage or what.dtype
        error = 0.0
        if who.kind != "limit":
            error = check(what, self.matrix, arrays, who.result(what, returned), storage)
        if not error <= 1.0:
            return {"status": "wrong", "message": f"error is {error:.3g} x its bound"}
        self.bound[contender] = bound
        reply = {"status": "ok", "error": error, "copies": bound.copies}
        layouts = getattr(copies[0], "layouts", None)
        return reply | ({"layouts": str(layouts)} if layouts is not None else {})

    def _weights(self, who: Contender, what: Case) -> Any:
        assert self.matrix is not None
        if what.cold:
            self.weights.clear()
            return who.weights(what, self.matrix)
        key = f"{who.name} {what.op}"
        if key not in self.weights:
            self.weights[key] = who.weights(what, self.matrix)
        return self.weights[key]

    def time(self, contender: str, budget: float, sample: float) -> dict[str, Any]:
        """Take samples of about `sample` seconds for about `budget` seconds, after a warm-up."""
        bound = self.bound[contender]
        gc.collect()
        gc.disable()
        bound.warm(sample)
        repeat = max(1, round(sample / bound.seconds))
        samples: list[float] = []
        end = perf_counter() + budget
        while not samples or perf_counter() < end:
            samples.append(bound.run(repeat))
        gc.enable()
        return {"samples": samples, "repeat": repeat}

    def release(self) -> dict[str, Any]:
        """Forget everything that was built."""
        self.weights.clear()
        self.bound.clear()
        self.matrix, self.folder = None, ""
        gc.collect()
        return {}

    def gpu_limits(self) -> dict[str, Any]:
        """Measure the GPU by PyTorch's copies and products."""
        found: dict[str, Any] = import_module("gossamer.bench.cuda").limits()
        return found

    def limits(self, sizes: dict[str, int], seconds: float) -> dict[str, Any]:
        """Measure the machine with gossamer's probes: GB/s by level, and GFLOP/s."""
        core = import_module("gossamer._core")
        found = {x: core.read_bandwidth(size, seconds) / 1e9 for x, size in sizes.items()}
        return found | {"fma": core.fma_peak(seconds) / 1e9}


def _bytes(who: Contender, case: Case, matrix: Matrix) -> int:
    """Count what one call reads of the weights, at the least: a packed form may hold more."""
    size = ITEM_BYTES[who.storage or case.dtype]
    if who.kind in ("dense", "low") or case.op == "from_dense":
        return case.m * case.k * size
    return matrix.nnz * (size + 1)


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Look up the versions of the packages that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _die_with_parent() -> None:
    # The parent stops idle workers; were it killed, they would stay stopped for ever.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main() -> None:
    """Serve requests until stdin closes."""
    _die_with_parent()
    # Replies go to the pipe that was stdout; whatever a library prints goes to stderr.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(json.loads(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        command = request.pop("command")
        try:
            reply = getattr(worker, command)(**request)
        except MemoryError:
            reply = {"status": "failed", "message": "out of memory"}
        except Exception as error:
            text = str(error).splitlines() or [""]
            reply = {"status": "failed", "message": f"{type(error).__name__}: {text[0][:200]}"}
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
