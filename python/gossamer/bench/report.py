"""Tables, geometric means and a summary of measured records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from .grid import Cell, Column, Grid
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
    text = (
        f"{ratio:.2f}x" if ratio < 9.995 else f"{ratio:.1f}x" if ratio < 99.95 else f"{ratio:.0f}x"
    )
    return Text(text, style="green" if ratio >= 1 else "bold red")


def _number(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


#: What is told of a time, and which of it goes first where the table is too wide (the highest).
MEASURES = {"median": 0, "IQR": 3, "roof": 4, "GF/s": 5, "GB/s": 7, "dense GF/s": 8, "min": 9}
VERSUS_PEERS, VERSUS_BEST, VERSUS_OTHERS = 1, 2, 6


def case_grid(records: Sequence[Record], limits: AnyLimits | None) -> Grid:
    """Lay out the contenders of cases of one op that differ in numbers only.

    A peer's row shows how many times its time is ours, for each of ours; a row of ours shows the
    same against the best sparse and the best dense peer, or the best that selects.
    """
    case = records[0].case
    ours = list(dict.fromkeys(r.contender for r in records if r.kind == "ours"))
    groups = by_case(records)
    means = {name: geomean([g[name].median for g in groups.values() if _timed(g, name)] or [1.0])
             for name in ours}  # fmt: skip
    main = min(ours, key=lambda name: means[name], default="")
    grid = Grid(
        table_title(records),
        [
            Column("case", left=True, wrap=True),
            *(Column(name, rank) for name, rank in MEASURES.items()),
            *(Column(f"vs {x}", VERSUS_BEST if x == main else VERSUS_OTHERS) for x in ours),
            Column("vs sparse", VERSUS_PEERS),
            Column("vs dense", VERSUS_PEERS),
            Column("vs peer", VERSUS_PEERS),
        ],
    )
    for what, group in groups.items():
        grid.rows.append([what.brief or case.op.name])
        peers = [best(group.values(), kind) for kind in ("sparse", "dense", "selection")]
        for record in group.values():
            style = "bold" if record.kind == "ours" else ""
            row: list[Cell] = [Text(f"  {record.contender}", style=style)]
            if record.ok:
                cells = _cells(record, limits)
                row += [cells[name] for name in MEASURES]
                others = [group.get(x) if record.kind != "ours" else None for x in ours]
                row += [_versus(record.median, r) for r in others]
                others = [peer if record.kind == "ours" else None for peer in peers]
                row += [_versus(1 / record.median, r, -1) for r in others]
            else:
                row.append(failure_text(record, short=True))
            grid.rows.append(row)
    return grid


def threads_text(count: int) -> str:
    """Write a number of threads."""
    return f"{count} thread" + ("s" if count != 1 else "")


def table_title(records: Sequence[Record]) -> str:
    """Name what the records of a table have in common."""
    case, threads = records[0].case, max(r.threads for r in records)
    words = [f"{case[p.name]} {p.name}" for p in case.op.parameters if p.word]
    cold = ["cold weights"] if case.cold else []
    return ", ".join([case.op.name, case.dtype, threads_text(threads), *words, *cold])


def _timed(group: Mapping[str, Record], name: str) -> bool:
    return name in group and group[name].ok


def _versus(factor: float, other: Record | None, power: int = 1) -> Text:
    if other is None or not other.ok:
        return _DASH
    return ratio_text(factor / other.median**power)


def _cells(record: Record, limits: AnyLimits | None) -> dict[str, Cell]:
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


def failures(records: Sequence[Record]) -> list[Text]:
    """Name each contender's failures once, with the first case of each."""
    seen, lines = set(), []
    for record in records:
        key = (record.contender, record.message)
        if not record.ok and key not in seen:
            seen.add(key)
            where = "" if record.status == "not installed" else f" ({record.case.label})"
            lines.append(Text.assemble(f"{record.contender}: ", failure_text(record), where))
    return lines


def print_failures(console: Console, records: Sequence[Record]) -> None:
    """Print each contender's failures once."""
    for line in failures(records):
        console.print(line)


def _averaged(case: Case) -> tuple[Any, ...]:
    """Tell apart the cases that no mean is taken over."""
    return tuple(case[p.name] for p in numbers_of(case))


def numbers_of(case: Case) -> list[Parameter]:
    """List the parameters that are neither words nor of the shape: each value has its own means."""
    return [p for p in case.op.parameters if not p.shape and not p.word]


def mean_grid(records: Sequence[Record]) -> Grid | None:
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
    grid = Grid(
        f"{case.op.name}, {case.dtype}: peers' time / ours, geometric mean over shapes",
        [
            *(Column(p.head) for p in numbers_of(case)),
            Column("ours"),
            Column("shapes", 1),
            Column("best sparse", 2),
            Column("best dense", 2),
            *(Column(name, rank) for rank, name in enumerate(others, 3)),
        ],
    )
    for values, chosen in alike.items():
        texts = [p.text(value) for p, value in zip(numbers_of(case), values, strict=True)]
        for mine in ours:
            cells = []
            for other in ["sparse", "dense", *others]:
                ratios = []
                for group in chosen:
                    peer = group.get(other) if other in others else best(group.values(), other)
                    own = group.get(mine)
                    if peer is not None and own is not None and peer.ok and own.ok:
                        ratios.append(peer.median / own.median)
                cells.append(ratio_text(geomean(ratios)) if ratios else _DASH)
            grid.rows.append([*texts, mine, str(len(chosen)), *cells])
    return grid


