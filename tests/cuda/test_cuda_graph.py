"""Scores of edges and strengths of nodes on GPUs, against the CPU's."""

from __future__ import annotations

from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from device import Device
from gossamer import graph

pytestmark = pytest.mark.gpu


def name(dtype: type) -> str:
    return np.dtype(dtype).name


def moved(gpu: Device, a: gossamer.CSR) -> gossamer.CSR:
    return gossamer.CSR(*(gpu.put(x) for x in (a.indptr, a.indices, a.values)), a.shape)


@pytest.mark.parametrize("n", [1, 30, 400])
@pytest.mark.parametrize("valued", [True, False])
def test_scores_of_edges_are_the_cpus_bits(gpu: Device, n: int, valued: bool) -> None:
    dense = np.asarray(oracle.random_sparse((n, n), 0.1, np.float32, seed=n))
    np.fill_diagonal(dense, 1)
    if n > 2:
        dense[0], dense[1] = 1, 0
    a = gossamer.CSR.from_dense(dense)
    there = moved(gpu, a)
    got = graph.edge_score(there if valued else there.with_values(None))
    want = graph.edge_score(a)
    assert gpu.get(got).tobytes() == np.asarray(want).tobytes()
    out = gpu.put(np.zeros(a.nnz, np.float32))
    assert graph.edge_score(there, out=out) is out
    np.testing.assert_array_equal(gpu.get(out), want)


def test_scores_of_no_edges(gpu: Device) -> None:
    there = moved(gpu, gossamer.CSR.from_dense(np.zeros((5, 5), np.float32)))
    assert gpu.get(graph.edge_score(there)).shape == (0,)
    with pytest.raises(ValueError, match=r"^edge_score: a\.shape is \(2, 3\), expected a square"):
        graph.edge_score(gpu.csr(np.ones((2, 3), np.float32)))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("shape", [(1, 1), (40, 30), (3, 2000), (700, 20), (0, 4), (4, 0)], ids=str)
def test_strengths_are_the_cpus(gpu: Device, dtype: Any, shape: tuple[int, int]) -> None:
    # Small integers: sums are exact.
    dense = oracle.random_sparse(shape, 0.3, dtype, seed=2, integers=True)
    if min(shape) > 2:
        dense[0], dense[1], dense[:, 2] = -2, 0, 0
    a = gossamer.CSR.from_dense(dense)
    for axis in (0, 1):
        got, want = gpu.get(graph.strength(moved(gpu, a), axis)), graph.strength(a, axis)
        assert got.dtype == np.asarray(want).dtype
        np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match=r"^strength: axis is 2, expected 0 or 1$"):
        graph.strength(moved(gpu, a), 2)
