"""The `gossamer bench` command."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import suite
from .case import DTYPES, OPS, PATTERNS, PRODUCTS, Case
from .contenders import Contender, load_contenders
from .machine import GpuLimits, cache_sizes, cpu_model, usable_cpus
from .report import AnyLimits, limits_text, plot, print_failures, print_tables, read_jsonl, to_json
from .runner import Plan, Record, Runner, order
from .shapes import parse_shapes, shape_lists
from .worker import versions

PACKAGES = ("gossamer", "numpy", "torch", "scipy", "sparse-dot-mkl", "mkl", "ml_dtypes")
ALL_PEERS = "all"
# What a run with no options measures: about a minute.
DEFAULTS: dict[str, Any] = {
    "op": "linear", "shapes": "4096x4096,768x3072", "n": "1,32,128", "sparsity": "0.8,0.9",
}  # fmt: skip
QUICK: dict[str, Any] = {
    "op": "linear", "shapes": "512x512", "n": "1,32", "sparsity": "0.9",
    "rounds": 3, "time": 0.05, "peers": "numpy,scipy",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "suite",
        nargs="?",
        choices=suite.SUITES,
        help="measure the cases of the project's targets instead of what the options say",
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument("--op", help=f"comma-separated, of: {', '.join(OPS)} [linear]")
    what.add_argument(
        "--shapes",
        help=f"MxK (weights: outputs x inputs), or a list: {', '.join(shape_lists())}; "
        "comma-separated [4096x4096,768x3072]",
    )
    what.add_argument("--n", help="widths of the dense operand [1,32,128, or the list's own]")
    what.add_argument("--depth", help="depths D of sddmm [64]")
    what.add_argument("--sparsity", help="fractions of zeros [0.8,0.9]")
    what.add_argument("--dtype", default="f32", help=f"of: {', '.join(DTYPES)} [f32]")
    what.add_argument("--pattern", default="uniform", help=f"of: {', '.join(PATTERNS)} [uniform]")
    what.add_argument("--seed", type=int, default=0, help="of patterns and values [0]")
    what.add_argument(
        "--cold", action="store_true", help="rotate copies of the weights past the last cache"
    )
    who = parser.add_argument_group("who is timed")
    who.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="[cpu]")
    who.add_argument("--variants", help="forms of ours, or none [csr,packed,mask; on a GPU all]")
    who.add_argument("--peers", help="comma-separated names, all, or none [all]")
    who.add_argument("--plugin", action="append", default=[], metavar="MODULE",
                     help="a module with a list CONTENDERS of more to time")  # fmt: skip
    who.add_argument("--threads", type=int, help="threads of every contender [all processors]")
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", type=int, help="visits to each contender [5]")
    how.add_argument("--time", type=float, help="seconds for each contender and case [0.25]")
    how.add_argument("--budget", type=float, metavar="SECONDS",
                     help="begin no case after so long, and say which were dropped")  # fmt: skip
    how.add_argument("--limits", type=Path, metavar="FILE.json",
                     help="a GPU's, from python -m gossamer.bench.cuda [measured]")  # fmt: skip
    how.add_argument("--quick", action="store_true", help="a small case, in some seconds")
    # The same as the positional argument; a default would undo that one.
    how.add_argument(
        "--suite", choices=suite.SUITES, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    parts = "; ".join(f"{name}: {', '.join(suite.part_names(name))}" for name in suite.SUITES)
    how.add_argument("--part", help=f"of a suite ({parts}) [all]")
    out = parser.add_argument_group("output")
    out.add_argument("--out", type=Path, metavar="FILE.jsonl", help="append a record for each time")
    out.add_argument("--plot", type=Path, metavar="FILE.png", help="draw time and ratio")
    out.add_argument("--read", type=Path, nargs="+", metavar="FILE.jsonl",
                     help="measure nothing: report what earlier runs wrote")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Measure and report; 1 when a result was wrong, 2 for a bad option."""
    console = Console() if sys.stdout.isatty() else Console(width=180)
    try:
        contenders = load_contenders(args.plugin)
        work = _work(args, contenders)
        plan = _plan(args)
    except (ValueError, ImportError) as error:
        console.print(f"gossamer bench: {error}", style="red", markup=False)
        return 2
    context: dict[str, Any] = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["gossamer", *sys.argv[1:]]),
        "machine": _machine(),
        "versions": versions(PACKAGES) | {"python": platform.python_version()},
    }
    if args.read:
        records, limits = read_jsonl(args.read)
    else:
        records, limits = _measure(console, plan, work, args, context)
    unsteady = sum(r.ok and r.q3 - r.q1 > 0.25 * r.median for r in records)
    if unsteady > len(records) // 4:
        console.print(
            f"{unsteady} of {len(records)} times spread over more than 25%: "
            "the machine was not quiet, measure again",
            style="yellow",
        )
    if not args.suite:
        print_tables(console, records, limits)
    else:
        parts = _parts(args)
        print_failures(console, records)
        table, met, missed = suite.target_table(parts, records, limits)
        console.print(table)
        console.print(f"{met} of {met + missed} targets met")
    if args.plot:
        plot(records, args.plot)
        console.print(f"drawn: {args.plot}")
    return 1 if any(r.status == "wrong" for r in records) else 0


