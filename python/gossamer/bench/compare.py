"""Two files of results side by side: how the time of each contender on each case changed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.text import Text

from .grid import Cell, Column, Grid
from .op import Case
from .records import Record, Run
from .report import failure_text, geomean, seconds_text

_Key: TypeAlias = tuple[Case, str, int]


@dataclass(frozen=True)
class Change:
    """One contender on one case: before, after, and whether the quartile ranges overlap."""

    before: list[Record]
    after: list[Record]

    @property
    def record(self) -> Record:
        """What says case and contender."""
        return self.after[-1]

    @property
    def ratio(self) -> float:
        """The time after as a multiple of the time before: medians of the runs' medians."""
        return _median(self.after) / _median(self.before)

    @property
    def within_spread(self) -> bool:
        """Tell whether the change is no larger than the spread."""
        low, high = min(r.q1 for r in self.before), max(r.q3 for r in self.before)
        return min(r.q1 for r in self.after) <= high and low <= max(r.q3 for r in self.after)

    def slower_than(self, share: float) -> bool:
        """Tell whether it takes more than `share` longer."""
        return self.ratio > 1.0 + share


@dataclass(frozen=True)
class Comparison:
    """What is in both files, in one of them, and what gave a time before and does not now."""

    changes: list[Change]
    lost: list[Record]
    only_before: int
    only_after: int

    def slower(self, share: float) -> list[Change]:
        """List what of ours takes more than `share` longer."""
        return [x for x in self.changes if x.record.kind == "ours" and x.slower_than(share)]


def _median(records: Iterable[Record]) -> float:
    return statistics.median(r.median for r in records)


def _by_key(records: Iterable[Record]) -> dict[_Key, list[Record]]:
    found: dict[_Key, list[Record]] = {}
    for record in records:
        found.setdefault((record.case, record.contender, record.threads), []).append(record)
    return found


def compare(before: Sequence[Record], after: Sequence[Record]) -> Comparison:
    """Pair the times of the same contender, case and number of threads."""
    first, second = _by_key(before), _by_key(after)
    changes, lost = [], []
    for key, records in second.items():
        earlier, later = ([r for r in x if r.ok] for x in (first.get(key, []), records))
        if earlier and later:
            changes.append(Change(earlier, later))
        elif earlier and records[-1].kind == "ours":
            lost.append(records[-1])
    return Comparison(
        changes, lost, len(first.keys() - second.keys()), len(second.keys() - first.keys())
    )


def grids(found: Comparison) -> list[Grid]:
    """Lay out the changes, a table for each op and type."""
    tables: dict[tuple[str, str, bool], list[Change]] = {}
    for change in found.changes:
        case = change.record.case
        tables.setdefault((case.op.name, case.dtype, case.cold), []).append(change)
    return [_grid(changes) for changes in tables.values()]


def _grid(changes: Sequence[Change]) -> Grid:
    case = changes[0].record.case
    cold = ", cold weights" if case.cold else ""
    grid = Grid(
        f"{case.op.name}, {case.dtype}{cold}: time of B against A (~ is within the spread)",
        [
            Column("case", left=True, wrap=True),
            Column("A"),
            Column("IQR", 2),
            Column("B"),
            Column("IQR", 2),
            Column("B / A"),
            Column("", 1, left=True),
        ],
    )
    by_case: dict[Case, list[Change]] = {}
    for change in changes:
        by_case.setdefault(change.record.case, []).append(change)
    for what, group in by_case.items():
        words = [p.label(what[p.name]) for p in what.op.parameters if p.word]
        grid.rows.append([" ".join(x for x in (what.brief or what.op.name, *words) if x)])
        for change in group:
            style = "bold" if change.record.kind == "ours" else ""
            row: list[Cell] = [Text(f"  {change.record.contender}", style=style)]
            for records in (change.before, change.after):
                median = _median(records)
                spread = max(r.q3 for r in records) - min(r.q1 for r in records)
                row += [seconds_text(median), f"{100 * spread / median:.0f}%"]
            row += [_change_text(change), "~" if change.within_spread else ""]
            grid.rows.append(row)
    return grid


def _change_text(change: Change) -> Text:
    style = "" if change.within_spread else "green" if change.ratio < 1 else "bold red"
    return Text(percent_change(change.ratio), style=style)


def percent_change(ratio: float) -> str:
    """Write a ratio as a change: +3.2%."""
    return f"{100 * (ratio - 1):+.1f}%"


def summary(found: Comparison) -> list[Text]:
    """Say for each contender how its time changed, and what could not be compared."""
    lines = []
    by_name: dict[str, list[Change]] = {}
    for change in found.changes:
        by_name.setdefault(change.record.contender, []).append(change)
    for name, changes in by_name.items():
        ratios = [change.ratio for change in changes]
        mean = geomean(ratios)
        word = "slower" if mean >= 1 else "faster"
        cases = f"{len(ratios)} case" + ("s" if len(ratios) != 1 else "")
        span = f", from {percent_change(min(ratios))} to {percent_change(max(ratios))}"
        lines.append(
            Text(f"{name}: B takes {percent_change(mean)} ({word}), over {cases}"
                 + (span if len(ratios) > 1 else ""))
        )  # fmt: skip
    lines += [
        Text.assemble(f"{r.contender} gave a time in A: ", failure_text(r), f" ({r.case.label})")
        for r in found.lost
    ]
    if found.only_before or found.only_after:
        lines.append(
            Text(f"not compared: {found.only_before} only in A, {found.only_after} only in B")
        )
    return lines


def differences(before: Sequence[Run], after: Sequence[Run]) -> list[str]:
    """Name what differs between the machines, which times must not be compared over."""
    told = []
    for name in ("cpu", "cpus", "isa"):
        values = [
            sorted({json.dumps(run.context.get("machine", {}).get(name)) for run in runs})
            for runs in (before, after)
        ]
        if values[0] != values[1]:
            told.append(f"A and B differ in {name}: {', '.join(values[0])}; {', '.join(values[1])}")
    return told
