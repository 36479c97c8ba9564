"""Softmax, attention and sums over the entries of CSR patterns on GPUs, against the CPU."""

from __future__ import annotations

from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from device import Device
from gossamer import CSR, graph

pytestmark = pytest.mark.gpu

F32, F64 = np.float32, np.float64


def name(dtype: Any) -> str:
    return np.dtype(dtype).name


def wide(x: Any) -> np.ndarray:
    return np.asarray(x).astype(F64)


def near(got: np.ndarray, want: np.ndarray, dtype: Any, scale: float = 1.0) -> None:
    """Compare with what the type and sums in float32 can hold."""
    assert got.dtype == dtype
    roundoff = max(oracle.unit_roundoff(dtype), 2.0**-50)
    size = np.abs(want[np.isfinite(want)]).max(initial=1) * scale
    np.testing.assert_allclose(wide(got), want, rtol=2 * roundoff, atol=24 * roundoff * size)


def mask_of(rows: int, cols: int, density: float, long: bool = True) -> np.ndarray:
    """Draw a mask whose second row is empty and, if `long`, whose first is full."""
    mask = np.random.default_rng(rows).random((rows, cols)) < density
    if rows:
        mask[0] |= long
        mask[1:2] = False
    return mask


def pattern_of(mask: np.ndarray) -> CSR:
    return CSR.from_dense(mask.astype(F32)).with_values(None)


def there(gpu: Device, a: CSR, values: Any = None) -> CSR:
    put = None if values is None else gpu.put(values)
    return CSR(gpu.put(np.asarray(a.indptr)), gpu.put(np.asarray(a.indices)), put, a.shape)


# Rows.

#: Thin and long rows, rows longer than the cut, one entry, nothing.
MASKS = [
    *(mask_of(40, 900, 0.01), mask_of(5, 300, 0.5), mask_of(1, 1, 1), mask_of(2, 0, 1)),
    mask_of(0, 3, 1),
]


