"""Parts of the suites: cases, who runs them, and what is demanded of the ratios."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .op import Case, Op
from .shapes import Shape

DENSE_PEERS = ("numpy", "torch")
SPARSE_PEERS = ("torch-csr", "scipy", "mkl")


@dataclass(frozen=True)
class Target:
    """A bound on the geometric mean over cases of others' best time / ours.

    With `at_most`, the mean of our time / others' best time must not exceed the bound. With
    `never_lose`, no single case may be slower than the others. Without others, `seconds` that were
    published take their place, or the machine's limit: the least time in which the case's bytes
    can be moved. Of the part's cases the target speaks of those of `op`, and of those whose
    parameters have one of the values in `where`.
    """

    title: str
    ours: str
    others: tuple[str, ...]
    bound: float
    where: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    op: str | None = None
    at_most: bool = False
    never_lose: bool = False
    seconds: float | None = None

    def speaks_of(self, case: Case) -> bool:
        """Tell whether the case is one of the target's."""
        of_op = self.op is None or case.op.name == self.op
        return of_op and all(
            case.parameters.get(name) in values for name, values in self.where.items()
        )


@dataclass(frozen=True)
class Part:
    """Cases of a suite, who runs them, and what is demanded."""

    suite: str
    name: str
    cases: tuple[Case, ...]
    contenders: tuple[str, ...]
    targets: tuple[Target, ...]


def order(cases: Iterable[Case]) -> list[Case]:
    """Put cases with the same weights side by side, so that these are drawn and packed once."""
    cases = list(cases)
    keys = [case.op.weights_key(case) for case in cases]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    return [case for _, case in sorted(zip(keys, cases, strict=True), key=lambda x: first[x[0]])]


def grid(
    op: Op,
    shapes: Sequence[Shape],
    *,
    sparsity: Sequence[float],
    dtype: str = "f32",
    cold: bool = False,
    **widths: Sequence[int],
) -> list[Case]:
    """List an op's cases of all shapes, sparsities, and values of at most one more parameter."""
    ((name, values),) = widths.items() or [("", (0,))]
    return [
        op.case(m=s.m, k=s.k, sparsity=level, dtype=dtype, cold=cold, **({name: n} if name else {}))
        for s in shapes
        for level in sparsity
        for n in values
    ]
