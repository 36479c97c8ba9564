"""What was measured, and the JSON lines that keep it."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from .machine import AnyLimits, GpuLimits, Limits
from .op import Case, Op


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


def by_case(records: Iterable[Record]) -> dict[Case, dict[str, Record]]:
    """Group the records by case, then by contender."""
    groups: dict[Case, dict[str, Record]] = {}
    for record in records:
        groups.setdefault(record.case, {})[record.contender] = record
    return groups


def best(records: Iterable[Record], kind: str) -> Record | None:
    """Find the fastest of a kind."""
    timed = [r for r in records if r.ok and r.kind == kind]
    return min(timed, key=lambda r: r.median, default=None)


# JSON lines. In those of schema 1 all ops had the parameters m, k, n, sparsity and pattern; n was
# whatever number the op had besides its shape.

_TIMES = {"median": "median_ms", "least": "min_ms", "q1": "q1_ms", "q3": "q3_ms"}
_PLAIN = [f.name for f in fields(Record) if f.name not in {"case", *_TIMES}]


def to_json(record: Record, limits: AnyLimits | None, context: dict[str, Any]) -> dict[str, Any]:
    """Flatten a record: the case's parameters, times in ms, rates, and the run's context."""
    case = record.case
    cost = case.op.work(case, record.nnz)
    times = {name: round(1e3 * getattr(record, x), 10) for x, name in _TIMES.items()}
    plain = {name: getattr(record, name) for name in _PLAIN}
    plain["error"] = float(f"{record.error:.3g}")
    derived: dict[str, Any] = {"compulsory_bytes": cost.bytes}
    if record.ok:
        derived["gflops"] = round(cost.flops / record.median / 1e9, 3)
        derived["dense_gflops"] = round(cost.dense_flops / record.median / 1e9, 3)
        derived["gbps"] = round(cost.bytes / record.median / 1e9, 3)
        if limits is not None:
            least = limits.least_seconds(case, cost)
            derived["roof_ms"] = round(1e3 * least, 10)
            derived["roof_share"] = round(least / record.median, 4)
    what = {"op": case.op.name, **case.parameters}
    how = {"dtype": case.dtype, "cold": case.cold, "seed": case.seed}
    return {"schema": 2, **what, **how, **plain, **times, **derived, **context}


def from_json(line: Mapping[str, Any], ops: Mapping[str, Op]) -> Record:
    """Undo `to_json`; KeyError where something is missing, or the op is unknown."""
    op = ops[line["op"]]
    found = {p.name: line.get(p.name, line.get(p.formerly, p.default)) for p in op.parameters}
    case = op.case(dtype=line["dtype"], cold=line["cold"], seed=line["seed"], **found)
    record = Record(case=case, **{name: line[name] for name in _PLAIN})
    for name, written in _TIMES.items():
        setattr(record, name, line[written] / 1e3)
    return record


#: Names in a line that no parameter may have.
RESERVED = frozenset(
    {"schema", "op", "dtype", "cold", "seed", *_PLAIN, *_TIMES.values(), "compulsory_bytes",
     "gflops", "dense_gflops", "gbps", "roof_ms", "roof_share", "run", "time", "command",
     "machine", "versions", "limits"}
)  # fmt: skip


def append_jsonl(
    path: Path, records: Iterable[Record], limits: AnyLimits | None, context: dict[str, Any]
) -> None:
    """Write what was tried, each record a line, so that it is in the file when this returns.

    A line that an earlier run left unfinished is ended first.
    """
    measured: dict[str, Any] = {}
    if isinstance(limits, GpuLimits):
        measured = asdict(limits)
    elif limits is not None:
        measured = {"threads": limits.threads, "gflops": limits.gflops, "gbps": limits.gbps}
    written = [
        json.dumps(to_json(record, limits, context | {"limits": measured})) + "\n"
        for record in records
        if record.status != "not installed"
    ]
    with path.open("ab") as file:
        file.write((("" if _ends_in_a_line(path) else "\n") + "".join(written)).encode())


def _ends_in_a_line(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return True
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"
    except OSError:  # it may be written and not read
        return True


def why_no_records(path: Path) -> str:
    """Say what a file holds that is neither empty nor begins with a record; else nothing."""
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            line = file.readline(1 << 20)
    except OSError:
        return ""
    if not line.strip() or line.startswith(b'{"schema"'):
        return ""
    return "holds something else than records"


@dataclass
class Run:
    """What one run measured: its records, the machine's limits, and what else its lines say."""

    context: dict[str, Any]  # time, command, machine, versions
    records: list[Record]
    limits: AnyLimits | None

    @property
    def title(self) -> str:
        """When and on what it was measured."""
        machine = self.context.get("machine", {})
        device = self.limits.device if isinstance(self.limits, GpuLimits) else machine.get("cpu")
        threads = max((r.threads for r in self.records), default=0)
        parts = [str(device), machine.get("isa", "")]
        if not isinstance(self.limits, GpuLimits):
            parts.append(f"{threads} thread" + ("s" if threads != 1 else ""))
        return ", ".join(x for x in (*parts, self.when) if x)

    @property
    def when(self) -> str:
        """The minute in which it began."""
        return str(self.context.get("time", ""))[:16].replace("T", " ")