def tables_of(records: Sequence[Record]) -> list[list[Record]]:
    """Put the records in groups, one for each op, type and set of words."""
    tables: dict[Any, list[Record]] = {}
    for record in records:
        case = record.case
        words = tuple(case[p.name] for p in case.op.parameters if p.word)
        tables.setdefault((case.op.name, case.dtype, words, case.cold), []).append(record)
    return list(tables.values())


def print_tables(console: Console, records: Sequence[Record], limits: AnyLimits | None) -> None:
    """Print everything that was measured, and in a few lines what it comes to."""
    for alike in tables_of(records):
        for grid in (case_grid(alike, limits), mean_grid(alike)):
            if grid is not None:
                console.print(grid.fit(console.width))
                console.print()
    print_failures(console, records)
    for line in summary(records):
        console.print(line)


# The summary

#: What the kinds of peers are called after "than".
_PEERS = {
    "sparse": "the best sparse peer",
    "dense": "dense",
    "low": "dense in fewer bits",
    "selection": "the best peer",
}


def summary(records: Sequence[Record]) -> list[Text]:
    """Say how ours compare with the best peer of each kind, and where a peer is faster.

    Ratios are geometric means over the cases of an op and a type.
    """
    several = len({_of_summary(r.case) for r in records if r.ok}) > 1
    lines = []
    for name, alike in _by_summary(records).items():
        groups = list(by_case(r for r in alike if r.ok).values())
        ours = list(dict.fromkeys(r.contender for r in alike if r.kind == "ours" and r.ok))
        sentences = [_sentence(groups, mine) for mine in ours]
        sentences = [x for x in (*sentences, _losses(groups)) if x]
        if sentences:
            lines += [Text(f"{name}:", style="bold")] if several else []
            lines += [Text(f"  {x}" if several else x) for x in sentences]
    return lines


def _of_summary(case: Case) -> str:
    return " ".join([case.op.name, case.dtype, *(["cold"] if case.cold else [])])


def _by_summary(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(_of_summary(record.case), []).append(record)
    return found


def _sentence(groups: Sequence[Mapping[str, Record]], mine: str) -> str:
    """Compare one of ours with the best peers: "packed is 3.7x faster than ... over 18 cases"."""
    clauses, counts = [], []
    for kind, called in _PEERS.items():
        pairs = [(best(g.values(), kind), g[mine]) for g in groups if mine in g]
        ratios = [peer.median / own.median for peer, own in pairs if peer is not None]
        if ratios:
            clauses.append((geomean(ratios), called))
            counts.append(len(ratios))
    if not clauses:
        return ""
    same = len(set(counts)) == 1
    written, said = [], ""
    for (ratio, called), count in zip(clauses, counts, strict=True):
        number, word = _faster(ratio)
        text = f"{number} than {called}" if word == said else f"{number} {word} than {called}"
        written.append(text if same else f"{text} ({_cases(count)})")
        said = word
    return f"{mine} is {', '.join(written)}" + (f", over {_cases(counts[0])}" if same else "")


def _cases(count: int) -> str:
    return f"{count} case" + ("s" if count != 1 else "")


def _faster(ratio: float) -> tuple[str, str]:
    """Write a ratio of times as how many times faster, or slower."""
    factor, word = (ratio, "faster") if ratio >= 1 else (1 / ratio, "slower")
    return (
        f"{factor:.2f}x"
        if factor < 1.95
        else f"{factor:.1f}x"
        if factor < 99.5
        else f"{factor:.0f}x",
        word,
    )


def _losses(groups: Sequence[Mapping[str, Record]]) -> str:
    """Count the cases in which no peer is faster than the best of ours, and name the worst."""
    found = []
    for group in groups:
        own = best(group.values(), "ours")
        peers = [best(group.values(), kind) for kind in _PEERS]
        peer = min((p for p in peers if p is not None), key=lambda p: p.median, default=None)
        if own is not None and peer is not None:
            found.append((peer.median / own.median, own, peer))
    if not found:
        return ""
    won = sum(ratio >= 1 for ratio, _, _ in found)
    if won == len(found):
        return "no peer is faster" + (" in any case" if won > 1 else "")
    ratio, own, peer = min(found, key=lambda item: item[0])
    times, _ = _faster(ratio)
    lost = len(found) - won
    return (
        f"a peer is faster in {lost} of {_cases(len(found))}; the most at {own.case.label}: "
        f"{peer.contender} {times} faster than {own.contender}"
    )


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
        f"limits of {threads_text(limits.threads)}: {limits.gflops:.0f} GFLOP/s (f32); "
        f"read GB/s: {levels}"
    )