def _measure(
    console: Console,
    plan: Plan,
    work: Sequence[tuple[str, list[Case], list[Contender]]],
    args: argparse.Namespace,
    context: dict[str, Any],
) -> tuple[list[Record], AnyLimits | None]:
    total = sum(len(cases) for _, cases, _ in work)
    bar = Progress(
        TextColumn("{task.description}", table_column=None),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,  # a thread that wakes would disturb who is timed
    )
    records: list[Record] = []
    with Runner(plan, args.plugin) as runner, bar:
        task = bar.add_task("measuring the machine", total=total)
        if args.limits:
            limits: AnyLimits | None = GpuLimits(**json.loads(args.limits.read_text()))
        else:
            limits = runner.limits() if args.device == "cpu" else runner.gpu_limits()
        _head(console, context, limits, plan)
        for part, cases, chosen in work:
            tell = lambda text: bar.update(task, description=f"{text:<56.56}", refresh=True)  # noqa: E731
            for group in runner.measure(cases, chosen, tell):
                for record in group:
                    record.part = part
                records += group
                bar.advance(task)
                if args.out:
                    _append(args.out, group, limits, context)
        dropped = runner.dropped
    if dropped:
        console.print(
            f"dropped for want of time, {len(dropped)} of {total} cases: "
            + "; ".join(case.label for case in dropped),
            style="yellow",
            markup=False,
        )
    return records, limits


def _append(
    path: Path, group: Iterable[Record], limits: AnyLimits | None, context: dict[str, Any]
) -> None:
    measured: dict[str, Any] = {}
    if isinstance(limits, GpuLimits):
        measured = asdict(limits)
    elif limits is not None:
        measured = {"threads": limits.threads, "gflops": limits.gflops, "gbps": limits.gbps}
    with path.open("a") as file:
        for record in group:
            if record.status != "not installed":
                line = to_json(record, limits, context | {"limits": measured})
                file.write(json.dumps(line) + "\n")


def _head(console: Console, context: dict[str, Any], limits: AnyLimits | None, plan: Plan) -> None:
    machine = context["machine"]
    found = ", ".join(f"{k} {v}" for k, v in context["versions"].items())
    console.print(
        f"{machine['cpu']}, {machine['cpus']} processors, {machine['isa']}\n{found}",
        highlight=False,
    )
    if limits is not None:
        console.print(limits_text(limits), highlight=False)
    if os.getloadavg()[0] > plan.threads:
        console.print(
            f"the machine is busy (load {os.getloadavg()[0]:.1f}): times will be noisy",
            style="yellow",
        )


def _machine() -> dict[str, Any]:
    try:
        isa = str(import_module("gossamer._core").isa())
    except ImportError:
        isa = "unknown"
    return {
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "caches": cache_sizes(),
        "isa": isa,
        "load": round(os.getloadavg()[0], 2),
    }


