"""The `gossamer bench` command."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import suite
from .dtypes import DTYPES
from .families import OPS, load_plugins
from .machine import AnyLimits, GpuLimits, cache_sizes, cpu_model, usable_cpus
from .op import Case, Contender, Parameter
from .records import Record, append_jsonl, read_jsonl
from .report import limits_text, plot, print_failures, print_tables
from .runner import Plan, Runner
from .shapes import Shape, parse_shapes, shape_lists
from .targets import Part, order
from .worker import versions

PACKAGES = ("gossamer", "numpy", "torch", "scipy", "sparse-dot-mkl", "mkl", "ml_dtypes")
ALL_PEERS = "all"
# What a run with no options measures takes about a minute.
SHAPES = "4096x4096,768x3072"
QUICK: dict[str, Any] = {"shapes": "512x512", "rounds": 3, "time": 0.05, "peers": "numpy,scipy"}
MOST_THREADS, MOST_ROUNDS = 1024, 1_000_000
PLOT_ENDINGS = ("eps", "jpg", "jpeg", "pdf", "png", "ps", "svg", "svgz", "tif", "tiff", "webp")


class OptionError(ValueError):
    """An option that cannot be followed; the message is one line."""


@dataclass(frozen=True)
class Job:
    """Cases, and the names of the contenders that time them."""

    part: str
    cases: list[Case]
    contenders: list[str]


def parameters() -> dict[str, Parameter]:
    """List the parameters of all ops that are options."""
    return {p.name: p for op in OPS.values() for p in op.parameters if p.help}


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] = ()) -> None:
    """Declare the options, those for the ops of plugins too, which `argv` names."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--plugin", action="append", default=[])
    load_plugins(early.parse_known_args(argv)[0].plugin)
    parser.add_argument(
        "suite",
        nargs="?",
        choices=suite.SUITES,
        help="measure the cases of the project's targets instead of what the options say",
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument("--op", help=f"comma-separated, of: {', '.join(OPS)} [{next(iter(OPS))}]")
    what.add_argument(
        "--shapes",
        help=f"MxK (weights: outputs x inputs), or a list: {', '.join(shape_lists())}; "
        f"comma-separated [{SHAPES}]",
    )
    for name, parameter in parameters().items():
        what.add_argument(f"--{name}", help=parameter.help.replace("%", "%%"))
    what.add_argument("--dtype", default="f32", help=f"of: {', '.join(DTYPES)} [f32]")
    what.add_argument("--seed", type=int, default=0, help="of patterns and values [0]")
    what.add_argument(
        "--cold", action="store_true", help="rotate copies of the weights past the last cache"
    )
    who = parser.add_argument_group("who is timed")
    who.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="[cpu]")
    who.add_argument("--variants", help="forms of ours, or none [csr,packed,mask; on a GPU all]")
    who.add_argument("--peers", help="comma-separated names, all, or none [all]")
    who.add_argument("--plugin", action="append", default=[], metavar="MODULE",
                     help="a module with more OPS, or CONTENDERS of an op by its name")  # fmt: skip
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
    """Measure and report.

    Returns 1 when a result was wrong, ours failed, or nobody gave a time, and 2 for a bad option.
    """
    console = Console() if sys.stdout.isatty() else Console(width=180)
    try:
        load_plugins(args.plugin)
        _check_output(args)
        jobs = list_jobs(args)
        plan = _plan(args)
        given_limits = _gpu_limits(args)
        earlier = _read(console, args.read) if args.read else None
        machine = _machine()
    except (ValueError, ImportError) as error:
        print(f"gossamer bench: {error}", file=sys.stderr)
        return 2
    context: dict[str, Any] = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["gossamer", *sys.argv[1:]]),
        "machine": machine,
        "versions": versions(PACKAGES) | {"python": platform.python_version()},
    }
    try:
        records, limits = earlier or _measure(
            console, plan, jobs, args, context=context, limits=given_limits
        )
    except BrokenPipeError:
        raise
    except OSError as error:  # no room for operands or results, say
        print(f"gossamer bench: {error}", file=sys.stderr)
        return 1
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
        print_failures(console, records)
        table, met, missed = suite.target_table(_parts(args), records, limits)
        console.print(table)
        console.print(f"{met} of {met + missed} targets met")
    if args.plot:
        plot(records, args.plot)
        console.print(f"drawn: {args.plot}")
    bad = any(r.status == "wrong" or (r.status == "failed" and r.kind == "ours") for r in records)
    return 1 if bad or (records and not any(r.ok for r in records)) else 0


