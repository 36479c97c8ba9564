"""The `gossamer` command: `bench` and `info`."""

from __future__ import annotations

import argparse
import codecs
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, NoReturn

PACKAGES = ("torch", "jax", "cupy", "scipy", "sparse-dot-mkl", "ml_dtypes")
INTERRUPTED, CLOSED_PIPE = 130, 141  # as a shell reports SIGINT and SIGPIPE


class Parser(argparse.ArgumentParser):
    """Tells of a wrong option in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def facts() -> dict[str, Any]:
    """Collect what `gossamer.info` tells, and the versions of other packages or None."""
    found: dict[str, Any] = import_module("gossamer").info()
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    return {**found, "packages": packages}


def print_info(*, as_json: bool) -> int:
    """Print the library's version, its instruction set, threads, CUDA, and others' versions."""
    found = facts()
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    cuda = found["cuda"]
    rows = {
        "gossamer": found["version"],
        "isa": f"{found['isa']} (of {', '.join(found['available_isas'])})",
        "threads": found["threads"],
        "cuda": f"{cuda['devices']} devices" if cuda["available"] else "not available",
        "python": found["python"],
        "numpy": found["numpy"],
        **{name: version or "not installed" for name, version in found["packages"].items()},
    }
    for name, value in rows.items():
        print(f"{name:<15} {value}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    _take_any_text()
    try:
        try:
            return _run(sys.argv[1:] if argv is None else list(argv))
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("gossamer: interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        # Nobody reads on, or there is no room: what is still buffered must not be written when
        # the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return CLOSED_PIPE
        print(f"gossamer: {error}", file=sys.stderr)
        return 1


def _run(argv: list[str]) -> int:
    parser = Parser(prog="gossamer", description=__doc__)
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument(
        "--cmakedir", action="store_true", help="print where CMake finds gossamerConfig.cmake"
    )
    commands = parser.add_subparsers(dest="command", metavar="{info,bench}")
    info = commands.add_parser("info", help="version, instruction set, threads, CUDA, packages")
    info.add_argument("--json", action="store_true", help="print it as one JSON object")
    bench = commands.add_parser(
        "bench",
        help="time gossamer and its peers on the same operands",
        description="Check, then time gossamer and whichever peers are installed, each in a "
        "process of its own, in interleaved rounds.",
    )
    command = import_module("gossamer.bench.command") if find_spec("rich") else None
    wants_bench = next((x for x in argv if not x.startswith("-")), None) == "bench"
    if wants_bench and command is not None:
        _or_exit(parser, lambda: command.add_arguments(bench, argv))
    args, rest = parser.parse_known_args(argv)
    if args.version:
        print(f"gossamer {import_module('gossamer').__version__}")
        return 0
    if args.cmakedir:
        print(_or_exit(parser, import_module("gossamer").cmake_dir))
        return 0
    if args.command == "bench" and command is None:
        print("gossamer bench needs rich: pip install 'gossamer[bench]'", file=sys.stderr)
        return 2
    if rest:
        (bench if args.command == "bench" else parser).error(f"unknown arguments: {' '.join(rest)}")
    if args.command == "info":
        return int(_or_exit(parser, lambda: print_info(as_json=args.json)))
    if args.command is None:
        parser.error("expected a command: info or bench (gossamer --help says more)")
    assert command is not None
    status: int = command.run(args)
    return status


def _or_exit(parser: Parser, call: Callable[[], Any]) -> Any:
    """Call; tell in one line what the environment or an option does not allow."""
    try:
        return call()
    except (ValueError, ImportError, FileNotFoundError) as error:
        parser.error(str(error))


_PLAIN = {"µ": "u", "×": "x", "²": "2", "≤": "<=", "≥": ">=", "–": "-", "…": "..."}


def _as_plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, "?") for c in text), error.end


def _take_any_text() -> None:
    """Let a terminal or file of any encoding take what is printed, and do without either."""
    codecs.register_error("gossamer.plain", _as_plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="gossamer.plain")


if __name__ == "__main__":
    sys.exit(main())
