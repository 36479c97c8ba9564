"""Tables, geometric means and plots of measured records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .machine import AnyLimits, GpuLimits
from .op import Case, Parameter
from .records import Record, best, by_case

# A ratio is another's time over ours: above 1 is a win.
_DASH = Text("-", style="dim")


def geomean(ratios: Iterable[float]) -> float:
    """Compute the geometric mean of positive numbers."""
    logs = [math.log(r) for r in ratios]
    return math.exp(sum(logs) / len(logs))


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
    """Lay out the contenders of cases of one op that differ in numbers only.

    A peer's row shows how many times its time is ours, for each of ours; a row of ours shows the
    same against the best sparse and the best dense peer.
    """
    case = records[0].case
    ours = list(dict.fromkeys(r.contender for r in records if r.kind == "ours"))
    threads = max(r.threads for r in records)
    words = [f"{case[p.name]} {p.name}" for p in case.op.parameters if p.word]
    title = ", ".join(
        [case.op.name, case.dtype, f"{threads} threads", *words]
        + (["cold weights"] if case.cold else [])
    )
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("case", no_wrap=True)
    table.add_column("contender", no_wrap=True)
    for name in [*columns, *(f"vs {x}" for x in ours), "vs sparse", "vs dense"]:
        table.add_column(name, justify="right", no_wrap=True)
    for what, group in by_case(records).items():
        table.add_section()
        peers = [best(group.values(), kind) for kind in ("sparse", "dense")]
        for i, record in enumerate(group.values()):
            row: list[Any] = [what.brief if i == 0 else ""]
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
    cost = record.case.op.work(record.case, record.nnz)
    time = record.median
    least = limits.least_seconds(record.case, cost) if limits else math.nan
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


def _averaged(case: Case) -> tuple[Any, ...]:
    """Tell apart the cases that no mean is taken over."""
    return tuple(case[p.name] for p in _numbers(case))


def _numbers(case: Case) -> list[Parameter]:
    return [p for p in case.op.parameters if not p.shape and not p.word]


def mean_table(records: Sequence[Record]) -> Table | None:
    """Average the ratios over the shapes; None where all cases are of one shape."""
    groups = by_case(records)
    ours = list(dict.fromkeys(r.contender for r in records if r.kind == "ours" and r.ok))
    others = list(dict.fromkeys(r.contender for r in records if r.kind != "ours" and r.ok))
    alike: dict[tuple[Any, ...], list[dict[str, Record]]] = {}
    for case, group in sorted(groups.items(), key=lambda item: _averaged(item[0])):
        alike.setdefault(_averaged(case), []).append(group)
    if not ours or not others or len(groups) == len(alike):
        return None
    case = records[0].case
    table = Table(
        title=f"{case.op.name}, {case.dtype}: geometric mean over shapes of peer's time / ours",
        title_justify="left",
        box=SIMPLE,
    )
    for name in (*(p.head for p in _numbers(case)), "ours", "shapes"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in [*others, "best sparse", "best dense"]:
        table.add_column(name, justify="right", no_wrap=True)
    for values, chosen in alike.items():
        table.add_section()
        texts = [p.text(value) for p, value in zip(_numbers(case), values, strict=True)]
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
            table.add_row(*texts, mine, str(len(chosen)), *cells)
    return table


def print_tables(console: Console, records: Sequence[Record], limits: AnyLimits | None) -> None:
    """Print everything that was measured, one table for each op, type and set of words."""
    tables: dict[Any, list[Record]] = {}
    for record in records:
        case = record.case
        words = tuple(case[p.name] for p in case.op.parameters if p.word)
        tables.setdefault((case.op.name, case.dtype, words, case.cold), []).append(record)
    for alike in tables.values():
        table = case_table(alike, limits)
        if console.measure(table).minimum > console.width:
            table = case_table(alike, limits, FEW_COLUMNS)
        console.print(table)
        means = mean_table(alike)
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


def plot(records: Sequence[Record], path: Path) -> None:
    """Draw time, and the peers' time over our best, a column for each op and width.

    Drawn over is the parameter that the op names; means are taken over shapes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = by_case(r for r in records if r.ok and r.case.op.over)
    columns: dict[tuple[str, str], list[Case]] = {}
    for case in groups:
        columns.setdefault((case.op.name, _width(case)), []).append(case)
    figure, axes = pyplot.subplots(
        2, max(1, len(columns)), figsize=(3.4 * max(1, len(columns)) + 1.6, 6.4), squeeze=False,
        sharex="col",
    )  # fmt: skip
    names = list(dict.fromkeys(r.contender for r in records if r.ok))
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    for column, ((op, width), cases) in enumerate(columns.items()):
        over = next(p for p in cases[0].op.parameters if p.name == cases[0].op.over)
        for name in names:
            times, ratios = [], []
            for value in sorted({c[over.name] for c in cases}):
                at = [groups[c] for c in cases if c[over.name] == value]
                fastest = [(g, best(g.values(), "ours")) for g in at if name in g]
                times.append((value, [1e3 * g[name].median for g, _ in fastest]))
                ratios.append((value, [g[name].median / b.median for g, b in fastest if b]))
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
                points = [(x, geomean(v)) for x, v in series if v]
                if points:
                    axis.plot(*zip(*points, strict=True), **look)
        axes[0, column].set_title(f"{op} {width}".strip())
        axes[1, column].axhline(1.0, color="0.4", linewidth=0.8)
        axes[1, column].set_xlabel(over.head)
        for axis in axes[:, column]:
            axis.set_yscale("log")
            axis.xaxis.set_major_formatter(lambda x, _, text=over.text: text(x))
            axis.grid(True, which="both", alpha=0.2)
    shapes = {c.shape_text() for c in groups}
    averaged = f", geometric mean of {len(shapes)} shapes" if len(shapes) > 1 else ""
    axes[0, 0].set_ylabel(f"ms{averaged}")
    axes[1, 0].set_ylabel("time / gossamer's best")
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        handles |= {h.get_label(): h for h in axis.get_lines() if h.get_label() in names}
    figure.legend(handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=140, bbox_inches="tight")
    pyplot.close(figure)


def _width(case: Case) -> str:
    numbers = [p for p in _numbers(case) if p.name != case.op.over]
    return " ".join(p.label(case[p.name]) for p in numbers)
