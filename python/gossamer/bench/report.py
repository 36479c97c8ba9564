"""Tables, geometric means, JSONL and plots of measured records."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .case import Case, work
from .machine import GpuLimits, Limits
from .runner import Record

AnyLimits: TypeAlias = Limits | GpuLimits
# A ratio is another's time over ours: above 1 is a win.
_DASH = Text("-", style="dim")


def geomean(ratios: Iterable[float]) -> float:
    """Compute the geometric mean of positive numbers."""
    logs = [math.log(r) for r in ratios]
    return math.exp(sum(logs) / len(logs))


def by_case(records: Sequence[Record]) -> dict[Case, dict[str, Record]]:
    """Group the records by case, then by contender."""
    groups: dict[Case, dict[str, Record]] = {}
    for record in records:
        groups.setdefault(record.case, {})[record.contender] = record
    return groups


def best(records: Iterable[Record], kind: str) -> Record | None:
    """Find the fastest of a kind."""
    timed = [r for r in records if r.ok and r.kind == kind]
    return min(timed, key=lambda r: r.median, default=None)


def seconds_text(seconds: float) -> str:
    """Write a time with its unit, to three digits."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= scale or unit == "µs":
            return f"{seconds / scale:#.3g}".rstrip(".") + f" {unit}"
    return ""


def ratio_text(ratio: float) -> Text:
    """Write a ratio, a loss in red."""
    return Text(f"{ratio:.2f}x", style="green" if ratio >= 1 else "bold red")


