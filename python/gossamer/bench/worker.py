"""A worker process: builds, checks and times contenders, told by JSON lines on stdin.

Thread counts are set in its environment before it starts, so no library sees another's threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import json
import math
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from importlib import import_module, metadata
from pathlib import Path
from time import perf_counter
from typing import Any

from .families import OPS, load_plugins
from .libraries import Call
from .machine import memory_size
from .op import Case, Contender

# A call that takes longer than this needs no second warm-up call; one that takes longer than
# VERY_SLOW needs none after the one whose result was checked.
SLOW = 0.02
VERY_SLOW = 1.0


class Bound:
    """A contender made ready for one case."""

    def __init__(self, calls: list[Call], each: int, turns: int, wait: Callable[[], None]) -> None:
        self.wait = wait
        self.turns = turns  # of copies of the weights and inputs
        self.each = each  # calls that one of `calls` makes
        self.next: Iterator[Call] = itertools.cycle(calls)
        self.seconds = 0.0  # of one call, as last seen

    def run(self, repeat: int) -> float:
        """Time at least `repeat` calls, going on to the next copy of the weights with each."""
        calls = list(itertools.islice(self.next, math.ceil(repeat / self.each)))
        start = perf_counter()
        for call in calls:
            call()
        self.wait()
        elapsed = perf_counter() - start
        self.seconds = elapsed / (len(calls) * self.each)
        return self.seconds

    def warm(self, sample: float) -> None:
        """Touch everything, for another process has had the caches, and see how long it takes.

        Cold weights must stay so, and get by with few calls.
        """
        if self.seconds > VERY_SLOW:
            return
        if self.run(1) < SLOW:
            self.run(2)
            if self.turns == 1:
                self.run(max(1, int(0.5 * sample / self.seconds)))


class Worker:
    """Answers the commands of `Runner`."""

    def __init__(self) -> None:
        self.file = ""
        self.weights: Any = None
        self.held: dict[tuple[str, str], Any] = {}
        self.bound: dict[str, Bound] = {}

    def prepare(
        self,
        *,
        contender: str,
        op: str,
        case: dict[str, Any],
        weights: str,
        operands: str,
        cold_bytes: int,
    ) -> dict[str, Any]:
        """Build what is held, run once, and compare the result with the reference."""
        what = OPS[op].case(**case)
        who = what.op.contenders[contender]
        self.bound.pop(contender, None)
        if weights != self.file:
            self.release()
            self.weights, self.file = pickle.loads(Path(weights).read_bytes()), weights
        inputs, reference = pickle.loads(Path(operands).read_bytes())
        turns, count = [inputs], 1
        if what.cold:
            nnz = what.op.nnz(what, self.weights)
            size = max(1.0, what.op.held_bytes(what, who, nnz))
            turns = what.op.turns(what, inputs)
            read = who.library.cold_bytes(cold_bytes) / (size * len(turns))
            count = min(max(2, math.ceil(read)), 4096)
            if (needed := count * Path(weights).stat().st_size) > (memory := memory_size()) / 4:
                return {
                    "status": "failed",
                    "message": f"{count} copies of the weights, to be cold, would take "
                    f"{needed / 1e9:.1f} GB of {memory / 1e9:.1f}",
                }
        copies = [self._hold(who, what)]
        copies += [who.hold(what, deepcopy(self.weights)) for _ in range(count - 1)]
        calls = [who.bind(what, held, x) for held in copies for x in turns]
        captured, each, how = who.library.capture(calls)
        bound = Bound(captured, each, len(calls), who.library.wait)
        start = perf_counter()
        returned = next(bound.next)()
        bound.wait()
        bound.seconds = (perf_counter() - start) / each
        if who.kind == "ours" and what.cold:
            for call in calls[1:]:  # a packed matrix builds a layout when it first needs it
                call()
        error = 0.0
        if who.kind != "limit":
            result = who.result(what, returned)
            error = what.op.error(what, self.weights, reference, result, who.storage or what.dtype)
        if not error <= 1.0:
            return {"status": "wrong", "message": f"error is {error:.3g} x its bound"}
        self.bound[contender] = bound
        layouts = getattr(copies[0], "layouts", how)
        return {"status": "ok", "error": error, "copies": len(copies), "layouts": str(layouts)}

    def _hold(self, who: Contender, what: Case) -> Any:
        if what.cold:
            self.held.clear()
            return who.hold(what, self.weights)
        key = who.name, what.op.name
        if key not in self.held:
            self.held[key] = who.hold(what, self.weights)
        return self.held[key]

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
        self.held.clear()
        self.bound.clear()
        self.weights, self.file = None, ""
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


def main(plugins: Sequence[str]) -> None:
    """Serve requests until stdin closes."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    # Replies go to the pipe that was stdout; whatever a library prints goes to stderr.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    load_plugins(plugins)
    worker = Worker()
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
