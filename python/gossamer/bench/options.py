"""The options of `gossamer bench`: what they are, where they apply, and what they ask for."""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from . import cuda, suite
from .dtypes import DTYPES, short_name
from .families import OPS, load_plugins
from .machine import GpuLimits, usable_cpus
from .matrices import FORMATS, GivenMatrix, give, read_matrices
from .op import Case, Contender, Op, Parameter
from .records import Record, why_no_records
from .runner import Plan
from .shapes import Shape, parse_shapes, shape_lists
from .targets import Part, order

ALL_PEERS = "all"
# What a run with no options measures takes about a minute.
SHAPES = "4096x4096,768x3072"
QUICK: dict[str, Any] = {"shapes": "512x512", "rounds": 3, "time": 0.05, "peers": "numpy,scipy"}
MOST_THREADS, MOST_ROUNDS = 1024, 1_000_000
PLOT_ENDINGS = ("eps", "jpg", "jpeg", "pdf", "png", "ps", "svg", "svgz", "tif", "tiff", "webp")
PAGE_ENDINGS = ("html", "htm")

# Which options say nothing where results are read, and where a suite says what is measured.
_OF_MEASURING = (
    "matrix", "seed", "cold", "device", "threads", "rounds", "time", "budget", "limits", "quick",
    "out",
)  # fmt: skip
_OF_CHOOSING = ("op", "shapes", "dtype", "variants", "peers")
_NOT_WITH_A_SUITE = (*_OF_CHOOSING, "matrix", "seed", "cold", "device", "quick")
_NOT_WITH_COMPARE = (*_OF_MEASURING, "read", "plot", "roofline", "report")
_NOT_WITH_MATRIX = ("shapes", "pattern")


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
    """Declare the options, those for the ops of plugins too, which `argv` names.

    None has a default here: what was not given must not be taken for what does not apply.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--plugin", action="append", default=[])
    load(early.parse_known_args(argv)[0].plugin)
    parser.add_argument(
        "suite",
        nargs="?",
        choices=suite.SUITES,
        help="measure the cases of the project's targets instead of what the options say",
    )
    what = parser.add_argument_group("what is measured (or, of what --read and --compare find, "
                                     "what is shown)")  # fmt: skip
    what.add_argument("--op", help=f"comma-separated, of: {', '.join(OPS)} [{next(iter(OPS))}]")
    what.add_argument(
        "--shapes",
        metavar="MxK,…",
        help="weights, outputs x inputs; a file of lines 'M K [N]'; or a list: "
        f"{', '.join(shape_lists())} [{SHAPES}]",
    )
    what.add_argument("--matrix", nargs="+", metavar="FILE",
                      help=f"weights of your own, of: {FORMATS}; with --sparsity their largest "
                      "magnitudes only")  # fmt: skip
    for name, parameter in parameters().items():
        what.add_argument(f"--{name}", help=parameter.help.replace("%", "%%"))
    what.add_argument("--dtype", help=f"of: {', '.join(DTYPES)}, or as others call them [f32]")
    what.add_argument("--seed", type=int, help="of patterns and values [0]")
    what.add_argument("--cold", action="store_true", default=None,
                      help="rotate copies of the weights past the last cache")  # fmt: skip
    who = parser.add_argument_group("who is timed")
    who.add_argument("--device", choices=["cpu", "cuda"], help="[cpu]")
    who.add_argument("--variants", help="forms of ours, or none [csr,packed,mask; on a GPU all]")
    who.add_argument("--peers", help="comma-separated names, all, or none [all]")
    who.add_argument("--plugin", action="append", default=[], metavar="MODULE",
                     help="a module with more OPS, or CONTENDERS of an op by its name")  # fmt: skip
    who.add_argument(
        "--threads",
        type=int,
        help="threads of every contender [the processors that the process may use]",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", type=int, help="visits to each contender [5]")
    how.add_argument("--time", type=float, help="seconds for each contender and case [0.25]")
    how.add_argument("--budget", type=float, metavar="SECONDS",
                     help="begin no case after so long, and say which were dropped")  # fmt: skip
    how.add_argument("--limits", type=Path, metavar="FILE.json",
                     help="a GPU's, from python -m gossamer.bench.cuda [measured]")  # fmt: skip
    how.add_argument("--quick", action="store_true", default=None,
                     help="a small case, in some seconds")  # fmt: skip
    # The same as the positional argument; a default would undo that one.
    how.add_argument(
        "--suite", choices=suite.SUITES, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    parts = "; ".join(f"{name}: {', '.join(suite.part_names(name))}" for name in suite.SUITES)
    how.add_argument("--part", help=f"of a suite ({parts}) [all]")
    out = parser.add_argument_group("output")
    out.add_argument("--out", type=Path, metavar="FILE.jsonl", help="append a record for each time")
    out.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw times and ratios")
    out.add_argument("--roofline", type=Path, metavar="FILE.svg",
                     help="draw rates below the machine's limits")  # fmt: skip
    out.add_argument("--report", type=Path, metavar="FILE.html",
                     help="write summary, plots and tables as one page")  # fmt: skip
    earlier = parser.add_argument_group("earlier results")
    earlier.add_argument("--read", type=Path, nargs="+", metavar="FILE.jsonl",
                         help="measure nothing: report what earlier runs wrote")  # fmt: skip
    earlier.add_argument("--compare", type=Path, nargs=2, metavar=("A.jsonl", "B.jsonl"),
                         help="measure nothing: say how times changed from A to B")  # fmt: skip
    earlier.add_argument("--fail-above", metavar="5%",
                         help="exit with status 1 if a time of ours grew by more")  # fmt: skip


def load(plugins: Sequence[str]) -> None:
    """Import plugins; what one of them raises is told in one line."""
    for name in plugins:
        try:
            load_plugins([name])
        except (ImportError, ValueError):
            raise
        except Exception as error:  # a plugin is anybody's code
            lines = str(error).splitlines() or [""]
            what = f"{type(error).__name__}: {lines[0]}"
            raise OptionError(f"--plugin {name} cannot be imported: {what}") from error


# Where options apply


def check(args: argparse.Namespace) -> None:
    """Refuse what does not apply, and what would lose a run's results before it begins."""
    for name, given in vars(args).items():
        if isinstance(given, str) and not given.strip():
            raise OptionError(f"--{name.replace('_', '-')} is empty")
    if args.compare:
        _refuse(args, _NOT_WITH_COMPARE, "--compare")
        if args.suite:
            raise OptionError(f"{args.suite} does not apply with --compare")
    elif args.fail_above:
        raise OptionError("--fail-above does not apply without --compare")
    if args.read:
        _refuse(args, _OF_MEASURING, "--read")
    elif args.suite:
        _refuse(args, _NOT_WITH_A_SUITE, f"the suite {args.suite}")
    if args.part and not (args.suite or args.read or args.compare):
        raise OptionError("--part needs a suite")
    if args.matrix:
        _refuse(args, _NOT_WITH_MATRIX, "--matrix")
    if args.limits and _device(args) == "cpu":
        raise OptionError(f"--limits is {args.limits}, a GPU's, expected --device cuda")
    if args.peers == "none" and args.variants == "none":
        raise OptionError("nobody to time: --variants and --peers are none")
    _check_output(args)
    fail_above(args)


