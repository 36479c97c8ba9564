"""The ops of the benchmark, one file a family. A new family is imported and listed here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from ..op import Contender, Op
from ..targets import Part
from . import (
    activation,
    attention,
    backward,
    conversions,
    csr_attention,
    gemm,
    products,
    regrow,
    sddmm,
)
from .prune import passes, patterns, search, select

_FAMILIES = (
    products,
    backward,
    sddmm,
    conversions,
    select,
    patterns,
    search,
    passes,
    regrow,
    activation,
    gemm,
    attention,
    csr_attention,
)

#: The ops by name. The first is what a run with no options measures.
OPS: dict[str, Op] = {op.name: op for family in _FAMILIES for op in family.OPS}


def parts_of(suite: str) -> dict[str, Part]:
    """List the parts of a suite by name."""
    found = [part for family in _FAMILIES for part in family.parts()]
    return {part.name: part for part in found if part.suite == suite}


def load_plugins(names: Sequence[str]) -> None:
    """Add what plugin modules list: OPS, and by an op's name more CONTENDERS of it."""
    for name in names:
        module = import_module(name)
        added: Sequence[Op] = getattr(module, "OPS", ())
        OPS.update({op.name: op for op in added})
        contenders: dict[str, Sequence[Contender]] = getattr(module, "CONTENDERS", {})
        for op, listed in contenders.items():
            if op not in OPS:
                raise ValueError(f"{name}: CONTENDERS has op {op!r}, expected of {', '.join(OPS)}")
            OPS[op].contenders.update({c.name: c for c in listed})
