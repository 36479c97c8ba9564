"""Products of matrices with far more rows or columns than entries, and the memory they take."""

from __future__ import annotations

import math
import sys
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import oracle
import pytest
import scipy.sparse
from device import Device, EmulatedArray
from gossamer import _interop
from library import run

LONG = 70_000  # more than 32 times the entries of a matrix here, and than 2^16
BF16 = np.dtype(ml_dtypes.bfloat16)


def name(dtype: Any) -> str:
    return np.dtype(dtype).name


def hollow(rows: int, cols: int, entries: int, dtype: Any) -> scipy.sparse.csr_array:
    """Draw a matrix of small integers, with a row of 20 entries, the last row and column used."""
    rng = np.random.default_rng([rows, cols])
    i, j = rng.integers(0, rows, entries), rng.integers(0, cols, entries)
    i[:20], i[-1], j[-1] = i[0], rows - 1, cols - 1
    values = rng.integers(1, 4, entries).astype(np.float64)
    matrix = scipy.sparse.coo_array((values, (i, j)), shape=(rows, cols)).tocsr()
    return matrix


def csr(matrix: scipy.sparse.csr_array, dtype: Any, index: Any = np.int32) -> gossamer.CSR:
    parts = (matrix.indptr.astype(index), matrix.indices.astype(index), matrix.data.astype(dtype))
    return gossamer.CSR(*parts, matrix.shape, index_dtype=name(index))


@pytest.mark.parametrize("index", [np.int32, np.int64], ids=name)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("n", [1, 2, 9, 32, 70])
def test_products(n: int, dtype: Any, index: Any) -> None:
    wide, tall = hollow(30, LONG, 900, dtype), hollow(LONG, 40, 900, dtype)
    b = oracle.random_dense((LONG, n), dtype, seed=1, integers=True)
    exact = b.astype(np.float64)
    a, t = csr(wide, dtype, index), csr(tall, dtype, index)
    for operand in (a, gossamer.pack(a)):
        np.testing.assert_array_equal(gossamer.spmm(operand, b).astype(float), wide @ exact)
        got = gossamer.linear(np.ascontiguousarray(b.T), operand)
        np.testing.assert_array_equal(got.astype(float), (wide @ exact).T)
    for operand in (t, gossamer.pack(t)):
        got = gossamer.spmm(operand, b, transpose_a=True)
        np.testing.assert_array_equal(got.astype(float), tall.T @ exact)


def test_wide_transposed_products() -> None:
    """So many columns, and column ranges, that a product transposes the matrix first."""
    tall, square = hollow(LONG, 40, 900, np.float32), hollow(LONG, LONG, 2000, np.float32)
    b = oracle.random_dense((LONG, 300), np.float32, seed=1, integers=True)
    got = gossamer.spmm(csr(tall, np.float32), b, transpose_a=True)
    np.testing.assert_array_equal(got, tall.T @ b.astype(float))
    got = gossamer.spmm(csr(square, np.float32), b[:, :3], transpose_a=True)
    np.testing.assert_array_equal(got, square.T @ b[:, :3].astype(float))


def test_a_transposed_product_of_many_short_rows() -> None:
    """Where each row enters each range of columns would be 88 million positions."""
    size, n = 300_000, 33
    a = csr(scipy.sparse.eye_array(size, format="csr") * 2.0, np.float32)
    b = oracle.random_dense((size, n), np.float32, seed=1)
    np.testing.assert_array_equal(gossamer.spmm(a, b, transpose_a=True), 2 * b)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("block", [(2, 4), (3, 8), (4, 2)], ids=str)
