"""What the papers' scripts share: claims that fail with a message, and a command line."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Papers = Mapping[str, Callable[[], dict[str, Any]]]


def claim(holds: Any, message: str) -> None:
    """Stop the script with a message and exit status 1 unless a claim holds."""
    if not holds:
        raise SystemExit(f"This should hold, and does not: {message}")


def run(papers: Papers, description: str, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the papers that the command line names, all of them by default; return their figures."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("papers", nargs="*", metavar="paper", help=", ".join(papers))
    names = parser.parse_args(argv).papers or list(papers)
    for name in names:
        if name not in papers:
            parser.error(f"{name} is none of {', '.join(papers)}")
    found = {}
    for name in names:
        start = time.perf_counter()
        found[name] = papers[name]()
        seconds = time.perf_counter() - start
        print(f"{name} ({seconds:.1f} s): " + "; ".join(map(tell, found[name].items())))
    return found


def tell(figure: tuple[str, Any]) -> str:
    """Write a named figure, or several of them."""
    name, value = figure
    if isinstance(value, Mapping):
        return f"{name}: " + ", ".join(map(tell, ((str(k), v) for k, v in value.items())))
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
