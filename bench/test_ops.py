"""Times of gossamer's own ops, for one commit to be compared with another.

    pytest bench --benchmark-save=before
    pytest bench --benchmark-compare=before --benchmark-compare-fail=median:10%

The cases, operands and checks are those of `gossamer bench`, which is where the peers are.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from gossamer.bench import case as cases
from gossamer.bench.case import Case, Matrix
from gossamer.bench.contenders import load_contenders

CONTENDERS = load_contenders([])
SHAPES = ((4096, 4096), (768, 3072))

PRODUCTS = [
    Case(op, m, k, n, sparsity)
    for op, widths in (("linear", (1, 8, 32, 128)), ("spmm", (1, 32, 128)), ("spmm-t", (32,)))
    for m, k in SHAPES
    for sparsity in (0.5, 0.9)
    for n in widths
]
LOW = [Case("linear", 4096, 4096, n, 0.9, dtype) for dtype in ("bf16", "f16") for n in (1, 32)]
SAMPLED = [Case("sddmm", 4096, 4096, 64, sparsity) for sparsity in (0.5, 0.9)]
CONVERTED = [
    Case(op, 4096, 4096, 0, sparsity) for op in cases.CONVERSIONS for sparsity in (0.5, 0.9)
]
PAIRS = [
    (name, case)
    for case in [*PRODUCTS, *LOW, *SAMPLED, *CONVERTED]
    for name in ("csr", "packed")
    if CONTENDERS[name].takes(case)
]


@cache
def _matrix(case: Case) -> Matrix:
    return cases.make_matrix(case)


@pytest.mark.parametrize(
    ("name", "case"), PAIRS, ids=[f"{n}-{c.label.replace(' ', '-')}" for n, c in PAIRS]
)
def test_time(benchmark: Any, name: str, case: Case) -> None:
    contender, matrix = CONTENDERS[name], _matrix(case.matrix)
    inputs = cases.make_inputs(case)
    call = contender.bind(case, contender.weights(case, matrix), inputs)
    reference = cases.make_reference(case, matrix, inputs)
    result = contender.result(case, call())
    assert cases.check(case, matrix, reference, result, case.dtype) <= 1
    benchmark.group = case.label
    benchmark.extra_info["nnz"] = matrix.nnz
    benchmark(call)