def _refuse(args: argparse.Namespace, options: Sequence[str], by: str) -> None:
    for name in options:
        if getattr(args, name, None) is not None:
            raise OptionError(f"--{name} does not apply with {by}")


def _check_output(args: argparse.Namespace) -> None:
    endings = {"plot": PLOT_ENDINGS, "roofline": PLOT_ENDINGS, "report": PAGE_ENDINGS}
    seen: dict[Path, str] = {}
    for name in ("out", *endings):
        option, path = f"--{name}", getattr(args, name)
        if path is None:
            continue
        if path.is_dir():
            raise OptionError(f"{option} is {path}, a folder, expected a file")
        if not path.absolute().parent.is_dir():
            raise OptionError(f"{option} is {path}, but there is no folder {path.parent}")
        if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise OptionError(f"{option} is {path}, which cannot be written")
        if name in endings and path.suffix[1:].lower() not in endings[name]:
            expected = ", ".join(endings[name])
            raise OptionError(f"{option} is {path}, expected an ending of {expected}")
        if name == "out" and (why := why_no_records(path)):
            raise OptionError(f"--out is {path}, which {why}")
        if (other := seen.setdefault(path.absolute(), option)) != option:
            raise OptionError(f"{option} is {path}, as is {other}")
        if name in endings:
            if find_spec("matplotlib") is None:
                raise OptionError(f"{option} needs matplotlib: pip install 'gossamer[bench]'")
            import_module("matplotlib.figure")