def read_jsonl(
    paths: Sequence[Path], ops: Mapping[str, Op]
) -> tuple[list[Record], AnyLimits | None, list[str]]:
    """Read the records of earlier runs, the machine's limits, and what is told of unreadable lines.

    Of a processor's each limit is the highest that runs with as many threads as the last found: one
    that was disturbed found less.
    """
    read, told = _read_lines(paths, ops)
    return [record for record, _ in read], _limits_of([line for _, line in read]), told


def read_runs(paths: Sequence[Path], ops: Mapping[str, Op]) -> tuple[list[Run], list[str]]:
    """Read each run that left records, and what is told of unreadable lines."""
    read, told = _read_lines(paths, ops)
    runs: dict[str, list[tuple[Record, Mapping[str, Any]]]] = {}
    for record, line in read:
        names = ("run", "time", "command", "machine", "versions")
        key = json.dumps([line.get(name) for name in names], sort_keys=True)
        runs.setdefault(key, []).append((record, line))
    return [
        Run(
            {
                name: pairs[-1][1].get(name, {})
                for name in ("time", "command", "machine", "versions")
            },
            [record for record, _ in pairs],
            _limits_of([line for _, line in pairs]),
        )
        for pairs in runs.values()
    ], told


#: What a line that is no record raises; a RecursionError where it nests without end.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def _read_lines(
    paths: Sequence[Path], ops: Mapping[str, Op]
) -> tuple[list[tuple[Record, Mapping[str, Any]]], list[str]]:
    read, told = [], []
    for path in paths:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        for number, written in enumerate(text.split("\n"), 1):
            if not written.strip():
                continue
            try:
                line = json.loads(written)
                record = from_json(line, ops)
                _check(record, _limits_of([line]))
                _check_context(line)
                read.append((record, line))
            except UNREADABLE as error:
                why = _why_unreadable(written, error, ops)
                told.append(f"{path}: line {number} is left out: {why}")
    return read, told


def _check(record: Record, limits: AnyLimits | None) -> None:
    """Find what would fail later: a value of a wrong type, a time that is none."""
    for field in fields(Record)[1:]:
        value, kind = getattr(record, field.name), _KINDS[str(field.type)]
        if not isinstance(value, kind):
            raise TypeError(f"{field.name} is {value!r}")
    case = record.case
    cost = case.op.work(case, record.nnz)
    hash((case, record.contender))
    for parameter in case.op.parameters:
        parameter.text(case[parameter.name])
    if not case.label.isprintable():
        raise ValueError(f"its case is {case.label!r}")
    if record.ok and not 0 < record.least <= record.median < math.inf:
        raise ValueError(f"median_ms is {1e3 * record.median:g}")
    if limits is None:
        return
    rates = [limits.gbps, limits.gflops]
    for rate in [
        x for many in rates for x in (many.values() if isinstance(many, dict) else [many])
    ]:
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"limits have a rate of {rate}")
    if record.ok:
        limits.least_seconds(case, cost)


_KINDS: dict[str, Any] = {"str": str, "int": int, "float": (int, float)}


def _check_context(line: Mapping[str, Any]) -> None:
    """Find what of a run's context could not be printed."""
    machine, versions = line.get("machine", {}), line.get("versions", {})
    for name in ("cpu", "isa"):
        if not isinstance(machine.get(name), (str, type(None))):
            raise TypeError(f"machine has {name} {machine[name]!r}")
    versions.items()
    json.dumps(line, ensure_ascii=False).encode()  # a ValueError where it cannot be written


def _why_unreadable(written: str, error: Exception, ops: Mapping[str, Op]) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "it is not JSON, perhaps cut short"
    if isinstance(error, RecursionError):
        return "it nests without end"
    op = json.loads(written)
    if isinstance(op, dict) and "op" in op and str(op["op"]) not in ops:
        return f"op {op['op']!r} is not known, perhaps for want of --plugin"
    return f"it is not a record ({type(error).__name__}: {error})"


def _limits_of(lines: Sequence[Mapping[str, Any]]) -> AnyLimits | None:
    last = lines[-1]["limits"] if lines else None
    if not last:
        return None
    if "device" in last:
        return GpuLimits(**last)
    found = [x["limits"] for x in lines if (x["limits"] or {}).get("threads") == last["threads"]]
    gbps = {level: max(one["gbps"][level] for one in found) for level in last["gbps"]}
    peak = max(one["gflops"] for one in found)
    return Limits(last["threads"], lines[-1]["machine"]["caches"], gbps, peak)
