"""The `gossamer` command: `bench` and `info`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from importlib.util import find_spec

PEERS = ("torch", "jax", "cupy", "scipy", "sparse-dot-mkl", "ml_dtypes")


def print_info() -> int:
    """Print the library's version, its instruction set, threads, CUDA, and the peers' versions."""
    found = import_module("gossamer").info()
    cuda = found["cuda"]
    rows = {
        "gossamer": found["version"],
        "isa": f"{found['isa']} (of {', '.join(found['available_isas'])})",
        "threads": found["threads"],
        "cuda": f"{cuda['devices']} devices" if cuda["available"] else "not available",
        "python": found["python"],
        "numpy": found["numpy"],
    }
    for name in PEERS:
        try:
            rows[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            rows[name] = "not installed"
    for name, value in rows.items():
        print(f"{name:<15} {value}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="gossamer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="version, instruction set, threads, CUDA, peers")
    bench = commands.add_parser(
        "bench",
        help="time gossamer and its peers on the same operands",
        description="Check, then time gossamer and whichever peers are installed, each in a "
        "process of its own, in interleaved rounds.",
    )
    command = None
    if find_spec("rich"):
        command = import_module("gossamer.bench.command")
        command.add_arguments(bench)
    args, rest = parser.parse_known_args(argv)
    if args.command == "info":
        return print_info()
    if command is None:
        print("gossamer bench needs rich: pip install 'gossamer[bench]'", file=sys.stderr)
        return 2
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    status: int = command.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
