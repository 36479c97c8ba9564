"""Shapes: `MxK` on the command line, the layers of a real model by name, or a file of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple


class Shape(NamedTuple):
    """A weight of m outputs by k inputs and, for layers that have one, the natural width n."""

    m: int
    k: int
    n: int | None = None


def shape_lists() -> list[str]:
    """Name the lists that are shipped."""
    folder = files(__package__) / "shapes"
    return sorted(entry.name[:-4] for entry in folder.iterdir() if entry.name.endswith(".txt"))


def parse_list(text: str, name: str = "shapes") -> list[Shape]:
    """Read lines of `M K [N]`; `#` starts a comment."""
    shapes = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split("#")[0].split()
        if not fields:
            continue
        if len(fields) not in (2, 3) or not all(re.fullmatch(_SIDE, f) for f in fields):
            raise ValueError(f"{name}: line {number} is {line[:60]!r}, expected 'M K [N]'")
        shapes.append(_shape(fields, f"{name}: line {number}"))
    return shapes


def parse_shapes(spec: str) -> list[Shape]:
    """Read a comma-separated mixture of `MxK`, `MxKxN`, names of lists and files of lists."""
    shapes: list[Shape] = []
    for item in spec.split(","):
        name = item.strip()
        if re.fullmatch(rf"{_SIDE}x{_SIDE}(x{_SIDE})?", name):
            shapes.append(_shape(name.split("x"), f"shapes: got {name!r}"))
        elif name in shape_lists():
            shapes += parse_list((files(__package__) / "shapes" / f"{name}.txt").read_text())
        elif name and Path(name).exists():
            shapes += _read_list(Path(name))
        else:
            known = ", ".join(shape_lists())
            raise ValueError(f"shapes: got {name!r}, expected MxK or one of {known}, or a file")
    return list(dict.fromkeys(shapes))


_SIDE = r"[1-9][0-9]{,9}"


def _shape(fields: Sequence[str], where: str) -> Shape:
    shape = Shape(*map(int, fields))
    if max(shape[:2]) >= 1 << 31:
        raise ValueError(f"{where}, expected sides below 2^31")
    return shape


def _read_list(path: Path) -> list[Shape]:
    try:
        shapes = parse_list(path.read_text(encoding="utf-8-sig"), f"shapes: {path}")
    except OSError as error:
        raise ValueError(f"shapes: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"shapes: {path} is not text, expected lines 'M K [N]'") from error
    if not shapes:
        raise ValueError(f"shapes: {path} has no shape, expected lines 'M K [N]'")
    return shapes
