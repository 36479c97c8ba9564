"""Counts of pruned layers on GPUs, against the CPU's."""

from __future__ import annotations

from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from device import Device
from gossamer import prune

pytestmark = pytest.mark.gpu

TYPES = [*oracle.DTYPES, np.bool_, np.uint8]


def name(dtype: type) -> str:
    return np.dtype(dtype).name


def sparse(shape: tuple[int, int], dtype: type, seed: int = 0) -> np.ndarray:
    """Draw a matrix with zeros of both signs, and with NaN where there is one."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, shape)
    x[rng.random(shape) < 0.4] = 0
    if np.dtype(dtype).kind in "bui":
        return np.abs(x).astype(dtype)
    made = x.astype(dtype)
    made[rng.random(shape) < 0.1] *= -1
    made[rng.random(shape) < 0.1] = np.nan
    return made


def counted(gpu: Device, there: Any, here: Any, per: Any) -> None:
    got, want = gpu.get(prune.nnz_stats(there, per=per)), prune.nnz_stats(here, per=per)
    assert got.dtype == want.dtype == np.int64
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", TYPES, ids=name)
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (70, 100), (3, 5000), (0, 4), (4, 0)], ids=str)
def test_counts_are_the_cpus(gpu: Device, dtype: type, shape: tuple[int, int]) -> None:
    x = sparse(shape, dtype)
    there = gpu.put(x)
    for per in (None, "row", "column", (1, 16), (3, 7), (64, 33), (2, 40), (9, 9000)):
        counted(gpu, there, x, per)


def test_counts_of_strided_rows_and_tall_blocks(gpu: Device) -> None:
    x = sparse((900, 90), np.float32)
    there = gpu.put(x)
    for per in (None, "column", (450, 1), (500, 80)):
        counted(gpu, there[:, 3:80], x[:, 3:80], per)
    out = gpu.put(np.full(90, -1))
    assert prune.nnz_stats(there, per="column", out=out) is out
    np.testing.assert_array_equal(gpu.get(out), prune.nnz_stats(x, per="column"))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_counts_of_sparse_matrices_are_the_cpus(gpu: Device, dtype: type) -> None:
    dense = oracle.random_sparse((24, 60), 0.3, dtype, seed=1)
    a = gossamer.CSR.from_dense(dense)
    a.values[::5] = 0
    a.values[1::5] = -0.0
    b = gossamer.BSR.from_dense(np.asarray(dense), (4, 6))
    for matrix in (a, b):
        parts = (matrix.indptr, matrix.indices, matrix.values if matrix is a else b.blocks)
        there = type(matrix)(*(gpu.put(np.asarray(p)) for p in parts), matrix.shape)
        for per in (None, "row", "column", (4, 60), (3, 60), (5, 7), (24, 1)):
            counted(gpu, there, matrix, per)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 5000])
@pytest.mark.parametrize("offset", [0, 1])
def test_coverage_is_the_cpus(gpu: Device, n: int, offset: int) -> None:
    rng = np.random.default_rng(n)
    fired, mask = rng.random(n + 1) < 0.3, rng.random(n + 1) < 0.3
    there, moved = gpu.put(fired), gpu.put(mask)
    got, count = prune.coverage_or_(there[offset : offset + n], moved[:n])
    want, expected = prune.coverage_or_(fired[offset : offset + n], mask[:n])
    assert count == expected
    np.testing.assert_array_equal(gpu.get(got), want)
    np.testing.assert_array_equal(gpu.get(there), fired)
    bytes_of = np.array([0, 2, 255, 0], np.uint8)
    got, count = prune.coverage_or_(gpu.put(bytes_of), gpu.put(np.array([0, 0, 1, 7], np.uint8)))
    assert count == 3
    np.testing.assert_array_equal(gpu.get(got), [0, 1, 1, 1])


@pytest.mark.parametrize("dtype", [*TYPES, np.int32, np.int64], ids=name)
def test_groups_that_have_too_many_are_the_cpus(gpu: Device, dtype: type) -> None:
    x = sparse((6, 4 * 11), dtype).reshape(6, 4, 11)
    there = gpu.put(x)
    for axis in (0, 1, 2):
        for n, m in ((0, 1), (1, 2), (2, 4), (3, 5), (2, 100), (4, 4)):
            assert prune.check_nm(there, n, m, axis=axis) == prune.check_nm(x, n, m, axis=axis)
    assert prune.check_nm(gpu.put(x[:0]), 2, 4) == prune.check_nm(x[:0], 2, 4)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("count", [1, 3, 256, 257, 600])
def test_means_are_the_cpus_bits(gpu: Device, dtype: type, count: int) -> None:
    a = gossamer.CSR.from_dense(oracle.random_sparse((5, 70), 0.2, dtype, seed=2))
    rng = np.random.default_rng(count)
    sets = [rng.standard_normal(a.nnz).astype(dtype) for _ in range(count)]
    there = gossamer.CSR(*(gpu.put(x) for x in (a.indptr, a.indices, a.values)), a.shape)
    got = prune.mean_same_pattern([there.with_values(gpu.put(x)) for x in sets])
    want = prune.mean_same_pattern([a.with_values(x) for x in sets])
    assert gpu.get(got.values).tobytes() == np.asarray(want.values).tobytes()


def test_means_of_patterns_of_their_own(gpu: Device) -> None:
    dense = np.eye(40, 50, dtype=np.float32)
    a, b = gpu.csr(dense), gpu.csr(2 * dense)
    np.testing.assert_array_equal(gpu.get(prune.mean_same_pattern([a, b]).values), 1.5)
    other = gpu.csr(np.eye(40, 50, 1, dtype=np.float32))
    message = r"^mean_same_pattern: matrices\[2\] has a pattern of its own, expected that of"
    with pytest.raises(ValueError, match=message):
        prune.mean_same_pattern([a, b, other])
