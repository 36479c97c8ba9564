"""Counts, coverage and means of pruned layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest
from gossamer import CSR, prune
from oracle import DTYPES, random_sparse

F32 = np.float32


@pytest.fixture(autouse=True)
def _restored_threads() -> Any:
    before = gossamer.get_num_threads()
    yield
    gossamer.set_num_threads(before)


def wide(a: CSR) -> CSR:
    indptr, indices = (np.asarray(i).astype(np.int64) for i in (a.indptr, a.indices))
    return CSR(indptr, indices, a.values, a.shape, index_dtype="int64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 7, 8, 33, 70])
def test_mean_of_one_pattern(n: int, dtype: Any) -> None:
    a = CSR.from_dense(np.ones((1, n), dtype))
    values = [np.random.default_rng(i).integers(-8, 9, n).astype(dtype) for i in range(4)]
    soup = prune.mean_same_pattern(a.with_values(v) for v in values)
    assert soup._native.indices is a._native.indices
    want = np.mean([v.astype(np.float64) for v in values], 0)
    np.testing.assert_array_equal(soup.values.astype(np.float64), want)


def test_mean_of_equal_patterns_in_separate_arrays() -> None:
    a = np.array([[1.0, 2.0]])
    soup = prune.mean_same_pattern([CSR.from_dense(a), CSR.from_dense(a + 2)])
    np.testing.assert_array_equal(soup.values, [2, 3])


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8])
@pytest.mark.parametrize("shape", [(0,), (1,), (31, 33), (70000,)])
def test_coverage(shape: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(0)
    fired = np.zeros(shape, dtype)
    seen = np.zeros(shape, bool)
    for _ in range(3):
        mask = rng.random(shape) < 0.3
        seen |= mask
        same, count = prune.coverage_or_(fired, mask.astype(dtype))
        assert same is fired
        assert isinstance(count, int)
        assert count == seen.sum()
    np.testing.assert_array_equal(fired.astype(bool), seen)


@pytest.mark.parametrize("dtype", [*DTYPES, np.bool_, np.uint8])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 130), (200, 3), (2, 70001)])
def test_counts(shape: tuple[int, int], dtype: Any) -> None:
    x = (np.random.default_rng(0).random(shape) < 0.3).astype(dtype)
    there = x.astype(bool)
    for per, axis in (("row", 1), ("column", 0), (None, None)):
        counts = prune.nnz_stats(x, per=per)
        assert counts.dtype == np.int64
        np.testing.assert_array_equal(counts, there.sum(axis))
    rows, cols = 3, 4
    padded = np.pad(there, [(0, -shape[0] % rows), (0, -shape[1] % cols)])
    want = padded.reshape(-(-shape[0] // rows), rows, -1, cols).sum((1, 3))
    np.testing.assert_array_equal(prune.nnz_stats(x, per=(rows, cols)), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 6), (6, 0), (2, 3), (60, 36), (4, 3000), (900, 60)])
def test_counts_of_sparse_matrices_are_those_of_dense_ones(shape: Any, dtype: Any) -> None:
    x = random_sparse(shape, 0.3, dtype, 2, integers=True)
    entries = x != 0
    if x.size:
        x[0, 0] = -0.0  # a stored zero is an entry
        x[-1, -1] = np.nan
        entries[0, 0] = entries[-1, -1] = True
    matrices = [wide(CSR.from_dense(x, entries))]
    for block in ((1, 1), (2, 3), (1, 6), (2, 1)):
        if shape[0] % block[0] == 0 and shape[1] % block[1] == 0:
            matrices.append(gossamer.BSR.from_dense(x, block, entries))
    for a in (CSR.from_dense(x, entries), *matrices):
        for per in ("row", "column", None, (1, 1), (3, 2), (4, 5), (100, 7), (2, 10_000)):
            got, want = prune.nnz_stats(a, per=per), prune.nnz_stats(x, per=per)
            assert got.dtype == np.int64
            assert got.shape == want.shape
            np.testing.assert_array_equal(got, want)
    if x.size:
        assert prune.nnz_stats(matrices[0]) == matrices[0].nnz - 1


def test_counts_of_special_numbers_and_of_nothing() -> None:
    x = np.array([[0.0, -0.0, np.nan, np.inf, 1e-310, -1.0]])
    assert prune.nnz_stats(x, per="row").tolist() == [4]
    assert prune.nnz_stats(np.zeros((0, 3), F32), per="row").tolist() == []
    assert prune.nnz_stats(np.zeros((0, 3), F32), per="column").tolist() == [0, 0, 0]
    assert prune.nnz_stats(np.zeros((2, 0), F32), per=(2, 2)).shape == (1, 0)


def test_counts_are_exact_above_what_float32_holds() -> None:
    x = np.ones((4097, 4096), bool)
    assert int(prune.nnz_stats(x)) == 4097 * 4096 > 2**24


def test_counts_of_strided_rows() -> None:
    x = np.arange(60, dtype=F32).reshape(6, 10) % 3
    np.testing.assert_array_equal(
        prune.nnz_stats(x[::2, 1:8], per="column"), (x[::2, 1:8] != 0).sum(0)
    )


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_results_follow_the_framework(framework: str) -> None:
    module = pytest.importorskip(framework)
    dense = random_sparse((9, 9), 0.3, F32, 1, integers=True)
    array = module.from_numpy(dense) if framework == "torch" else module.numpy.asarray(dense)
    a = CSR.from_dense(array)
    kind = module.Tensor if framework == "torch" else module.Array
    for result in (
        prune.mean_same_pattern([a, a]).values,
        prune.nnz_stats(array),
        prune.nnz_stats(array, per=(2, 2)),
    ):
        assert isinstance(result, kind)
    assert int(prune.nnz_stats(array)) == np.count_nonzero(dense)


def test_threads_change_no_bit() -> None:
    rng = np.random.default_rng(1)
    dense = np.where(rng.random((700, 700)) < 0.3, rng.standard_normal((700, 700)), 0).astype(F32)
    a = CSR.from_dense(dense)
    b = a.with_values(a.values * 3)
    results = set()
    for threads in (1, 2, 3):
        gossamer.set_num_threads(threads)
        parts = (
            prune.mean_same_pattern([a, b, a]).values,
            prune.nnz_stats(dense, per="column"),
            prune.nnz_stats(a, per="column"),
        )
        results.add(tuple(part.tobytes() for part in parts))
    assert len(results) == 1


A = CSR.from_dense(np.array([[1, 0, 2], [0, 3, 0]], F32))
ROW = np.ones(4, bool)
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: prune.mean_same_pattern([]),
        ValueError,
        "mean_same_pattern: matrices is empty, expected at least one",
    ),
    (
        lambda: prune.mean_same_pattern([A, CSR.from_dense(np.ones((2, 3), F32))]),
        ValueError,
        "mean_same_pattern: matrices[1] has a pattern of its own, expected that of matrices[0]",
    ),
    (
        lambda: prune.mean_same_pattern([A, A.with_values(np.ones(3))]),
        TypeError,
        "mean_same_pattern: matrices[1].dtype is float64, expected matrices[0].dtype = float32",
    ),
    (
        lambda: prune.coverage_or_(ROW, np.ones(3, bool)),
        ValueError,
        "coverage_or_: mask.shape is (3,), expected fired.shape = (4,)",
    ),
    (
        lambda: prune.coverage_or_(np.ones(4, F32), ROW),
        TypeError,
        "coverage_or_: fired.dtype is float32, expected bool or uint8",
    ),
    (
        lambda: prune.coverage_or_(ROW, ROW),
        ValueError,
        "coverage_or_: fired overlaps mask, expected separate memory",
    ),
    (
        lambda: prune.coverage_or_(np.ones((4, 8), bool)[:, :3], np.ones((4, 3), bool)),
        ValueError,
        "coverage_or_: fired.strides[0] is 8, expected 3 (make it contiguous)",
    ),
    (
        lambda: prune.nnz_stats(np.ones((2, 3), F32), per="block"),
        ValueError,
        "nnz_stats: per is 'block', expected None, 'row', 'column' or (rows, columns)",
    ),
    (
        lambda: prune.nnz_stats(np.ones((2, 3), F32), per=(0, 2)),
        ValueError,
        "nnz_stats: per is (0, 2), expected at least 1 each",
    ),
    (lambda: prune.nnz_stats(ROW), ValueError, "nnz_stats: x.ndim is 1, expected 2"),
    (
        lambda: prune.nnz_stats(np.ones((2, 3), np.int64)),
        TypeError,
        "nnz_stats: x.dtype is int64, expected a floating type, bool or uint8",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("far", [2**32, 2**62, 2**63 - 1])
def test_blocks_beyond_the_matrix_are_the_matrix(far: int) -> None:
    x = np.array([[1, 0, 1, 0], [0, 0, 0, 1]], F32)
    for a in (x, CSR.from_dense(x), gossamer.BSR.from_dense(x, 2)):
        assert prune.nnz_stats(a, per=(far, far)).tolist() == [[3]]
        assert prune.nnz_stats(a, per=(1, far)).tolist() == [[2], [1]]


@pytest.mark.parametrize("per", [None, "row", "column", (1, 2)])
def test_counts_are_written_to_out(per: Any) -> None:
    x = np.array([[1, 0, 1, 0], [0, 0, 0, 1]], F32)
    for a in (x, CSR.from_dense(x)):
        want = prune.nnz_stats(a, per=per)
        out = np.full(want.shape, 9, np.int64)
        assert prune.nnz_stats(a, per=per, out=out) is out
        np.testing.assert_array_equal(out, want)
        with pytest.raises(ValueError, match=r"nnz_stats: out\.shape is"):
            prune.nnz_stats(a, per=per, out=np.empty((5, 5), np.int64))
