"""Times of gossamer's own ops, for one commit to be compared with another.

    pytest bench --benchmark-save=before
    pytest bench --benchmark-compare=before --benchmark-compare-fail=median:10%

The cases, operands and checks are those of `gossamer bench`, which is where the peers are.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from gossamer.bench.families import OPS
from gossamer.bench.families.sparse import Matrix, draw_matrix
from gossamer.bench.op import Case

SHAPES = ((4096, 4096), (768, 3072))
SQUARE = {"m": 4096, "k": 4096}

PRODUCTS = [
    OPS[op].case(m=m, k=k, n=n, sparsity=sparsity)
    for op, widths in (("linear", (1, 8, 32, 128)), ("spmm", (1, 32, 128)), ("spmm-t", (32,)))
    for m, k in SHAPES
    for sparsity in (0.5, 0.9)
    for n in widths
]
LOW = [
    OPS["linear"].case(**SQUARE, n=n, sparsity=0.9, dtype=dtype)
    for dtype in ("bf16", "f16")
    for n in (1, 32)
]
SAMPLED = [OPS["sddmm"].case(**SQUARE, depth=64, sparsity=sparsity) for sparsity in (0.5, 0.9)]
CONVERTED = [
    OPS[op].case(**SQUARE, sparsity=sparsity)
    for op in ("from_dense", "to_dense", "transpose")
    for sparsity in (0.5, 0.9)
]
PAIRS = [
    (name, case)
    for case in [*PRODUCTS, *LOW, *SAMPLED, *CONVERTED]
    for name in ("csr", "packed")
    if name in case.op.contenders and case.op.contenders[name].takes(case)
]


@cache
def _matrix(m: int, k: int, sparsity: float, dtype: str) -> Matrix:
    return draw_matrix(OPS["spmm"].case(m=m, k=k, n=1, sparsity=sparsity, dtype=dtype))


@pytest.mark.parametrize(
    ("name", "case"), PAIRS, ids=[f"{n}-{c.label.replace(' ', '-')}" for n, c in PAIRS]
)
def test_time(benchmark: Any, name: str, case: Case) -> None:
    op, contender = case.op, case.op.contenders[name]
    matrix = _matrix(case["m"], case["k"], case["sparsity"], case.dtype)
    inputs = op.inputs(case)
    call = contender.bind(case, contender.hold(case, matrix), inputs)
    result = contender.result(case, call())
    assert op.error(case, matrix, op.reference(case, matrix, inputs), result, case.dtype) <= 1
    benchmark.group = case.label
    benchmark.extra_info["nnz"] = matrix.nnz
    benchmark(call)
