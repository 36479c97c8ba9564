"""The `gossamer bench` command."""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from . import compare, options, suite
from .families import OPS
from .grid import Grid
from .machine import AnyLimits, cache_sizes, cpu_model, usable_cpus
from .options import Job, OptionError, add_arguments, list_jobs
from .records import Record, Run, append_jsonl, read_jsonl, read_runs
from .report import limits_text, print_failures, print_tables
from .runner import Plan, Runner
from .worker import versions

__all__ = ["add_arguments", "list_jobs", "run"]

PACKAGES = ("gossamer", "numpy", "torch", "scipy", "sparse-dot-mkl", "mkl", "ml_dtypes")
# Columns that tables are made for.
LEAST, MOST = 40, 1000


def make_console() -> Console:
    """Make what is printed with: as wide as COLUMNS says, or the terminal, or 80 columns."""
    columns, lines = shutil.get_terminal_size((80, 24))
    width = min(max(columns, LEAST), MOST)
    return Console(highlight=False, markup=False, width=width, height=lines)


def run(args: argparse.Namespace) -> int:
    """Measure and report.

    Returns 1 when a result was wrong, a contender of gossamer failed, nothing could be timed, or a
    comparison failed, and 2 for a bad option.
    """
    console = make_console()
    try:
        options.load(args.plugin)
        options.check(args)
        if args.compare:
            return _compare(console, args)
        if args.read:
            runs, limits = _read(console, args)
            interrupted = False
        else:
            jobs = list_jobs(args)
            options.check_drawable(args, jobs)
            options.check_scratch()
            plan, given_limits = options.plan(args), options.gpu_limits(args)
            options.check_device(args)
            context = _context()
    except (ValueError, ImportError) as error:
        print(f"gossamer bench: {error}", file=sys.stderr)
        return 2
    try:
        if not args.read:
            one = Run(context, [], given_limits)
            interrupted = _measure(console, plan, jobs, args, one)
            runs, limits = [one], one.limits
        return _report(console, args, runs, limits, interrupted=interrupted)
    except BrokenPipeError:
        raise
    except OSError as error:  # no room for operands or results, say
        print(f"gossamer bench: {error}", file=sys.stderr)
        return 1


# Measuring


def _measure(
    console: Console, plan: Plan, jobs: Sequence[Job], args: argparse.Namespace, one: Run
) -> bool:
    """Fill the run with records; tell whether Ctrl-C ended it when there were some."""
    total = sum(len(job.cases) for job in jobs)
    error_console = Console(stderr=True, width=console.width, height=console.height)
    bar = Progress(
        TextColumn("{task.description}", markup=False,
                   table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=error_console,
        transient=True,
        expand=True,
        disable=not error_console.is_terminal,
        auto_refresh=False,  # a thread that wakes would disturb who is timed
    )  # fmt: skip
    try:
        with Runner(plan, args.plugin) as runner, bar:
            task = bar.add_task("measuring the machine", total=total)
            bar.refresh()
            if one.limits is None:
                one.limits = runner.gpu_limits() if args.device == "cuda" else runner.limits()
            _head(console, one)
            _warn_if_busy(console, plan)
            for job in jobs:
                tell = lambda text: bar.update(task, description=text, refresh=True)  # noqa: E731
                for group in runner.measure(job.cases, job.contenders, tell):
                    for record in group:
                        record.part = job.part
                    if args.out:
                        append_jsonl(args.out, group, one.limits, one.context)
                    one.records += group
                    bar.advance(task)
            dropped = runner.dropped
    except KeyboardInterrupt:
        if not one.records:
            raise
        done = len({r.case for r in one.records})
        _warn(console, f"interrupted after {done} of {total} cases")
        return True
    if dropped:
        labels = "; ".join(case.label for case in dropped)
        what = f"dropped for want of time, {len(dropped)} of {total} cases: {labels}"
        _tell(console, what, "yellow")
    return False


def _context() -> dict[str, Any]:
    return {
        "run": secrets.token_hex(4),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["gossamer", *sys.argv[1:]]),
        "machine": {
            "cpu": cpu_model(),
            "cpus": usable_cpus(),
            "caches": cache_sizes(),
            "isa": str(import_module("gossamer._core").isa()),
            "load": round(os.getloadavg()[0], 2),
        },
        "versions": versions(PACKAGES) | {"python": platform.python_version()},
    }


def _warn(console: Console, text: str) -> None:
    console.print(text, style="yellow")


def _tell(console: Console, text: str, style: str = "") -> None:
    """Print a line with a path, which must stay whole."""
    console.print(text, style=style, soft_wrap=True)


def _warn_if_busy(console: Console, plan: Plan) -> None:
    load = os.getloadavg()[0]
    if load > plan.threads:
        _warn(console, f"the machine is busy (load {load:.1f}): times will be noisy")


# Reading


def _read(console: Console, args: argparse.Namespace) -> tuple[list[Run], AnyLimits | None]:
    """Read runs; the limits are those by which a suite's targets are judged."""
    shown = options.chooser(args)
    runs, told = _runs_of(args.read, "--read")
    for line in told:
        _tell(console, line, "yellow")
    if not runs:
        raise OptionError("--read: no record can be read")
    for one in runs:
        one.records = [record for record in one.records if shown(record)]
    runs = [one for one in runs if one.records]
    if not runs:
        raise OptionError("--read: the options leave no record")
    limits = read_jsonl(args.read, OPS)[1] if args.suite else None
    _check_drawn(args, runs)
    return runs, limits