def _number(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


COLUMNS = ("median", "IQR", "min", "GF/s", "dense GF/s", "GB/s", "roof")
FEW_COLUMNS = ("median", "IQR", "GF/s", "roof")


def case_table(
    records: Sequence[Record], limits: AnyLimits | None, columns: Sequence[str] = COLUMNS
) -> Table:
    """Lay out the contenders of cases that differ in shape, width and sparsity only.

    A peer's row shows how many times its time is ours, for each of ours; a row of ours shows the
    same against the best sparse and the best dense peer.
    """
    case = records[0].case
    ours = list(dict.fromkeys(r.contender for r in records if r.kind == "ours"))
    threads = max(r.threads for r in records)
    title = f"{case.op}, {case.dtype}, {threads} threads, {case.pattern} pattern"
    table = Table(
        title=title + (", cold weights" if case.cold else ""), title_justify="left", box=SIMPLE
    )
    table.add_column("case", no_wrap=True)
    table.add_column("contender", no_wrap=True)
    for name in [*columns, *(f"vs {x}" for x in ours), "vs sparse", "vs dense"]:
        table.add_column(name, justify="right", no_wrap=True)
    for what, group in by_case(records).items():
        table.add_section()
        peers = [best(group.values(), kind) for kind in ("sparse", "dense")]
        for i, record in enumerate(group.values()):
            row: list[Any] = [_short_label(what) if i == 0 else ""]
            row.append(Text(record.contender, style="bold" if record.kind == "ours" else ""))
            if record.ok:
                cells = _cells(record, limits)
                row += [cells[c] for c in columns]
                others = [group.get(x) if record.kind != "ours" else None for x in ours]
                row += [_versus(record.median, r) for r in others]
                others = [peer if record.kind == "ours" else None for peer in peers]
                row += [_versus(1 / record.median, r, -1) for r in others]
            else:
                row.append(failure_text(record, short=True))
            table.add_row(*row)
    return table


def _versus(factor: float, other: Record | None, power: int = 1) -> Text:
    if other is None or not other.ok:
        return _DASH
    return ratio_text(factor / other.median**power)


def _cells(record: Record, limits: AnyLimits | None) -> dict[str, Text | str]:
    cost = work(record.case, record.nnz)
    time = record.median
    least = limits.least_seconds(record.case, record.nnz) if limits else math.nan
    return {
        "median": seconds_text(time),
        "IQR": f"{100 * (record.q3 - record.q1) / time:.0f}%",
        "min": seconds_text(record.least),
        "GF/s": _number(cost.flops / time / 1e9) if cost.flops else _DASH,
        "dense GF/s": _number(cost.dense_flops / time / 1e9) if cost.flops else _DASH,
        "GB/s": _number(cost.bytes / time / 1e9),
        "roof": f"{100 * least / time:.0f}%" if limits else _DASH,
    }


def failure_text(record: Record, *, short: bool = False) -> Text:
    """Write why there is no time: loudly where the result was wrong."""
    loud = record.status == "wrong"
    text = "WRONG RESULT" if loud else record.status
    style = {"wrong": "bold white on red", "failed": "yellow"}.get(record.status, "dim")
    return Text(text if short else f"{text}: {record.message}", style=style)


def print_failures(console: Console, records: Sequence[Record]) -> None:
    """Print each contender's failures once, with the first case of each."""
    seen = set()
    for record in records:
        key = (record.contender, record.message)
        if not record.ok and key not in seen:
            seen.add(key)
            where = "" if record.status == "not installed" else f" ({record.case.label})"
            console.print(Text(f"{record.contender}: "), failure_text(record), where, sep="")


def _short_label(case: Case) -> str:
    width = f" {'D' if case.op == 'sddmm' else 'N'}={case.n}" if case.n else ""
    return f"{case.m}x{case.k}{width} {100 * case.sparsity:g}%"


def mean_table(records: Sequence[Record]) -> Table | None:
    """Average the ratios over the shapes, for each width and sparsity; None for a single shape."""
    groups = by_case(records)
    ours = list(dict.fromkeys(r.contender for r in records if r.kind == "ours" and r.ok))
    others = list(dict.fromkeys(r.contender for r in records if r.kind != "ours" and r.ok))
    keys = sorted({(c.n, c.sparsity) for c in groups})
    if not ours or not others or len(groups) == len(keys):
        return None
    case = records[0].case
    table = Table(
        title=f"{case.op}, {case.dtype}: geometric mean over shapes of peer's time / ours",
        title_justify="left",
        box=SIMPLE,
    )
    for name in ("N" if case.op != "sddmm" else "D", "sparsity", "ours", "shapes"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in [*others, "best sparse", "best dense"]:
        table.add_column(name, justify="right", no_wrap=True)
    for n, sparsity in keys:
        table.add_section()
        chosen = [g for c, g in groups.items() if (c.n, c.sparsity) == (n, sparsity)]
        for mine in ours:
            cells = []
            for other in [*others, "sparse", "dense"]:
                ratios = []
                for group in chosen:
                    peer = group.get(other) if other in others else best(group.values(), other)
                    own = group.get(mine)
                    if peer is not None and own is not None and peer.ok and own.ok:
                        ratios.append(peer.median / own.median)
                cells.append(ratio_text(geomean(ratios)) if ratios else _DASH)
            table.add_row(
                str(n) if n else "", f"{100 * sparsity:g}%", mine, str(len(chosen)), *cells
            )
    return table


def print_tables(console: Console, records: Sequence[Record], limits: AnyLimits | None) -> None:
    """Print everything that was measured, one table for each op, type and kind of pattern."""
    families: dict[Any, list[Record]] = {}
    for record in records:
        case = record.case
        families.setdefault((case.op, case.dtype, case.pattern, case.cold), []).append(record)
    for family in families.values():
        table = case_table(family, limits)
        if console.measure(table).minimum > console.width:
            table = case_table(family, limits, FEW_COLUMNS)
        console.print(table)
        means = mean_table(family)
        if means is not None:
            console.print(means)
    print_failures(console, records)


def limits_text(limits: AnyLimits) -> str:
    """Write the machine's limits in one line."""
    if isinstance(limits, GpuLimits):
        peaks = ", ".join(f"{name} {value:.0f}" for name, value in limits.gflops.items())
        return (
            f"limits of {limits.device}: dense products GFLOP/s: {peaks}; copies {limits.gbps:.0f} "
            "GB/s"
        )
    levels = ", ".join(f"{name} {value:.0f}" for name, value in limits.gbps.items())
    return (
        f"limits of {limits.threads} threads: {limits.gflops:.0f} GFLOP/s (f32); "
        f"read GB/s: {levels}"
    )


def to_json(record: Record, limits: AnyLimits | None, context: dict[str, Any]) -> dict[str, Any]:
    """Flatten a record: the case's fields, times in ms, derived rates, and the run's context."""
    cost = work(record.case, record.nnz)
    fields = {k: v for k, v in asdict(record).items() if k != "case"}
    for name in ("median", "least", "q1", "q3"):
        fields[f"{'min' if name == 'least' else name}_ms"] = round(1e3 * fields.pop(name), 7)
    fields["error"] = float(f"{record.error:.3g}")
    derived: dict[str, Any] = {"compulsory_bytes": cost.bytes}
    if record.ok:
        derived["gflops"] = round(cost.flops / record.median / 1e9, 3)
        derived["dense_gflops"] = round(cost.dense_flops / record.median / 1e9, 3)
        derived["gbps"] = round(cost.bytes / record.median / 1e9, 3)
        if limits is not None:
            least = limits.least_seconds(record.case, record.nnz)
            derived["roof_ms"] = round(1e3 * least, 7)
            derived["roof_share"] = round(least / record.median, 4)
    return {"schema": 1, **asdict(record.case), **fields, **derived, **context}


def from_json(line: dict[str, Any]) -> Record:
    """Undo `to_json`."""
    case = Case(**{name: line[name] for name in Case.__dataclass_fields__})
    names = set(Record.__dataclass_fields__) - {"case", "median", "least", "q1", "q3"}
    record = Record(case=case, **{name: line[name] for name in names})
    record.median, record.least, record.q1, record.q3 = (
        line[f"{name}_ms"] / 1e3 for name in ("median", "min", "q1", "q3")
    )
    return record


def read_jsonl(paths: Sequence[Path]) -> tuple[list[Record], AnyLimits | None]:
    """Read the records of earlier runs, and the machine's limits.

    Of a processor's each is the highest that runs with as many threads as the last found: one
    that was disturbed found less.
    """
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    limits: AnyLimits | None = None
    if lines and "device" in lines[-1]["limits"]:
        limits = GpuLimits(**lines[-1]["limits"])
    elif lines and lines[-1]["limits"]:
        last, caches = lines[-1]["limits"], lines[-1]["machine"]["caches"]
        found = [
            x["limits"] for x in lines if (x["limits"] or {}).get("threads") == last["threads"]
        ]
        gbps = {level: max(one["gbps"][level] for one in found) for level in last["gbps"]}
        limits = Limits(last["threads"], caches, gbps, max(one["gflops"] for one in found))
    return [from_json(line) for line in lines], limits


def plot(records: Sequence[Record], path: Path) -> None:
    """Draw time over sparsity, and the peers' time over our best, a column for each width."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = by_case([r for r in records if r.ok])
    widths = sorted({(c.op, c.n) for c in groups})
    figure, axes = pyplot.subplots(
        2, len(widths), figsize=(3.4 * len(widths) + 1.6, 6.4), squeeze=False, sharex=True
    )
    names = list(dict.fromkeys(r.contender for r in records if r.ok))
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    for column, (op, n) in enumerate(widths):
        cases = [c for c in groups if (c.op, c.n) == (op, n)]
        sparsities = sorted({c.sparsity for c in cases})
        for name in names:
            times, ratios = [], []
            for s in sparsities:
                at = [groups[c] for c in cases if c.sparsity == s]
                fastest = [(g, best(g.values(), "ours")) for g in at if name in g]
                times.append((s, [1e3 * g[name].median for g, _ in fastest]))
                ratios.append((s, [g[name].median / b.median for g, b in fastest if b]))
            kind = next(r.kind for r in records if r.contender == name)
            look: dict[str, Any] = {
                "color": colours[name],
                "marker": "o",
                "markersize": 3,
                "linewidth": 2.2 if kind == "ours" else 1.2,
                "linestyle": {"dense": "--", "low": ":"}.get(kind, "-"),
                "label": name,
            }
            for axis, series in zip(axes[:, column], (times, ratios), strict=True):
                points = [(100 * s, geomean(v)) for s, v in series if v]
                if points:
                    axis.plot(*zip(*points, strict=True), **look)
        axes[0, column].set_title(f"{op} {'D' if op == 'sddmm' else 'N'} = {n}" if n else op)
        axes[1, column].axhline(1.0, color="0.4", linewidth=0.8)
        axes[1, column].set_xlabel("sparsity, %")
        for axis in axes[:, column]:
            axis.set_yscale("log")
            axis.grid(True, which="both", alpha=0.2)
    shapes = {(c.m, c.k) for c in groups}
    over = f", geometric mean of {len(shapes)} shapes" if len(shapes) > 1 else ""
    axes[0, 0].set_ylabel(f"ms{over}")
    axes[1, 0].set_ylabel("time / gossamer's best")
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        handles |= {h.get_label(): h for h in axis.get_lines() if h.get_label() in names}
    figure.legend(handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=140, bbox_inches="tight")
    pyplot.close(figure)