def _measure(
    console: Console,
    plan: Plan,
    jobs: Sequence[Job],
    args: argparse.Namespace,
    *,
    context: dict[str, Any],
    limits: AnyLimits | None,
) -> tuple[list[Record], AnyLimits | None]:
    total = sum(len(job.cases) for job in jobs)
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
        if limits is None:
            limits = runner.limits() if args.device == "cpu" else runner.gpu_limits()
        _head(console, context, limits, plan)
        for job in jobs:
            tell = lambda text: bar.update(task, description=f"{text:<56.56}", refresh=True)  # noqa: E731
            for group in runner.measure(job.cases, job.contenders, tell):
                for record in group:
                    record.part = job.part
                records += group
                bar.advance(task)
                if args.out:
                    append_jsonl(args.out, group, limits, context)
        dropped = runner.dropped
    if dropped:
        console.print(
            f"dropped for want of time, {len(dropped)} of {total} cases: "
            + "; ".join(case.label for case in dropped),
            style="yellow",
            markup=False,
        )
    return records, limits


def _read(console: Console, paths: Sequence[Path]) -> tuple[list[Record], AnyLimits | None]:
    try:
        records, limits, told = read_jsonl(paths, OPS)
    except OSError as error:
        raise OptionError(f"--read: {error.filename}: {error.strerror}") from error
    for line in told:
        console.print(line, style="yellow", markup=False, soft_wrap=True)
    if not records:
        raise OptionError("--read: no record can be read")
    return records, limits


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
    return {
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "caches": cache_sizes(),
        "isa": str(import_module("gossamer._core").isa()),
        "load": round(os.getloadavg()[0], 2),
    }


# Options


def _check_output(args: argparse.Namespace) -> None:
    """Find what would lose a run's results before it begins."""
    for option, path in (("--out", args.out), ("--plot", args.plot)):
        if path is None:
            continue
        if path.is_dir():
            raise OptionError(f"{option} is {path}, a folder, expected a file")
        if not path.absolute().parent.is_dir():
            raise OptionError(f"{option} is {path}, but there is no folder {path.parent}")
        if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise OptionError(f"{option} is {path}, which cannot be written")
    if args.plot is not None:
        if args.plot.suffix[1:].lower() not in PLOT_ENDINGS:
            endings = ", ".join(PLOT_ENDINGS)
            raise OptionError(f"--plot is {args.plot}, expected an ending of {endings}")
        if find_spec("matplotlib") is None:
            raise OptionError("--plot needs matplotlib: pip install 'gossamer[bench]'")


def _plan(args: argparse.Namespace) -> Plan:
    quick = QUICK if args.quick else {}
    if not 0 <= args.seed < 1 << 63:
        raise OptionError(f"--seed is {args.seed}, expected a number from 0 to 2^63 - 1")
    for option, most in (("threads", MOST_THREADS), ("rounds", MOST_ROUNDS)):
        value = getattr(args, option)
        if value is not None and not 1 <= value <= most:
            raise OptionError(f"--{option} is {value}, expected a number from 1 to {most}")
    if args.time is not None and not (math.isfinite(args.time) and args.time > 0):
        raise OptionError(f"--time is {args.time:g}, expected positive seconds")
    if args.budget is not None and not args.budget >= 0:
        raise OptionError(f"--budget is {args.budget:g}, expected seconds")
    return Plan(
        threads=args.threads or usable_cpus(),
        rounds=args.rounds or quick.get("rounds", 5),
        seconds=args.time or quick.get("time", 0.15 if args.suite else 0.25),
        budget=args.budget,
    )


