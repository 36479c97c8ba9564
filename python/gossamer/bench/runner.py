"""Drives the workers: a process for each runtime, visited in interleaved rounds."""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import IO, Any

import numpy as np

from . import pruning
from .case import Case, make_inputs, make_matrix, make_reference
from .contenders import Contender
from .machine import GpuLimits, Limits, cache_sizes, peer_environment

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


@dataclass
class Record:
    """One contender on one case. `status` is ok, wrong, failed or not installed."""

    case: Case
    contender: str
    runtime: str
    kind: str
    threads: int
    nnz: int
    status: str = "ok"
    message: str = ""
    median: float = 0.0  # seconds, as are the next three
    least: float = 0.0
    q1: float = 0.0
    q3: float = 0.0
    samples: int = 0
    repeat: int = 0
    error: float = 0.0  # largest error as a share of its bound
    layouts: str = ""
    copies: int = 1  # of the weights, where they are kept cold
    part: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether there is a time."""
        return self.status == "ok"

    def summarise(self, samples: list[float]) -> None:
        """Keep what is reported of the samples."""
        self.samples = len(samples)
        self.median, self.least = statistics.median(samples), min(samples)
        self.q1, self.q3 = (float(q) for q in np.percentile(samples, [25, 75]))


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
                [sys.executable, "-m", "gossamer.bench.worker", json.dumps(self.plugins)],
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
            self.popen.kill()
            self.popen.wait()
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
        self.folder = Path(tempfile.mkdtemp(prefix="gossamer-bench-"))
        self.count = 0
        self.matrix_of: Case | None = None
        self.start = monotonic()
        self.dropped: list[Case] = []

    def __enter__(self) -> Runner:
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
        contenders: Sequence[Contender],
        tell: Callable[[str], None] = lambda text: None,
    ) -> Iterator[list[Record]]:
        """Yield each case's records, in the order of `cases`.

        `dropped` gets those that the plan's budget left no time for.
        """
        for case in cases:
            if self.plan.budget is not None and monotonic() - self.start > self.plan.budget:
                self.dropped.append(case)
                continue
            tell(case.label)
            yield self._case(case, [c for c in contenders if c.takes(case)], tell)

    def _process(self, name: str, threads: int) -> Process:
        if name not in self.processes:
            self.processes[name] = Process(name, threads, self.plugins)
        return self.processes[name]

    def _case(
        self, case: Case, contenders: list[Contender], tell: Callable[[str], None]
    ) -> list[Record]:
        matrix_folder, inputs_folder, nnz = self._write(case)
        records = {}
        for c in contenders:
            threads = c.threads or self.plan.threads
            record = Record(case, c.name, c.runtime, c.kind, threads, nnz)
            if (package := c.missing()) is not None:
                record.status, record.message = "not installed", package
            records[c.name] = record
        ready = {c.name: c for c in contenders if records[c.name].ok}
        self._prepare(case, ready, records, matrix_folder, inputs_folder)
        ready = {name: c for name, c in ready.items() if records[name].ok}
        self._rounds(ready, records, lambda who: tell(f"{case.label}: {who}"))
        if case.cold:
            for process in self.processes.values():
                if process.popen is not None:
                    process.ask("release")
        shutil.rmtree(inputs_folder)
        return list(records.values())

    def _write(self, case: Case) -> tuple[Path, Path, int]:
        """Draw the operands once, for every worker, and compute the reference."""
        self.count += 1
        if self.matrix_of != case.matrix:
            for old in self.folder.glob("matrix*"):
                shutil.rmtree(old)
            self.matrix = make_matrix(case)
            self.matrix_of = case.matrix
            self.matrix_folder = self.folder / f"matrix{self.count}"
            self.matrix.save(self.matrix_folder)
        inputs_folder = self.folder / f"inputs{self.count}"
        inputs_folder.mkdir()
        inputs = make_inputs(case)
        for name, array in {**inputs, **make_reference(case, self.matrix, inputs)}.items():
            np.save(inputs_folder / f"{name}.npy", array)
        nnz = pruning.total_kept(case) if case.op in pruning.OPS else self.matrix.nnz
        return self.matrix_folder, inputs_folder, nnz

    def _prepare(
        self,
        case: Case,
        ready: dict[str, Contender],
        records: dict[str, Record],
        matrix: Path,
        inputs: Path,
    ) -> None:
        """Build and check: the processes side by side, each through its own contenders."""
        queues: dict[str, list[Contender]] = {}
        for c in ready.values():
            queues.setdefault(c.process, []).append(c)
        arguments = {
            "case": asdict(case),
            "matrix": str(matrix),
            "inputs": str(inputs),
            "cold_bytes": 4 * cache_sizes()["L3"],
        }
        while queues:
            turn = {name: queue.pop(0) for name, queue in queues.items()}
            queues = {name: queue for name, queue in queues.items() if queue}
            for name, c in turn.items():
                process = self._process(name, c.threads or self.plan.threads)
                process.send("prepare", contender=c.name, **arguments)
            for name, c in turn.items():
                record = records[c.name]
                try:
                    reply = self.processes[name].receive()
                except WorkerError as error:
                    reply = {"status": "failed", "message": str(error)}
                record.status, record.message = reply["status"], reply.get("message", "")
                if record.ok:
                    record.error, record.copies = reply["error"], reply["copies"]
                    record.layouts = reply.get("layouts", "")

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


def order(cases: Sequence[Case]) -> list[Case]:
    """Put cases on the same matrix side by side, so that it is drawn and packed once."""
    first = {case.matrix: i for i, case in reversed(list(enumerate(cases)))}
    return sorted(cases, key=lambda case: first[case.matrix])
