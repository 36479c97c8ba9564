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
        )
        results.add(tuple(part.tobytes() for part in parts))
    assert len(results) == 1


A = CSR.from_dense(np.array([[1, 0, 2], [0, 3, 0]], F32))
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: graph.edge_score(A),
        ValueError,
        "edge_score: a.shape is (2, 3), expected a square matrix",
    ),
    (lambda: graph.edge_score(3), TypeError, "edge_score: a is a int, expected a CSR"),  # type: ignore[arg-type]
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