def check_drawable(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Refuse a roofline that no case would have a point below."""
    cases = [case for job in jobs for case in job.cases]
    ops = ", ".join(dict.fromkeys(case.op.name for case in cases))
    if args.roofline and not any(case.op.work(case, 1).flops for case in cases):
        raise OptionError(f"--roofline does not apply: {ops} counts no flops")


def check_device(args: argparse.Namespace) -> None:
    """Refuse to measure on a GPU where there is none."""
    if args.device == "cuda" and cuda.is_missing():
        raise OptionError("--device is cuda, but no GPU can be used (see gossamer info)")


def check_scratch() -> None:
    """Refuse to begin where there is no folder for operands."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise OptionError(f"TMPDIR: {error.strerror or error}") from error


def fail_above(args: argparse.Namespace) -> float | None:
    """Read the share by which a time may grow."""
    if args.fail_above is None:
        return None
    text = args.fail_above.strip()
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else math.nan
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise OptionError(f"--fail-above is {text}, expected a percentage such as 5%")
    return share


def _device(args: argparse.Namespace) -> str:
    return args.device or "cpu"


# What options ask for


def plan(args: argparse.Namespace) -> Plan:
    """Say how long to measure."""
    quick = QUICK if args.quick else {}
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


def gpu_limits(args: argparse.Namespace) -> GpuLimits | None:
    """Read the limits of a GPU, where they are given."""
    if args.limits is None:
        return None
    try:
        return GpuLimits(**json.loads(args.limits.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise OptionError(f"--limits is {args.limits}: {error.strerror}") from error
    except (RecursionError, TypeError, ValueError) as error:
        wanted = "what python -m gossamer.bench.cuda prints"
        raise OptionError(f"--limits is {args.limits}, expected {wanted}") from error


def list_jobs(args: argparse.Namespace) -> list[Job]:
    """List what is to be measured."""
    given = _given(args)
    if args.suite:
        jobs = [
            Job(part.name, [c for c in part.cases if _has(c, given)], list(part.contenders))
            for part in parts(args)
        ]
        if not any(job.cases for job in jobs):
            raise OptionError(f"--{', --'.join(given)}: no case of {args.suite} is left")
        return jobs
    names = _contenders(args)
    cases = order(_cases(args, given))
    for option in ("variants", "peers"):
        for name in _listed(args, option):
            if not any(_takes(name, case) for case in cases):
                ops = ", ".join(dict.fromkeys(f"{c.op.name} {c.dtype}" for c in cases))
                raise OptionError(f"--{option}: {name} takes none of the cases ({ops})")
    taken = [case for case in cases if any(_takes(name, case) for name in names)]
    if not taken:
        ops = ", ".join(dict.fromkeys(f"{c.op.name} {c.dtype}" for c in cases))
        raise OptionError(f"nobody to time: no contender takes {ops}")
    return [Job("", taken, names)]


def _takes(name: str, case: Case) -> bool:
    return name in case.op.contenders and case.op.contenders[name].takes(case)


def _has(case: Case, given: dict[str, list[Any]]) -> bool:
    return all(case.parameters.get(name) in values for name, values in given.items())


def parts(args: argparse.Namespace) -> list[Part]:
    """List the parts of the suite that are measured, or judged."""
    names = _names(args.part, suite.part_names(args.suite), "part")
    return suite.named_parts(args.suite, names)


def chooser(args: argparse.Namespace) -> Callable[[Record], bool]:
    """Make what tells whether a record that was read is to be shown."""
    given = _given(args)
    ops = _ops(args) if args.op else list(OPS.values())
    _check_given(given, ops)
    dtypes = _dtypes(args) if args.dtype else list(DTYPES)
    shapes = {(s.m, s.k) for s in _shapes(args.shapes)} if args.shapes else None
    known = {name: c.kind for op in OPS.values() for name, c in op.contenders.items()}
    ours = [name for name, kind in known.items() if kind == "ours"]
    peers = [name for name, kind in known.items() if kind != "ours"]
    found = [part for name in suite.SUITES for part in suite.part_names(name)]
    wanted = None if args.part is None else _names(args.part, found, "part")
    chosen = {*_chosen(args.variants, ours, "variants"), *_chosen(args.peers, peers, "peers")}

    def shown(record: Record) -> bool:
        case = record.case
        shape = (case.parameters.get("m"), case.parameters.get("k"))
        return (
            case.op.name in {op.name for op in ops}
            and case.dtype in dtypes
            and (shapes is None or shape in shapes)
            and (wanted is None or record.part in wanted)
            and _has(case, given)
            and record.contender in chosen
        )

    return shown


def _chosen(text: str | None, known: Sequence[str], option: str) -> list[str]:
    if text == "none":
        return []
    return _names(None if text == ALL_PEERS else text, known, option)


def _listed(args: argparse.Namespace, option: str) -> list[str]:
    """List the contenders that an option names one by one."""
    text = getattr(args, option)
    if text is None or text in ("none", ALL_PEERS):
        return []
    return [name.strip() for name in text.split(",")]


def _contenders(args: argparse.Namespace) -> list[str]:
    known: dict[str, Contender] = {}
    for op in OPS.values():
        for name, contender in op.contenders.items():
            if contender.library.device == _device(args):
                known.setdefault(name, contender)
    ours = [c.name for c in known.values() if c.kind == "ours"]
    peers = [c.name for c in known.values() if c.kind != "ours"]
    variants = args.variants or ",".join(name for name in ours if known[name].default)
    quick = [name for name in QUICK["peers"].split(",") if name in peers] if args.quick else []
    wanted = args.peers or ",".join(quick) or ALL_PEERS
    names = [] if variants == "none" else _names(variants, ours, "variants")
    if wanted == ALL_PEERS:
        names += [name for name in peers if known[name].default]
    elif wanted != "none":
        names += _names(wanted, peers, "peers")
    if args.plugin and args.peers is None:
        names += [name for name in peers if name not in names and known[name].default]
    return names


def _ops(args: argparse.Namespace) -> list[Op]:
    return [OPS[name] for name in _names(args.op or next(iter(OPS)), tuple(OPS), "op")]


def _dtypes(args: argparse.Namespace) -> list[str]:
    named = [short_name(name.strip()) for name in (args.dtype or "f32").split(",")]
    return _names(",".join(named), DTYPES, "dtype")


def _shapes(text: str) -> list[Shape]:
    try:
        return parse_shapes(text)
    except ValueError as error:
        raise OptionError(f"--{error}") from error


def _check_given(given: dict[str, list[Any]], ops: Sequence[Op]) -> None:
    for name in given:
        if not any(p.name == name and p.help for op in ops for p in op.parameters):
            raise OptionError(f"--{name}: {', '.join(op.name for op in ops)} has no {name}")


def _cases(args: argparse.Namespace, given: dict[str, list[Any]]) -> list[Case]:
    ops, dtypes, seed = _ops(args), _dtypes(args), args.seed or 0
    named = ", ".join(op.name for op in ops)
    _check_given(given, ops)
    if not 0 <= seed < 1 << 63:
        raise OptionError(f"--seed is {seed}, expected a number from 0 to 2^63 - 1")
    if args.shapes and not any(p.shape for op in ops for p in op.parameters):
        raise OptionError(f"--shapes: {named} has no shape")
    if args.cold and all(type(op).weights is Op.weights for op in ops):
        raise OptionError(f"--cold: {named} keeps no weights between calls")
    bases: list[tuple[Op, Shape, dict[str, Any]]]
    if args.matrix:
        matrices = _matrices(args, given.get("sparsity", []), dtypes)
        bases = [(op, Shape(*x.shape), _on(op, x)) for x in matrices for op in ops]
    else:
        shapes = _shapes(args.shapes or (QUICK["shapes"] if args.quick else SHAPES))
        bases = [(op, shape, {}) for shape in shapes for op in ops]
    cases = []
    for op, shape, fixed in bases:
        values = {
            p.name: [fixed[p.name]]
            if p.name in fixed
            else _values(p, shape, given, quick=bool(args.quick))
            for p in op.parameters
        }
        # The last parameter varies slowest: cases on one matrix stand together.
        for chosen in product(dtypes, *reversed(values.values())):
            by_name = dict(zip(reversed(values), chosen[1:], strict=True))
            ordered = {name: by_name[name] for name in values}
            cases.append(op.case(dtype=chosen[0], cold=bool(args.cold), seed=seed, **ordered))
    return list(dict.fromkeys(cases))


def _matrices(
    args: argparse.Namespace, sparsities: Sequence[float], dtypes: Sequence[str]
) -> list[GivenMatrix]:
    """Read the matrices, and prune them to each sparsity that is asked for."""
    try:
        read = read_matrices(args.matrix, args.seed or 0)
        read = [x.pruned(share) for x in read for share in sparsities] if sparsities else read
        for matrix in read:
            give(matrix)
            for dtype in dtypes:
                matrix.check(dtype)
    except ValueError as error:
        raise OptionError(f"--matrix: {error}") from error
    return read


def _on(op: Op, matrix: GivenMatrix) -> dict[str, Any]:
    fixed = op.on_matrix(matrix)
    if fixed is None:
        able = ", ".join(x.name for x in OPS.values() if x.on_matrix(matrix) is not None)
        raise OptionError(f"--matrix: {op.name} takes no matrix, expected of {able}")
    return fixed


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
