"""The suites: the cases behind the project's performance targets, and the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from .families import parts_of
from .grid import Column, Grid
from .machine import AnyLimits
from .op import Case
from .records import Record, by_case
from .report import geomean
from .targets import Part, Target

SUITES = ("foundation", "prune", "gemm", "attention")


def part_names(suite: str) -> tuple[str, ...]:
    """Name the parts of a suite."""
    return tuple(parts_of(suite))


def named_parts(suite: str, names: Sequence[str]) -> list[Part]:
    """Find the named parts."""
    parts = parts_of(suite)
    return [parts[name] for name in names]


def ratios(
    part: Part, target: Target, records: Sequence[Record], limits: AnyLimits | None = None
) -> list[tuple[Case, float]]:
    """Find the ratio of each case that the target speaks of and that was measured."""
    found = []
    for case, group in by_case(r for r in records if r.part == part.name).items():
        mine = group.get(target.ours)
        if not target.speaks_of(case) or mine is None or not mine.ok:
            continue
        times = [group[x].median for x in target.others if x in group and group[x].ok]
        if target.seconds is not None:
            times = [target.seconds]
        elif not target.others and limits is not None:
            times = [limits.least_seconds(case, case.op.work(case, mine.nnz))]
        if times:
            ratio = min(times) / mine.median
            found.append((case, 1 / ratio if target.at_most else ratio))
    return found


@dataclass(frozen=True)
class Verdict:
    """What was measured of a target."""

    mean: float
    worst: float
    worst_case: Case
    cases: int
    met: bool


def verdict(
    part: Part, target: Target, records: Sequence[Record], limits: AnyLimits | None
) -> Verdict | None:
    """Judge a target; None where none of its cases was measured."""
    found = ratios(part, target, records, limits)
    if not found:
        return None
    mean = geomean(ratio for _, ratio in found)
    case, worst = (max if target.at_most else min)(found, key=lambda item: item[1])
    met = mean <= target.bound if target.at_most else mean >= target.bound
    met = met and not (target.never_lose and worst < 1)
    return Verdict(mean, worst, case, len(found), met)


def target_grid(
    parts: Sequence[Part], records: Sequence[Record], limits: AnyLimits | None
) -> tuple[Grid, int, int]:
    """Lay out what was demanded and what was measured; count the targets met and missed."""
    grid = Grid(
        "targets: geometric mean of ratios of medians",
        [
            Column("target", left=True, wrap=True),
            Column("wanted"),
            Column("measured"),
            Column("worst case", 2),
            Column("cases", 1),
            Column(""),
        ],
    )
    met = missed = 0
    for part in parts:
        grid.rows.append([part.name])
        for target in part.targets:
            title = f"  {target.title}"
            wanted = f"{'<=' if target.at_most else '>='} {target.bound:g}x"
            found = verdict(part, target, records, limits)
            if found is None:
                unknown = Text("not measured", "yellow")
                grid.rows.append([title, wanted, "-", "-", "0", unknown])
                missed += 1
                continue
            met, missed = met + found.met, missed + (not found.met)
            label = f"{found.worst:.2f}x ({found.worst_case.brief})"
            word = Text("pass", "green") if found.met else Text("MISS", "bold red")
            mean = f"{found.mean:.2f}x"
            grid.rows.append([title, wanted, mean, label, str(found.cases), word])
    return grid, met, missed
