"""Measures of graphs against loops over their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest
from gossamer import CSR, graph
from oracle import DTYPES, random_sparse

F32 = np.float32


@pytest.fixture(autouse=True)
def _restored_threads() -> Any:
    before = gossamer.get_num_threads()
    yield
    gossamer.set_num_threads(before)


def adjacency(n: int, seed: int = 0, dtype: Any = F32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    edges = rng.random((n, n)) < 0.2
    edges |= edges.T
    edges[0] = edges[:, 0] = False
    return edges.astype(dtype)


def wide(a: CSR) -> CSR:
    indptr, indices = (np.asarray(i).astype(np.int64) for i in (a.indptr, a.indices))
    return CSR(indptr, indices, a.values, a.shape, index_dtype="int64")


def teddy(a: np.ndarray) -> np.ndarray:
    """Score the edges, one at a time."""
    degree = (a != 0).sum(1)
    near = [
        sum(degree[j] ** -0.5 for j in np.flatnonzero(row) if degree[j]) / d if d else 0
        for row, d in zip(a, degree, strict=True)
    ]
    return np.array(
        [
            np.inf if i == j else near[i] / degree[i] * (near[j] / degree[j] if degree[j] else 0)
            for i, j in zip(*np.nonzero(a), strict=True)
        ]
    )


@pytest.mark.parametrize("n", [1, 2, 17, 60])
@pytest.mark.parametrize("convert", [lambda a: a, wide])
def test_edge_score_equals_a_loop(n: int, convert: Callable[[CSR], CSR]) -> None:
    a = adjacency(n)
    scores = graph.edge_score(convert(CSR.from_dense(a)))
    assert scores.dtype == F32
    np.testing.assert_allclose(scores, teddy(a), rtol=1e-5)


def test_edge_score_of_a_directed_graph_with_dead_ends() -> None:
    a = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], F32)
    np.testing.assert_allclose(graph.edge_score(CSR.from_dense(a)), teddy(a), rtol=1e-6)


def test_self_loops_are_pruned_last() -> None:
    a = adjacency(40)
    np.fill_diagonal(a, np.arange(40) % 2)
    csr = CSR.from_dense(a)
    row = np.repeat(np.arange(40), np.diff(csr.indptr))
    scores = graph.edge_score(csr)
    np.testing.assert_array_equal(np.isinf(scores), row == csr.indices)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(1, 1), (40, 3), (3, 700), (300, 50)])
def test_strength(shape: tuple[int, int], axis: int, dtype: Any) -> None:
    a = random_sparse(shape, 0.5, dtype, 1, integers=True)
    want = np.abs(a.astype(np.float64)).sum(axis)
    for csr in (CSR.from_dense(a), wide(CSR.from_dense(a))):
        got = graph.strength(csr, axis)
        assert got.dtype == (np.float64 if dtype == np.float64 else F32)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_results_follow_the_framework(framework: str) -> None:
    module = pytest.importorskip(framework)
    dense = adjacency(9)
    dense[2, 2] = 1
    array = module.from_numpy(dense) if framework == "torch" else module.numpy.asarray(dense)
    a = CSR.from_dense(array)
    kind = module.Tensor if framework == "torch" else module.Array
    for result in (
        graph.edge_score(a),
        graph.strength(a, 0),
        graph.row_sum(a),
        graph.row_max(a),
        graph.scale_rows_cols(a).values,
    ):
        assert isinstance(result, kind)
    np.testing.assert_array_equal(np.asarray(graph.strength(a, 1)), dense.sum(1))


def test_threads_change_no_bit() -> None:
    rng = np.random.default_rng(1)
    dense = np.where(rng.random((700, 700)) < 0.3, rng.standard_normal((700, 700)), 0).astype(F32)
    a = CSR.from_dense(dense)
    results = set()
    for threads in (1, 2, 3):
        gossamer.set_num_threads(threads)
        parts = (
            graph.edge_score(a),
            graph.strength(a, 0),
            graph.strength(a, 1),
            graph.row_sum(a),
            graph.row_max(a),
            graph.scale_rows_cols(a, rows=graph.row_sum(a)).values,
        )
        results.add(tuple(part.tobytes() for part in parts))
    assert len(results) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0), (1, 1), (40, 3), (3, 700), (300, 50)])
def test_rows_are_summed_and_scaled(shape: tuple[int, int], dtype: Any) -> None:
    dense = random_sparse(shape, 0.5, dtype, 1, integers=True)
    wanted = dense.astype(np.float64)
    real = np.float64 if dtype == np.float64 else F32
    rng = np.random.default_rng(2)
    left, right = (rng.integers(-3, 4, n).astype(real) for n in shape)
    for csr in (CSR.from_dense(dense), wide(CSR.from_dense(dense))):
        sums = graph.row_sum(csr)
        assert sums.dtype == real
        np.testing.assert_array_equal(sums, wanted.sum(1))
        stored = np.where(wanted != 0, wanted, -np.inf)
        largest = graph.row_max(csr)
        assert largest.dtype == real
        np.testing.assert_array_equal(largest, stored.max(1, initial=-np.inf))
        for rows, cols in ((left, right), (left, None), (None, right), (None, None)):
            scaled = graph.scale_rows_cols(csr, rows=rows, cols=cols)
            want = (1 if rows is None else rows[:, None]) * wanted * (1 if cols is None else cols)
            assert scaled.dtype == csr.dtype
            np.testing.assert_array_equal(scaled.to_dense().astype(np.float64), want)


def test_a_pattern_counts_ones() -> None:
    dense = adjacency(30)
    pattern = CSR.from_dense(dense).with_values(None)
    np.testing.assert_array_equal(graph.row_sum(pattern), dense.sum(1))
    left = np.arange(30, dtype=F32)
    scaled = graph.scale_rows_cols(pattern, rows=left, cols=left)
    np.testing.assert_array_equal(scaled.to_dense(), left[:, None] * dense * left)
    np.testing.assert_array_equal(
        graph.edge_score(pattern), graph.edge_score(CSR.from_dense(dense))
    )


def test_normalised_adjacency() -> None:
    """The rows of D^-½·A·D^-½ by its definition; the node without edges keeps zeros."""
    dense = adjacency(50)
    a = CSR.from_dense(dense)
    root = graph.row_sum(a, power=-0.5)
    assert root[0] == 0
    degree = dense.sum(1)
    want = dense / np.sqrt(np.maximum(degree, 1)[:, None] * np.maximum(degree, 1))
    got = graph.scale_rows_cols(a, rows=root, cols=root)
    np.testing.assert_allclose(got.to_dense(), want, rtol=1e-6)
    mean = graph.scale_rows_cols(a, rows=graph.row_sum(a, power=-1))
    np.testing.assert_allclose(mean.to_dense().sum(1), degree > 0, rtol=1e-6)


def test_several_sets_of_values() -> None:
    a = CSR.from_dense(adjacency(20))
    values = np.random.default_rng(0).integers(-5, 6, (3, 2, a.nnz)).astype(F32)
    many = a.with_values(values)
    factor = np.arange(20, dtype=F32)
    for i in np.ndindex(3, 2):
        one = a.with_values(values[i])
        np.testing.assert_array_equal(graph.row_sum(many)[i], graph.row_sum(one))
        np.testing.assert_array_equal(graph.row_max(many)[i], graph.row_max(one))
        np.testing.assert_array_equal(
            graph.scale_rows_cols(many, cols=factor).values[i],
            graph.scale_rows_cols(one, cols=factor).values,
        )


def test_row_max_passes_nan_on() -> None:
    for n in (1, 5, 16, 40):
        for place in range(n):
            x = np.zeros((3, n), F32)
            x[1, place] = np.nan
            a = CSR.from_dense(x, mask=np.ones_like(x, bool))
            np.testing.assert_array_equal(graph.row_max(a), [0, np.nan, 0])


def test_gradients_of_the_documented_compositions() -> None:
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((9, 12)) < 0.5, rng.standard_normal((9, 12)), 0)
    a, rows, cols = CSR.from_dense(dense), rng.standard_normal(9), rng.standard_normal(12)
    g = rng.standard_normal(a.nnz)

    def value(values: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
        scaled = graph.scale_rows_cols(a.with_values(values), rows=left, cols=right)
        return float(scaled.values @ g)

    def difference(i: int, at: int) -> float:
        parts = [a.values.copy(), rows.copy(), cols.copy()]
        parts[i][at] += 1
        return value(*parts) - value(a.values, rows, cols)  # the function is linear in each

    products = a.with_values(g * a.values)
    transposed, permutation = a.transpose()
    theirs = transposed.with_values((g * a.values)[permutation])
    got = (
        graph.scale_rows_cols(a.with_values(g), rows=rows, cols=cols).values,
        graph.row_sum(graph.scale_rows_cols(products, cols=cols)),
        graph.row_sum(graph.scale_rows_cols(theirs, cols=rows)),
    )
    for i, gradient in enumerate(got):
        want = [difference(i, at) for at in range(gradient.size)]
        np.testing.assert_allclose(gradient, want, atol=1e-10)


A = CSR.from_dense(np.array([[1, 0, 2], [0, 3, 0]], F32))
P = A.with_values(None)
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: graph.edge_score(A),
        ValueError,
        "edge_score: a.shape is (2, 3), expected a square matrix",
    ),
    (lambda: graph.edge_score(3), TypeError, "edge_score: a is a int, expected a CSR"),  # type: ignore[arg-type]
    (lambda: graph.row_sum(3), TypeError, "row_sum: a is a int, expected a CSR"),  # type: ignore[arg-type]
    (
        lambda: graph.strength(P, 0),
        ValueError,
        "strength: a.values is None, expected an array of shape (3,)",
    ),
    (lambda: graph.row_max(P), ValueError, "row_max: a.values is None, expected an array"),
    (
        lambda: graph.row_sum(A, power="x"),  # type: ignore[arg-type]
        TypeError,
        "row_sum: power is 'x', expected a number",
    ),
    (
        lambda: graph.row_sum(A, out=np.ones(3, F32)),
        ValueError,
        "row_sum: out.shape is (3,), expected (2,)",
    ),
    (
        lambda: graph.row_sum(A, out=np.ones(2)),
        TypeError,
        "row_sum: out.dtype is float64, expected float32",
    ),
    (
        lambda: graph.scale_rows_cols(P),
        ValueError,
        "scale_rows_cols: a.values, rows and cols are None, expected one of them",
    ),
    (
        lambda: graph.scale_rows_cols(A, rows=np.ones(3, F32)),
        ValueError,
        "scale_rows_cols: rows.shape[0] is 3, expected a.shape[0] = 2",
    ),
    (
        lambda: graph.scale_rows_cols(A, cols=np.ones(3)),
        TypeError,
        "scale_rows_cols: cols.dtype is float64, expected float32",
    ),
    (
        lambda: graph.scale_rows_cols(A, out=A.values),
        ValueError,
        "scale_rows_cols: out overlaps a.values, expected separate memory",
    ),
    (lambda: graph.strength(A, 2), ValueError, "strength: axis is 2, expected 0 or 1"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_results_are_written_to_out() -> None:
    a = CSR.from_dense(np.array([[0, 2], [3, 0]], F32))
    out = np.empty(2, F32)
    assert graph.edge_score(a, out=out) is out
    assert out.tolist() == [1, 1]
    assert graph.strength(a, 0, out=out) is out
    assert out.tolist() == [3, 2]