def _gpu_limits(args: argparse.Namespace) -> GpuLimits | None:
    if args.limits is None:
        return None
    if args.device == "cpu":
        raise OptionError(f"--limits is {args.limits}, a GPU's, expected --device cuda")
    try:
        return GpuLimits(**json.loads(args.limits.read_text()))
    except OSError as error:
        raise OptionError(f"--limits is {args.limits}: {error.strerror}") from error
    except (TypeError, ValueError) as error:
        wanted = "what python -m gossamer.bench.cuda prints"
        raise OptionError(f"--limits is {args.limits}, expected {wanted}") from error


def list_jobs(args: argparse.Namespace) -> list[Job]:
    """List what is to be measured."""
    given = _given(args)
    if not args.suite:
        if args.part:
            raise OptionError("--part needs a suite")
        cases = order(_cases(args, given))
        return [Job("", cases, _contenders(args))]
    return [
        Job(
            part.name,
            [
                case
                for case in part.cases
                if all(case.parameters.get(name) in values for name, values in given.items())
            ],
            list(part.contenders),
        )
        for part in _parts(args)
    ]


def _parts(args: argparse.Namespace) -> list[Part]:
    names = _names(args.part, suite.part_names(args.suite), "part")
    return suite.named_parts(args.suite, names)


def _contenders(args: argparse.Namespace) -> list[str]:
    known: dict[str, Contender] = {}
    for op in OPS.values():
        for name, contender in op.contenders.items():
            if contender.library.device == args.device:
                known.setdefault(name, contender)
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
        raise OptionError("nobody to time: --variants and --peers are none")
    return names


def _cases(args: argparse.Namespace, given: dict[str, list[Any]]) -> list[Case]:
    ops = [OPS[name] for name in _names(args.op or next(iter(OPS)), tuple(OPS), "op")]
    for name in given:
        if not any(p.name == name and p.help for op in ops for p in op.parameters):
            raise OptionError(f"--{name}: {', '.join(op.name for op in ops)} has no {name}")
    dtypes = _names(args.dtype, DTYPES, "dtype")
    shapes = parse_shapes(args.shapes or (QUICK["shapes"] if args.quick else SHAPES))
    cases = []
    for shape in shapes:
        for op in ops:
            values = {p.name: _values(p, shape, given, quick=args.quick) for p in op.parameters}
            # The last parameter varies slowest: cases on one matrix stand together.
            for chosen in product(dtypes, *reversed(values.values())):
                named = dict(zip(reversed(values), chosen[1:], strict=True))
                ordered = {name: named[name] for name in values}
                cases.append(op.case(dtype=chosen[0], cold=args.cold, seed=args.seed, **ordered))
    return list(dict.fromkeys(cases))


def _values(
    parameter: Parameter, shape: Shape, given: dict[str, list[Any]], *, quick: bool
) -> list[Any]:
    if parameter.help and parameter.name in given:
        return given[parameter.name]
    of_shape = shape._asdict().get(parameter.name)
    if of_shape is not None:
        return [of_shape]
    if not parameter.help:
        return [parameter.default]
    usual = parameter.quick if quick else parameter.usual
    return [parameter.parse(text) for text in usual.split(",")]


def _given(args: argparse.Namespace) -> dict[str, list[Any]]:
    """Read the options that are parameters of ops."""
    found: dict[str, list[Any]] = {}
    for name, parameter in parameters().items():
        text = getattr(args, name, None)
        if text is None:
            continue
        try:
            found[name] = [parameter.parse(one.strip()) for one in text.split(",")]
        except ValueError as error:
            expected = parameter.help.rsplit(" [", 1)[0]
            raise OptionError(f"--{name} is {text}, expected {expected}") from error
    return found


def _names(text: str | None, known: Sequence[str], option: str) -> list[str]:
    if text is None:
        return list(known)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise OptionError(f"--{option}: got {name!r}, expected of {', '.join(known)}")
    return list(dict.fromkeys(names))
