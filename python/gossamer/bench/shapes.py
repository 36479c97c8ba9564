"""Shape lists: `MxK` on the command line, or the layers of a real model by name."""

from __future__ import annotations

import re
from importlib.resources import files
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


def parse_list(text: str) -> list[Shape]:
    """Read lines of `M K [N]`; `#` starts a comment."""
    shapes = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split("#")[0].split()
        if not fields:
            continue
        if len(fields) not in (2, 3) or not all(f.isdigit() and int(f) > 0 for f in fields):
            raise ValueError(f"shapes: line {number} is {line!r}, expected 'M K [N]'")
        shapes.append(Shape(*map(int, fields)))
    return shapes


def parse_shapes(spec: str) -> list[Shape]:
    """Read a comma-separated mixture of `MxK`, `MxKxN` and list names."""
    shapes: list[Shape] = []
    for item in spec.split(","):
        name = item.strip()
        if re.fullmatch(r"[1-9]\d{,9}x[1-9]\d{,9}(x[1-9]\d{,9})?", name):
            shapes.append(Shape(*map(int, name.split("x"))))
            if max(shapes[-1][:2]) >= 1 << 31:
                raise ValueError(f"shapes: got {name!r}, expected sides below 2^31")
        elif name in shape_lists():
            shapes += parse_list((files(__package__) / "shapes" / f"{name}.txt").read_text())
        else:
            known = ", ".join(shape_lists())
            raise ValueError(f"shapes: got {name!r}, expected MxK or one of {known}")
    return list(dict.fromkeys(shapes))