def _plan(args: argparse.Namespace) -> Plan:
    quick = QUICK if args.quick else {}
    plan = Plan(
        threads=args.threads or usable_cpus(),
        rounds=args.rounds or quick.get("rounds", 5),
        seconds=args.time or quick.get("time", 0.15 if args.suite else 0.25),
        budget=args.budget,
    )
    if plan.threads < 1 or plan.rounds < 1 or plan.seconds <= 0:
        raise ValueError("--threads, --rounds and --time must be positive")
    if plan.budget is not None and plan.budget < 0:
        raise ValueError(f"--budget is {plan.budget:g}, expected seconds")
    if args.limits and (args.device == "cpu" or not args.limits.is_file()):
        raise ValueError(f"--limits is {args.limits}, expected a GPU's limits and --device cuda")
    return plan


def _work(
    args: argparse.Namespace, contenders: dict[str, Contender]
) -> list[tuple[str, list[Case], list[Contender]]]:
    """List (part, cases, contenders) to measure."""
    if args.suite:
        parts = _parts(args)
        widths = _positive(args.n, "n") if args.n else None
        return [
            (
                part.name,
                [case for case in part.cases if widths is None or case.n in widths],
                [contenders[name] for name in part.contenders],
            )
            for part in parts
        ]
    if args.part:
        raise ValueError("--part needs a suite")
    return [("", order(_cases(args)), _contenders(args, contenders))]


def _parts(args: argparse.Namespace) -> list[suite.Part]:
    return suite.parts_of(args.suite, _names(args.part, suite.part_names(args.suite), "part"))


def _contenders(args: argparse.Namespace, known: dict[str, Contender]) -> list[Contender]:
    known = {name: c for name, c in known.items() if c.device == args.device}
    ours = [c.name for c in known.values() if c.kind == "ours"]
    peers = [c.name for c in known.values() if c.kind != "ours"]
    variants = args.variants or ",".join(name for name in ours if known[name].default)
    wanted = args.peers or (QUICK["peers"] if args.quick else ALL_PEERS)
    names = [] if variants == "none" else _names(variants, ours, "variants")
    if wanted == ALL_PEERS:
        names += [name for name in peers if known[name].default]
    elif wanted != "none":
        names += _names(wanted, peers, "peers")
    if args.plugin and args.peers is None:
        names += [name for name in peers if name not in names and known[name].default]
    if not names:
        raise ValueError("nobody to time: --variants and --peers are none")
    return [known[name] for name in names]


def _cases(args: argparse.Namespace) -> list[Case]:
    default = QUICK if args.quick else DEFAULTS
    ops = _names(args.op or default["op"], OPS, "op")
    dtypes = _names(args.dtype, DTYPES, "dtype")
    patterns = _names(args.pattern, PATTERNS, "pattern")
    sparsities = [float(s) for s in (args.sparsity or default["sparsity"]).split(",")]
    if not all(0.0 <= s < 1.0 for s in sparsities):
        raise ValueError(f"--sparsity is {args.sparsity}, expected fractions in [0, 1)")
    widths = _positive(args.n or default["n"], "n")
    depths = _positive(args.depth or "64", "depth")
    cases = []
    for shape in parse_shapes(args.shapes or default["shapes"]):
        natural = [shape.n] if shape.n is not None and not args.n else widths
        for op in ops:
            counts = depths if op == "sddmm" else [0] if op not in PRODUCTS else natural
            cases += [
                Case(op, shape.m, shape.k, n, sparsity, dtype, pattern, args.cold, args.seed)
                for dtype in dtypes
                for pattern in patterns
                for sparsity in sparsities
                for n in counts
            ]
    return cases


def _positive(text: str, option: str) -> list[int]:
    try:
        numbers = [int(x) for x in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise ValueError(f"--{option} is {text}, expected positive integers")
    return numbers


def _names(text: str | None, known: Sequence[str], option: str) -> list[str]:
    if text is None:
        return list(known)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"--{option}: got {name!r}, expected of {', '.join(known)}")
    return names
