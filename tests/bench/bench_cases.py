"""What the tests of the benchmark share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gossamer
from gossamer.bench.families import OPS, products
from gossamer.bench.families.conversions import Conversion
from gossamer.bench.families.sparse import SparseOp
from gossamer.bench.op import Case, Contender
from library import PATIENCE

HERE = Path(__file__).parent


def environment(**variables: str) -> dict[str, str]:
    """Find gossamer and the plugins of these tests from any folder."""
    paths = [str(HERE), str(Path(gossamer.__file__).resolve().parent.parent)]
    paths += [os.path.abspath(x) for x in os.environ.get("PYTHONPATH", "").split(os.pathsep) if x]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | variables


@contextlib.contextmanager
def plugins_forgotten() -> Iterator[None]:
    """Undo what plugins that this process loads add to the ops."""
    ops = dict(OPS)
    contenders = {name: dict(op.contenders) for name, op in OPS.items()}
    try:
        yield
    finally:
        OPS.clear()
        OPS.update(ops)
        for name, op in OPS.items():
            op.contenders.clear()
            op.contenders.update(contenders[name])


def run_gossamer(
    *arguments: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "gossamer", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(**variables),
        cwd=cwd,
        check=False,
    )


def make_case(op: str, m: int, k: int, width: int = 5, sparsity: float = 0.5, **other: Any) -> Case:
    """Make a case, with a width (or depth) and a sparsity where the op has them."""
    names = {p.name for p in OPS[op].parameters}
    numbers = {"n": width, "depth": width, "sparsity": sparsity}
    return OPS[op].case(m=m, k=k, **{x: y for x, y in numbers.items() if x in names}, **other)


def takers(case: Case) -> list[Contender]:
    """List who can compute a case here."""
    known = case.op.contenders.values()
    return [
        c
        for c in known
        if c.takes(case) and c.library.missing() is None and c.library.device == "cpu"
    ]


def returned(who: Contender, case: Case, weights: Any, inputs: dict[str, Any]) -> Any:
    """Compute a case as a contender does."""
    return who.result(case, who.bind(case, who.hold(case, weights), inputs)())


SPARSE_OPS = [op.name for op in OPS.values() if isinstance(op, SparseOp)]


PRODUCTS = [op.name for op in products.OPS]


CONVERSIONS = [op.name for op in OPS.values() if isinstance(op, Conversion)]


QUICK = ("bench", "--quick", "--shapes", "24x40,40x24", "--threads", "1", "--rounds", "2")
