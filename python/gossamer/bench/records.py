"""What was measured, and the JSON lines that keep it."""

from __future__ import annotations

import json
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
    times = {name: round(1e3 * getattr(record, x), 7) for x, name in _TIMES.items()}
    plain = {name: getattr(record, name) for name in _PLAIN}
    plain["error"] = float(f"{record.error:.3g}")
    derived: dict[str, Any] = {"compulsory_bytes": cost.bytes}
    if record.ok:
        derived["gflops"] = round(cost.flops / record.median / 1e9, 3)
        derived["dense_gflops"] = round(cost.dense_flops / record.median / 1e9, 3)
        derived["gbps"] = round(cost.bytes / record.median / 1e9, 3)
        if limits is not None:
            least = limits.least_seconds(case, cost)
            derived["roof_ms"] = round(1e3 * least, 7)
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
     "gflops", "dense_gflops", "gbps", "roof_ms", "roof_share", "time", "command", "machine",
     "versions", "limits"}
)  # fmt: skip


def append_jsonl(
    path: Path, records: Iterable[Record], limits: AnyLimits | None, context: dict[str, Any]
) -> None:
    """Write what was tried."""
    measured: dict[str, Any] = {}
    if isinstance(limits, GpuLimits):
        measured = asdict(limits)
    elif limits is not None:
        measured = {"threads": limits.threads, "gflops": limits.gflops, "gbps": limits.gbps}
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            if record.status != "not installed":
                line = to_json(record, limits, context | {"limits": measured})
                file.write(json.dumps(line) + "\n")


def read_jsonl(
    paths: Sequence[Path], ops: Mapping[str, Op]
) -> tuple[list[Record], AnyLimits | None, list[str]]:
    """Read the records of earlier runs, the machine's limits, and what is told of unreadable lines.

    Of a processor's each limit is the highest that runs with as many threads as the last found: one
    that was disturbed found less.
    """
    records, lines, told = [], [], []
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, written in enumerate(text.splitlines(), 1):
            try:
                line = json.loads(written)
                record = from_json(line, ops)
                lines.append({"limits": line["limits"], "caches": line["machine"]["caches"]})
                records.append(record)
            except (KeyError, TypeError, ValueError) as error:
                why = _why_unreadable(written, error, ops)
                told.append(f"{path}: line {number} is left out: {why}")
    return records, _limits_of(lines), told


def _why_unreadable(written: str, error: Exception, ops: Mapping[str, Op]) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "it is not JSON, perhaps cut short"
    op = json.loads(written)
    if isinstance(op, dict) and op.get("op", "") not in ops and "op" in op:
        return f"op {op['op']!r} is not known, perhaps for want of --plugin"
    return f"it is not a record ({type(error).__name__}: {error})"


def _limits_of(lines: list[dict[str, Any]]) -> AnyLimits | None:
    last = lines[-1]["limits"] if lines else None
    if not last:
        return None
    if "device" in last:
        return GpuLimits(**last)
    found = [x["limits"] for x in lines if (x["limits"] or {}).get("threads") == last["threads"]]
    gbps = {level: max(one["gbps"][level] for one in found) for level in last["gbps"]}
    peak = max(one["gflops"] for one in found)
    return Limits(last["threads"], lines[-1]["caches"], gbps, peak)
