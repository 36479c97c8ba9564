"""Drives the workers: a process for each runtime, visited in interleaved rounds."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from time import monotonic
from types import FrameType, TracebackType
from typing import IO, Any

from .machine import GpuLimits, Limits, cache_sizes, peer_environment
from .op import Case, Contender
from .records import Record

# A call that is slower than its share of a round is timed in so many rounds only: fewer where it
# takes more than a second.
FEW_ROUNDS, FEWEST_ROUNDS = 3, 2
REPLY_SECONDS = 300.0


class WorkerError(RuntimeError):
    """A worker died or did not answer."""


@dataclass
class Plan:
    """How long to measure: rounds, and seconds for each contender in all of them."""

    threads: int
    rounds: int = 5
    seconds: float = 0.25
    sample: float = 0.002
    budget: float | None = None  # seconds after which no case is begun


# Starts a worker with the gossamer of this process, and without the current folder in its path: a
# types.py there must not take the place of the standard library's.
_START = """
import sys
sys.path[:] = [folder for folder in sys.path if folder]
from importlib import util
from json import loads
options = loads(sys.argv[1])
file, path = options["file"], options["path"]
spec = util.spec_from_file_location("gossamer", file, submodule_search_locations=path)
sys.modules["gossamer"] = module = util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.path += [folder for folder in options["folders"] if folder not in sys.path]
from gossamer.bench.worker import main
main(options["plugins"])
"""


def _start_command(plugins: Sequence[str]) -> list[str]:
    gossamer = import_module("gossamer")
    options = {
        "file": gossamer.__file__,
        "path": list(gossamer.__path__),
        "folders": [_folder_of(name) for name in plugins],
        "plugins": list(plugins),
    }
    return [sys.executable, "-c", _START, json.dumps(options)]


def _folder_of(module: str) -> str:
    """Find the folder that a module was imported from."""
    file = Path(import_module(module).__file__ or "").resolve()
    package = file.parent if file.name == "__init__.py" else file
    return str(package.parents[module.count(".")])


def _scratch() -> IO[str]:
    return tempfile.TemporaryFile("w+")


@dataclass
class Process:
    """A worker process, stopped whenever it is not spoken to.

    OpenMP runtimes spin for up to 200 ms after a call; a stopped process cannot disturb the next.
    """

    name: str
    threads: int
    plugins: list[str]
    popen: subprocess.Popen[str] | None = None
    errors: IO[str] = field(default_factory=_scratch)

    def send(self, command: str, **arguments: Any) -> None:
        """Wake the worker and hand it a request."""
        if self.popen is None:
            self.popen = subprocess.Popen(
                _start_command(self.plugins),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                bufsize=1,
                env=peer_environment(self.threads),
            )
        assert self.popen.stdin is not None
        self.popen.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self.popen.stdin.write(json.dumps({"command": command} | arguments) + "\n")

    def receive(self) -> dict[str, Any]:
        """Wait for the reply, then stop the worker."""
        assert self.popen is not None
        assert self.popen.stdout is not None
        ready, _, _ = select.select([self.popen.stdout], [], [], REPLY_SECONDS)
        line = self.popen.stdout.readline() if ready else ""
        if not line:
            self.close()
            self.errors.seek(0)
            tail = [text for text in self.errors.read().splitlines() if text.strip()][-1:]
            reason = "died" if ready else f"gave no answer in {REPLY_SECONDS:g} s"
            raise WorkerError(f"worker {reason}" + (f": {tail[0][:160]}" if tail else ""))
        self.popen.send_signal(signal.SIGSTOP)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send and receive."""
        self.send(command, **arguments)
        return self.receive()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self.popen is not None:
            # Not by Popen.kill() and wait(): where the signal that ends the run came while Popen
            # held its lock, nobody releases that, and they would wait for it for ever.
            if self.popen.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.popen.pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(self.popen.pid, 0)
                self.popen.returncode = -signal.SIGKILL
            for pipe in (self.popen.stdin, self.popen.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self.popen = None


class Runner:
    """Measures cases; a context manager, for the processes and the folder of operands."""

    def __init__(self, plan: Plan, plugins: Sequence[str] = ()) -> None:
        self.plan = plan
        self.plugins = list(plugins)
        self.processes: dict[str, Process] = {}
        self.count = 0
        self.weights_key: Hashable = None
        self.start = monotonic()
        self.dropped: list[Case] = []

    def __enter__(self) -> Runner:
        self.signals = _end_on_signals()
        self.folder = Path(tempfile.mkdtemp(prefix="gossamer-bench-"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes.values():
            process.close()
            process.errors.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        for number, handler in self.signals.items():
            signal.signal(number, handler)

    def limits(self, seconds: float = 0.15) -> Limits | None:
        """Measure the machine; None where the library cannot be loaded."""
        threads = self.plan.threads
        sizes = Limits.probe_sizes(threads)
        process = self._process("gossamer", threads)
        try:
            found = process.ask("limits", sizes=sizes, seconds=seconds)
        except WorkerError:
            return None
        if "fma" not in found:
            return None
        return Limits(threads, cache_sizes(), {x: found[x] for x in sizes}, found["fma"])

    def gpu_limits(self) -> GpuLimits | None:
        """Measure the GPU; None where PyTorch finds none."""
        try:
            found = self._process("cuda", self.plan.threads).ask("gpu_limits")
        except WorkerError:
            return None
        return GpuLimits(**found) if "gbps" in found else None

    def measure(
        self,
        cases: Sequence[Case],
        names: Sequence[str],
        tell: Callable[[str], None] = lambda text: None,
    ) -> Iterator[list[Record]]:
        """Yield each case's records, of those of the named contenders that take it.

        `dropped` gets the cases that the plan's budget left no time for.
        """
        for case in cases:
            if self.plan.budget is not None and monotonic() - self.start > self.plan.budget:
                self.dropped.append(case)
                continue
            tell(case.label)
            known = [case.op.contenders[name] for name in names if name in case.op.contenders]
            yield self._case(case, [c for c in known if c.takes(case)], tell)

    def _process(self, name: str, threads: int) -> Process:
        if name not in self.processes:
            self.processes[name] = Process(name, threads, self.plugins)
        return self.processes[name]

    def _case(
        self, case: Case, contenders: list[Contender], tell: Callable[[str], None]
    ) -> list[Record]:
        records = {}
        for c in contenders:
            threads = c.threads or self.plan.threads
            record = Record(case, c.name, c.library.process, c.kind, threads, nnz=0)
            if (package := c.library.missing()) is not None:
                record.status, record.message = "not installed", package
            records[c.name] = record
        try:
            weights, operands, nnz = self._write(case)
        except MemoryError:
            for record in records.values():
                record.status, record.message = "failed", "out of memory for the operands"
            return list(records.values())
        for record in records.values():
            record.nnz = nnz
        ready = {c.name: c for c in contenders if records[c.name].ok}
        self._prepare(case, ready, records, weights, operands)
        ready = {name: c for name, c in ready.items() if records[name].ok}
        self._rounds(ready, records, lambda who: tell(f"{case.label}: {who}"))
        if case.cold:
            for process in self.processes.values():
                if process.popen is not None:
                    process.ask("release")
        operands.unlink()
        return list(records.values())

    def _write(self, case: Case) -> tuple[Path, Path, int]:
        """Draw the operands once, for every worker, and compute the reference."""
        self.count += 1
        key = case.op.weights_key(case)
        if self.weights_key != key:
            for old in self.folder.glob("weights*"):
                old.unlink()
            self.weights_key = None  # should there be no room for the next
            self.weights = case.op.weights(case)
            self.weights_file = self.folder / f"weights{self.count}"
            self.weights_file.write_bytes(pickle.dumps(self.weights, protocol=5))
            self.weights_key = key
        inputs = case.op.inputs(case)
        operands = inputs, case.op.reference(case, self.weights, inputs)
        operands_file = self.folder / f"operands{self.count}"
        operands_file.write_bytes(pickle.dumps(operands, protocol=5))
        return self.weights_file, operands_file, case.op.nnz(case, self.weights)

    def _prepare(
        self,
        case: Case,
        ready: dict[str, Contender],
        records: dict[str, Record],
        weights: Path,
        operands: Path,
    ) -> None:
        """Build and check: the processes side by side, each through its own contenders."""
        queues: dict[str, list[Contender]] = {}
        for c in ready.values():
            queues.setdefault(c.process, []).append(c)
        arguments = {
            "op": case.op.name,
            "case": {
                "dtype": case.dtype, "cold": case.cold, "seed": case.seed, **case.parameters,
            },
            "weights": str(weights),
            "operands": str(operands),
            "cold_bytes": 4 * cache_sizes()["L3"],
        }  # fmt: skip
        while queues:
            turn = {name: queue.pop(0) for name, queue in queues.items()}
            queues = {name: queue for name, queue in queues.items() if queue}
            for name, c in turn.items():
                process = self._process(name, c.threads or self.plan.threads)
                process.send("prepare", contender=c.name, **arguments)
            for name, c in turn.items():
                record, rest = records[c.name], queues.get(name, [])
                try:
                    reply = self.processes[name].receive()
                except WorkerError as error:
                    reply = {"status": "failed", "message": str(error)}
                    # A dead process takes every contender that it held with it.
                    for other in (x for x in ready.values() if x.process == name and x not in rest):
                        records[other.name].status = "failed"
                        records[other.name].message = reply["message"]
                record.status, record.message = reply["status"], reply.get("message", "")
                if record.ok:
                    record.error, record.copies = reply["error"], reply["copies"]
                    record.layouts = reply["layouts"]

    def _rounds(
        self,
        ready: dict[str, Contender],
        records: dict[str, Record],
        tell: Callable[[str], None],
    ) -> None:
        plan = self.plan
        share = plan.seconds / plan.rounds
        samples: dict[str, list[float]] = {name: [] for name in ready}
        start = monotonic()
        for turn in range(plan.rounds):
            names = list(samples)
            first = turn % max(1, len(names))
            for name in names[first:] + names[:first]:
                if turn >= FEWEST_ROUNDS:
                    fastest = min(samples[name])
                    if fastest > 1.0 or (turn >= FEW_ROUNDS and fastest > share):
                        continue
                if monotonic() - start > 1.0:
                    tell(name)
                process = self.processes[ready[name].process]
                try:
                    reply = process.ask("time", contender=name, budget=share, sample=plan.sample)
                except WorkerError as error:
                    reply = {"status": "failed", "message": str(error)}
                if "samples" not in reply:
                    # A dead process takes every contender that it held with it.
                    for other in [x for x in samples if ready[x].process == process.name]:
                        if other == name or process.popen is None:
                            records[other].status = "failed"
                            records[other].message = reply["message"]
                            del samples[other]
                    continue
                samples[name] += reply["samples"]
                records[name].repeat = reply["repeat"]
        for name, times in samples.items():
            records[name].summarise(times)


def _end_on_signals() -> dict[int, Any]:
    """Let SIGTERM and SIGHUP unwind the stack, so that nothing is left behind.

    Returns the handlers that were there. What was ignored (by nohup, say) is so still.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}

    def end(number: int, frame: FrameType | None) -> None:
        for other in replaced:
            signal.signal(other, signal.SIG_IGN)  # a second one must not end the clearing up
        raise SystemExit(128 + number)

    wanted = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    replaced = {int(x): x for x in wanted if x and signal.getsignal(x) == signal.SIG_DFL}
    return {number: signal.signal(x, end) for number, x in replaced.items()}
