"""`read`: in turn with the others reads as many bytes as the case must move, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, cast

from ..dtypes import Array
from ..libraries import GOSSAMER, Call
from ..op import Case, Contender


def read_probe(dtypes: Sequence[str]) -> Contender:
    """Make the contender, for an op whose bytes do not depend on what is drawn."""

    def bind(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
        size = case.op.work(case, case.op.nnz(case, None)).bytes
        return cast("Call", import_module("gossamer._core").ReadProbe(int(size)))

    return Contender(
        name="read",
        kind="limit",
        library=GOSSAMER,
        hold=lambda case, weights: None,
        bind=bind,
        result=lambda case, returned: returned,
        dtypes=dtypes,
    )