def draw(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_rows_of_graphs(gpu: Device, dtype: type) -> None:
    real = F64 if dtype == F64 else F32
    for mask in MASKS:
        a = pattern_of(mask)
        v = np.random.default_rng(1).integers(-3, 4, (2, 2, a.nnz)).astype(dtype)
        moved, same = there(gpu, a, v), a.with_values(v)
        for op in (graph.row_sum, graph.row_max):
            got = gpu.get(op(moved))
            assert got.dtype == real
            np.testing.assert_array_equal(got, op(same))
        rows, cols = (np.arange(n, dtype=real) % 3 for n in a.shape)
        got = graph.scale_rows_cols(moved, rows=gpu.put(rows), cols=gpu.put(cols)).values
        want = np.asarray(graph.scale_rows_cols(same, rows=rows, cols=cols).values)
        np.testing.assert_array_equal(gpu.get(got), want)


def test_degrees_and_the_normalised_adjacency(gpu: Device) -> None:
    a = pattern_of(mask_of(30, 30, 0.2))
    moved = there(gpu, a)
    np.testing.assert_array_equal(gpu.get(graph.row_sum(moved)), graph.row_sum(a))
    root = graph.row_sum(moved, power=-0.5)
    want = np.asarray(graph.row_sum(a, power=-0.5))
    np.testing.assert_allclose(gpu.get(root), want, rtol=1e-6)
    assert gpu.get(root)[1] == 0
    scaled = graph.scale_rows_cols(moved, rows=root, cols=root)
    np.testing.assert_allclose(
        gpu.get(scaled.values), graph.scale_rows_cols(a, rows=want, cols=want).values, rtol=1e-6
    )


def test_the_largest_of_a_row_with_a_nan_is_nan(gpu: Device) -> None:
    a = CSR.from_dense(np.array([[np.nan, 2], [-np.inf, 0], [0, 0]], F32))
    got = gpu.get(graph.row_max(there(gpu, a, np.asarray(a.values))))
    np.testing.assert_array_equal(got, [np.nan, -np.inf, -np.inf])


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_softmax_and_its_gradient(gpu: Device, dtype: type) -> None:
    for mask in MASKS:
        a = pattern_of(mask)
        x = 3 * draw((2, a.nnz), dtype)
        x[:, -1:] = -np.inf
        g = draw((2, a.nnz), dtype, 1)
        p = gossamer.csr_softmax(there(gpu, a, x))
        want = np.asarray(gossamer.csr_softmax(a.with_values(wide(x))).values)
        y = gpu.get(p.values)
        near(y, want, dtype)
        got = gpu.get(gossamer.csr_softmax_backward(p, gpu.put(g)).values)
        slope = gossamer.csr_softmax_backward(a.with_values(wide(y)), wide(g))
        near(got, np.asarray(slope.values), dtype)


def test_softmax_of_what_has_no_finite_score(gpu: Device) -> None:
    a = CSR.from_dense(np.array([[-np.inf, -np.inf], [np.nan, 1], [2, 0]], F32))
    got = gossamer.csr_softmax(there(gpu, a, np.asarray(a.values)))
    np.testing.assert_array_equal(gpu.get(got.values), [0, 0, np.nan, np.nan, 1])


# Attention.

#: B, M, H, H', N, D, Dv, density, patterns: one sequence, groups of heads, depths that fill no
#: vector, long rows, patterns for each head and for each of all, also of heads that share keys.
CASES: list[tuple[Any, ...]] = [
    (2, 9, 4, 2, 40, 16, 8, 0.2, "one"),
    (1, 5, 2, 2, 700, 8, 16, 0.6, "one"),
    (2, 7, 2, 2, 12, 5, 3, 0.4, "heads"),
    (2, 6, 2, 2, 9, 8, 8, 0.5, "all"),
    (2, 6, 4, 2, 9, 8, 8, 0.5, "heads"),
    (2, 3, 4, 2, 300, 4, 4, 0.9, "all"),
    (1, 2, 1, 1, 3, 300, 270, 0.9, "one"),
    (1, 1, 1, 1, 1, 1, 1, 1.0, "one"),
]


class Case:
    def __init__(self, case: tuple[Any, ...], dtype: Any, gat: bool, biased: bool) -> None:
        b, m, h, kv, n, d, dv, density, patterns = case
        stacks = {"one": 1, "heads": h, "all": b * h}[patterns]
        self.pattern = pattern_of(np.concatenate([mask_of(m, n, density)] * stacks))
        depth = () if gat else (d,)
        self.q, self.k = draw((b, m, h, *depth), dtype), draw((b, n, kv, *depth), dtype, 1)
        self.v, self.grad = draw((b, n, kv, dv), dtype, 2), draw((b, m, h, dv), dtype, 3)
        self.dlse = draw((b, h, m), F64 if dtype == F64 else F32, 4)
        shape = (h, self.pattern.nnz) if stacks == 1 else (self.pattern.nnz,)
        self.bias = draw(shape, dtype, 5) if biased else None
        self.options: dict[str, Any] = {"score": "gat" if gat else "dot"}


def check_attention(gpu: Device, case: Case, dtype: Any) -> None:
    move = gpu.put
    moved = there(gpu, case.pattern)
    bias = None if case.bias is None else move(case.bias)
    o, lse = gossamer.csr_attention(
        move(case.q), move(case.k), move(case.v), moved, bias=bias, **case.options
    )
    q, k, v, grad, dlse = map(wide, (case.q, case.k, case.v, case.grad, case.dlse))
    exact_bias = None if case.bias is None else wide(case.bias)
    options = {"bias": exact_bias, **case.options}
    want_o, want_lse = gossamer.csr_attention(q, k, v, case.pattern, **options)
    near(gpu.get(o), np.asarray(want_o), dtype)
    near(gpu.get(lse), np.asarray(want_lse), F64 if dtype == F64 else F32)
    got = gossamer.csr_attention_backward(
        *(move(x) for x in (case.grad, case.q, case.k, case.v)),
        *(o, lse, moved),
        bias=bias,
        dlse=move(case.dlse),
        **case.options,
    )
    exact = gossamer.csr_attention_backward(
        *(grad, q, k, v, wide(gpu.get(o)), wide(gpu.get(lse)), case.pattern),
        dlse=dlse,
        **options,
    )
    assert len(got) == len(exact)
    for mine, want in zip(got, exact, strict=True):
        near(gpu.get(mine), np.asarray(want), dtype, 4)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_and_its_gradient(gpu: Device, case: tuple[Any, ...], dtype: type) -> None:
    check_attention(gpu, Case(case, dtype, gat=False, biased=True), dtype)


@pytest.mark.parametrize("case", CASES[:5], ids=str)
def test_gat_and_its_gradient(gpu: Device, case: tuple[Any, ...]) -> None:
    check_attention(gpu, Case(case, F32, gat=True, biased=True), F32)
    check_attention(gpu, Case(case, F32, gat=True, biased=False), F32)


def test_attention_of_integers_is_exact(gpu: Device) -> None:
    """Scores that are far apart leave one key to each query; equal ones the mean of the values."""
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]], bool)
    q = np.ones((3, 1), F32)
    v = np.arange(8, dtype=F32).reshape(4, 2)
    moved = there(gpu, pattern_of(mask))
    far = np.array([[0], [1000], [0], [2000]], F32)
    o, lse = gossamer.csr_attention(gpu.put(q), gpu.put(far), gpu.put(v), moved)
    np.testing.assert_array_equal(gpu.get(o), [v[3], [0, 0], v[1]])
    np.testing.assert_array_equal(gpu.get(lse), [2000, -np.inf, 1000])
    o, _ = gossamer.csr_attention(gpu.put(q), gpu.put(far * 0), gpu.put(v), moved)
    np.testing.assert_array_equal(gpu.get(o)[2], (v[1] + v[2]) / 2)


def test_checks_are_those_of_the_cpu(gpu: Device) -> None:
    moved = there(gpu, pattern_of(np.ones((3, 4), bool)))
    q, k, v = (gpu.put(np.ones((n, 2), F32)) for n in (3, 5, 4))
    with pytest.raises(ValueError, match=r"^csr_attention: k.shape\[0\] is 5, expected pattern"):
        gossamer.csr_attention(q, k, v, moved)
    with pytest.raises(ValueError, match=r"^csr_attention: q is on cpu, expected pattern's device"):
        gossamer.csr_attention(np.ones((3, 2), F32), k, v, moved)
    a = there(gpu, pattern_of(np.ones((3, 4), bool)), np.ones(12, F32))
    with pytest.raises(ValueError, match=r"^csr_softmax: out is on cpu, expected a's device"):
        gossamer.csr_softmax(a, out=np.ones(12, F32))