def test_products_of_blocks(block: tuple[int, int], dtype: Any) -> None:
    grid = hollow(20, LONG // block[1], 300, dtype)
    full = scipy.sparse.kron(grid, np.ones(block), format="bsr")
    blocks = (full.indptr, full.indices, full.data.astype(dtype))
    a = gossamer.BSR(*blocks, full.shape)
    turned = full.T.tobsr(blocksize=block[::-1])
    turned.sort_indices()
    t = gossamer.BSR(turned.indptr, turned.indices, turned.data.astype(dtype), turned.shape)
    for n in (1, 3, 30):
        b = oracle.random_dense((full.shape[1], n), dtype, seed=n, integers=True)
        want = full @ b.astype(float)
        np.testing.assert_array_equal(gossamer.spmm(a, b).astype(float), want)
        got = gossamer.linear(np.ascontiguousarray(b.T), a)
        np.testing.assert_array_equal(got.astype(float), want.T)
        got = gossamer.spmm(t, b, transpose_a=True)
        np.testing.assert_array_equal(got.astype(float), want)
    left = oracle.random_dense((full.shape[0], 6), dtype, seed=8, integers=True)
    right = oracle.random_dense((full.shape[1], 6), dtype, seed=9, integers=True)
    for pattern, x, y in ((a, left, right), (t, right, left)):
        got = gossamer.sddmm(x, y, pattern)
        rows = np.repeat(np.arange(len(pattern.indptr) - 1), np.diff(pattern.indptr))
        (br, bc), wide_x, wide_y = pattern.block, x.astype(float), y.astype(float)
        for p, (i, j) in enumerate(zip(rows, pattern.indices, strict=True)):
            want = wide_x[i * br : (i + 1) * br] @ wide_y[j * bc : (j + 1) * bc].T
            np.testing.assert_array_equal(got[p].astype(float), want)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_sddmm(dtype: Any) -> None:
    for shape in ((30, LONG), (LONG, 30), (LONG, LONG)):
        matrix = hollow(*shape, 900, dtype)
        a = oracle.random_dense((shape[0], 5), dtype, seed=1, integers=True)
        b = oracle.random_dense((shape[1], 5), dtype, seed=2, integers=True)
        rows = np.repeat(np.arange(shape[0]), np.diff(matrix.indptr))
        want = (a[rows].astype(float) * b[matrix.indices].astype(float)).sum(1)
        got = gossamer.sddmm(a, b, csr(matrix, dtype))
        np.testing.assert_array_equal(got.astype(float), want)


@pytest.mark.parametrize("threads", [1, 3])
def test_results_do_not_depend_on_where_b_lies(threads: int) -> None:
    """A tile of B is read in place where it is aligned; elsewhere only its used rows are copied."""
    matrix = hollow(30, LONG, 2000, np.float32)
    a = csr(matrix, np.float32).with_values(oracle.random_dense((matrix.nnz,), np.float32, seed=1))
    memory = np.zeros(LONG * 32 + 32, np.float32)
    at = -(memory.ctypes.data // 4) % 16
    b = memory[at : at + LONG * 32].reshape(LONG, 32)
    b[:] = oracle.random_dense((LONG, 32), np.float32, seed=2)
    before = gossamer.get_num_threads()
    gossamer.set_num_threads(threads)
    try:
        wide = np.zeros((LONG, 33), np.float32)
        wide[:, 1:] = b
        want = gossamer.spmm(a, b)
        assert gossamer.spmm(a, wide[:, 1:]).tobytes() == want.tobytes()
        assert gossamer.spmm(gossamer.pack(a), wide[:, 1:]).tobytes() == want.tobytes()
    finally:
        gossamer.set_num_threads(before)


@pytest.mark.parametrize("n", [3, 20, 90])
def test_a_gpu_copies_no_empty_columns(
    n: int, gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = hollow(30, LONG, 900, np.float32)
    parts = (matrix.indptr, matrix.indices, matrix.data.astype(np.float32))
    a = gossamer.CSR(*(gpu.put(part) for part in parts), matrix.shape)
    x = oracle.random_dense((n, LONG), np.float32, seed=1, integers=True)
    allocated = []
    if gpu.emulated:
        framework = _interop._by_type[EmulatedArray]

        def empty(shape: tuple[int, ...], dtype: str, like: EmulatedArray) -> EmulatedArray:
            allocated.append(math.prod(shape))
            made: EmulatedArray = framework.empty(shape, dtype, like)
            return made

        monkeypatch.setitem(_interop._by_type, EmulatedArray, framework._replace(empty=empty))
    got = gossamer.linear(gpu.put(x), a)
    np.testing.assert_array_equal(gpu.get(got), (matrix @ x.T.astype(float)).T)
    assert sum(allocated) <= 30 * n


MEMORY = """
import resource
import gossamer
import numpy as np

K, N = 4_000_000, 32
indptr, indices = np.array([0, 2, 3]), np.array([1, K - 1, 5])
a = gossamer.CSR(indptr, indices, np.ones(3, np.float32), (2, K))
half = a.with_values(np.ones(3, np.float16))
packed = gossamer.pack(a)
blocks = np.ones((3, 4, 8), np.float32)
block_indices = np.array([1, K // 8 - 1, 5])
bsr = gossamer.BSR(indptr, block_indices, blocks, (8, K))
starts = np.where(np.arange(K + 1) > 7, 3, 0)
tall = gossamer.CSR(starts, np.array([0, 1, 5]), np.ones(3, np.float32), (K, 6))
block_starts = starts[: K // 4 + 1]
tall_bsr = gossamer.BSR(block_starts, np.array([0, 1, 2]), blocks, (K, 24))
# Rows that are one in memory.
b = np.broadcast_to(np.ones((1, N), np.float32), (K, N))
b_half = np.broadcast_to(np.ones((1, N), np.float16), (K, N))
x = np.broadcast_to(np.ones(K, np.float32), (N, K))
few, few_half = np.ones((24, N), np.float32), np.ones((24, N), np.float16)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak()
sums = [
    gossamer.spmm(a, b), gossamer.linear(x, a), gossamer.spmm(packed, b),
    gossamer.linear(x, packed), gossamer.spmm(bsr, b), gossamer.linear(x, bsr),
    gossamer.spmm(tall, b, transpose_a=True), gossamer.spmm(tall_bsr, b, transpose_a=True),
    gossamer.sddmm(few_half[:2], b_half, a), gossamer.sddmm(b_half, few_half[:6], tall),
    gossamer.sddmm(few[:8], b, bsr), gossamer.sddmm(few_half[:8], b_half, bsr),
    gossamer.sddmm(b_half, few_half, tall_bsr), gossamer.spmm(half, b_half[:, :1].copy()),
]
print(peak() - before, *(float(s.astype(float).sum()) for s in sums))
"""


@pytest.mark.once
def test_memory_does_not_grow_with_empty_columns() -> None:
    """Copying all of B would take 490 MB in each of these products."""
    grown, *sums = map(float, run(sys.executable, "-c", MEMORY).split())
    assert grown < 100
    csr_sum, bsr_sum = 3 * 32.0, 3 * 4 * 8 * 32.0
    assert sums == [*[csr_sum] * 4, *[bsr_sum] * 2, csr_sum, bsr_sum, *[csr_sum] * 2,
                    *[bsr_sum] * 3, 3.0]  # fmt: skip
