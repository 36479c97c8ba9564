"""Parameters that several families have."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

from ..op import Parameter


def positive(text: str) -> int:
    """Read a positive integer."""
    number = int(text)
    if not 1 <= number < 1 << 31:
        raise ValueError
    return number


def fraction(text: str) -> float:
    """Read a share that leaves something."""
    share = float(text)
    if not (isfinite(share) and 0.0 <= share < 1.0):
        raise ValueError
    return share


def percent(share: float) -> str:
    """Write a share."""
    return f"{100 * share:g}%"


M = Parameter("m", parse=positive, shape=True)
K = Parameter("k", parse=positive, shape=True)
N = Parameter(
    "n",
    help="positive integers: widths of the dense operand [1,32,128, or the shape list's own]",
    usual="1,32,128",
    quick="1,32",
    parse=positive,
    head="N",
    label=lambda n: f"N={n}",
)
SPARSITY = Parameter(
    "sparsity",
    help="fractions in [0, 1) of zeros [0.8,0.9]",
    usual="0.8,0.9",
    quick="0.9",
    parse=fraction,
    head="sparsity",
    text=percent,
    label=percent,
)


def fixed(parameter: Parameter, value: object) -> Parameter:
    """Show a parameter that the op leaves no choice of."""
    return replace(parameter, help="", default=value)