def _runs_of(paths: Sequence[Any], option: str) -> tuple[list[Run], list[str]]:
    try:
        return read_runs(paths, OPS)
    except OSError as error:
        raise OptionError(f"{option}: {error.filename}: {error.strerror}") from error


def _check_drawn(args: argparse.Namespace, runs: Sequence[Run]) -> None:
    records = [record for one in runs for record in one.records]
    cases = list(dict.fromkeys(record.case for record in records if record.ok))
    if cases:
        options.check_drawable(args, [Job("", cases, [])])


def _compare(console: Console, args: argparse.Namespace) -> int:
    shown, limit = options.chooser(args), options.fail_above(args)
    sides = []
    for name, path in zip("AB", args.compare, strict=True):
        runs, told = _runs_of([path], "--compare")
        for line in told:
            _tell(console, line, "yellow")
        records = [record for one in runs for record in one.records if shown(record)]
        if not records:
            raise OptionError(f"--compare: {path} has no record, or none that the options leave")
        sides.append((runs, records))
        _tell(console, f"{name} is {path}")
        console.print(f"  {runs[-1].title}")
    (before, first), (after, second) = sides
    for line in compare.differences(before, after):
        _warn(console, line)
    found = compare.compare(first, second)
    if not found.changes and not found.lost:
        raise OptionError("--compare: the files have no contender, case and threads in common")
    for grid in compare.grids(found):
        console.print()
        console.print(grid.fit(console.width))
    console.print()
    for text in compare.summary(found):
        console.print(text)
    if limit is None:
        return 1 if found.lost else 0
    slower = found.slower(limit)
    for change in sorted(slower, key=lambda x: -x.ratio):
        console.print(
            Text.assemble(
                ("slower: ", "bold red"),
                f"{change.record.contender} {compare.percent_change(change.ratio)} "
                f"({change.record.case.label})",
            )
        )
    ours = sum(x.record.kind == "ours" for x in found.changes)
    verdict = f"{len(slower)} of {ours} times of ours grew by more than {100 * limit:g}%"
    console.print(verdict, style="bold red" if slower else "green")
    return 1 if slower or found.lost else 0


# Reporting


def _report(
    console: Console,
    args: argparse.Namespace,
    runs: Sequence[Run],
    limits: AnyLimits | None,
    *,
    interrupted: bool,
) -> int:
    records = [record for one in runs for record in one.records]
    targets: Grid | None = None
    if args.suite:
        _warn_of_repeats(console, records)
        _warn_of_spread(console, records)
        print_failures(console, records)
        targets, met, missed = suite.target_grid(options.parts(args), records, limits)
        console.print(targets.fit(console.width))
        console.print()
        console.print(f"{met} of {met + missed} targets met")
    else:
        for number, one in enumerate(runs, 1):
            if args.read:
                which = f"run {number} of {len(runs)}, " if len(runs) > 1 else ""
                console.print(f"{which}{one.when}: {one.context.get('command', '')}", style="bold")
                _head(console, one)
            _warn_of_spread(console, one.records)
            console.print()
            print_tables(console, one.records, one.limits)
            if number < len(runs):
                console.print()
    _draw(console, args, runs, targets)
    if interrupted:
        raise KeyboardInterrupt
    bad = any(r.status == "wrong" or (r.status == "failed" and r.kind == "ours") for r in records)
    return 1 if bad or (records and not any(r.ok for r in records)) else 0


def _draw(
    console: Console, args: argparse.Namespace, runs: Sequence[Run], targets: Grid | None
) -> None:
    """Write plots and page. What they need is imported where it is asked for only."""
    if not (args.plot or args.roofline or args.report):
        return
    plots = import_module("gossamer.bench.plots")
    records = [record for one in runs for record in one.records]
    for path, has, figure in (
        (args.plot, plots.has_times, plots.times_figure),
        (args.roofline, plots.has_rates, plots.roofline_figure),
    ):
        if path and has(records):
            plots.save(figure(runs), path)
            _tell(console, f"drawn: {path}")
        elif path:
            _tell(console, f"not drawn, for nothing was timed: {path}", "yellow")
    if args.report:
        import_module("gossamer.bench.page").write_page(args.report, runs, targets)
        _tell(console, f"written: {args.report}")


def _head(console: Console, one: Run) -> None:
    """Print what was measured on, and with which versions."""
    machine, found = one.context.get("machine", {}), one.context.get("versions", {})
    facts = [machine.get("cpu"), f"{machine.get('cpus', '?')} processors", machine.get("isa")]
    console.print(", ".join(x for x in facts if x))
    if found:
        console.print(", ".join(f"{name} {version}" for name, version in found.items()))
    if one.limits is not None:
        console.print(limits_text(one.limits))


def _warn_of_spread(console: Console, records: Sequence[Record]) -> None:
    unsteady = sum(r.ok and r.q3 - r.q1 > 0.25 * r.median for r in records)
    if unsteady > len(records) // 4:
        _warn(
            console,
            f"{unsteady} of {len(records)} times spread over more than 25%: "
            "the machine was not quiet, measure again",
        )


def _warn_of_repeats(console: Console, records: Sequence[Record]) -> None:
    again = len(records) - len({(r.part, r.case, r.contender) for r in records})
    if again:
        _warn(console, f"{again} times were measured again later: the last count")
