"""Dense to CSR and back, and the transpose, against NumPy."""

from __future__ import annotations

import gossamer
import numpy as np
import pytest
import scipy.sparse
from conversions import DTYPES, dense, expected, non_zeros, same_bits

# Around the widths of vectors (8 and 16 lanes), and longer than the part of a row that is
# converted at a time.
SHAPES = [
    *((0, 0), (0, 5), (5, 0), (1, 1), (1, 7), (3, 8), (2, 9), (3, 15), (4, 16), (4, 17)),
    *((7, 31), (5, 32), (5, 33), (3, 63), (3, 65), (130, 129), (2, 9000)),
]
DENSITIES = [0.0, 0.05, 0.5, 1.0]
# (rows, columns, entries) such that no tile of the transpose is full, or rows are nearly empty.
HYPER_SPARSE = [
    *((100, 1_000_000, 1000), (1_000_000, 100, 1000), (200_000, 300_000, 5000)),
    *((3, 1_000_000, 200_000), (20_000, 30_000, 300_000)),
]


def assert_csr(a: gossamer.CSR, w: np.ndarray, kept: np.ndarray) -> None:
    indptr, indices, values = expected(w, kept)
    assert a.shape == w.shape
    assert same_bits(a.indptr, indptr.astype(a.index_dtype))
    assert same_bits(a.indices, indices.astype(a.index_dtype))
    assert same_bits(a.values, values)


def random_csr(rows: int, cols: int, nnz: int) -> scipy.sparse.csr_array:
    rng = np.random.default_rng([rows, cols])
    index = np.unique(rng.integers(rows * cols, size=nnz))
    position = (index // cols, index % cols)
    values = rng.standard_normal(index.size).astype(np.float32)
    return scipy.sparse.coo_array((values, position), shape=(rows, cols)).tocsr()


@pytest.mark.parametrize("pitch", [0, 3])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_from_dense_keeps_what_is_not_zero(
    dtype: np.dtype, shape: tuple[int, int], density: float, pitch: int
) -> None:
    w = dense(shape, density, dtype, pitch=pitch)
    assert_csr(gossamer.CSR.from_dense(w), w, non_zeros(w))


@pytest.mark.parametrize("mask_dtype", [np.bool_, np.uint8])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_from_dense_keeps_exactly_what_the_mask_says(
    dtype: np.dtype, shape: tuple[int, int], density: float, mask_dtype: type
) -> None:
    w = dense(shape, 0.5, dtype)
    rng = np.random.default_rng(7)
    bytes_ = rng.integers(1, 256, (shape[0], shape[1] + 5)) * (
        rng.random((shape[0], shape[1] + 5)) < density
    )
    mask = bytes_.astype(mask_dtype)[:, : shape[1]]
    assert_csr(gossamer.CSR.from_dense(w, mask), w, mask != 0)


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_to_dense_writes_entries_and_zeros(
    dtype: np.dtype, shape: tuple[int, int], density: float, index_dtype: str
) -> None:
    w = dense(shape, density, dtype)
    w[w == 0] = 0  # -0 is not an entry
    a = gossamer.CSR(*expected(w, non_zeros(w)), shape, index_dtype=index_dtype)
    assert same_bits(a.to_dense(), w)


def test_to_dense_leaves_what_lies_between_rows() -> None:
    w = dense((9, 70), 0.3, np.dtype(np.float32))
    w[w == 0] = 0
    buffer = np.full((9, 80), 7, np.float32)
    out = buffer[:, :70]
    assert gossamer.CSR.from_dense(w).to_dense(out=out) is out
    assert same_bits(out, w)
    assert (buffer[:, 70:] == 7).all()


def test_to_dense_refuses_bad_outputs_and_writes_nothing() -> None:
    a = gossamer.CSR.from_dense(np.eye(3, dtype=np.float32))
    out = np.full((3, 3), 7, np.float32)
    out.setflags(write=False)
    with pytest.raises(ValueError, match=r"^CSR\.to_dense: out is read-only"):
        a.to_dense(out=out)
    extent = r"^CSR\.to_dense: out\.shape\[1\] is 4, expected a\.shape\[1\] = 3$"
    with pytest.raises(ValueError, match=extent):
        a.to_dense(out=np.zeros((3, 4), np.float32))
    with pytest.raises(
        TypeError, match=r"^CSR\.to_dense: out\.dtype is float64, expected a\.dtype = float32$"
    ):
        a.to_dense(out=np.zeros((3, 3)))
    assert (out == 7).all()


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_transpose_is_that_of_the_dense_matrix(
    dtype: np.dtype, shape: tuple[int, int], density: float, index_dtype: str
) -> None:
    w = dense(shape, density, dtype)
    a = gossamer.CSR(*expected(w, non_zeros(w)), shape, index_dtype=index_dtype)
    t, permutation = a.transpose()
    assert t.index_dtype == index_dtype
    assert_csr(t, w.T, non_zeros(w).T)
    assert permutation.dtype == index_dtype
    assert same_bits(np.asarray(a.values)[permutation], np.asarray(t.values))


@pytest.mark.parametrize(("rows", "cols", "nnz"), HYPER_SPARSE)
def test_transpose_of_the_hyper_sparse(rows: int, cols: int, nnz: int) -> None:
    s = random_csr(rows, cols, nnz)
    t, permutation = gossamer.CSR(s.indptr, s.indices, s.data, s.shape).transpose()
    want = s.tocsc()
    assert np.array_equal(t.indptr, want.indptr)
    assert np.array_equal(t.indices, want.indices)
    assert np.array_equal(t.values, want.data)
    assert np.array_equal(s.data[permutation], want.data)


def test_transpose_of_skewed_columns() -> None:
    # More entries in one column of one tile than are collected at once.
    w = np.zeros((1500, 700), np.float32)
    w[:, 3] = np.arange(1, 1501)
    w[700] = 1
    w[::7, ::11] = 2
    t, _ = gossamer.CSR.from_dense(w).transpose()
    assert_csr(t, w.T, w.T != 0)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_conversions_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    w = dense((700, 900), 0.3, np.dtype(np.float32))
    w[w == 0] = 0
    before = gossamer.get_num_threads()
    gossamer.set_num_threads(threads)
    try:
        a = gossamer.CSR.from_dense(w)
        t = a.T
        assert_csr(a, w, non_zeros(w))
        assert_csr(t, w.T, non_zeros(w).T)
        assert same_bits(a.to_dense(), w)
    finally:
        gossamer.set_num_threads(before)


def test_int64_indices_are_narrowed_and_widened() -> None:
    s = random_csr(300, 4000, 100_000)
    wide = [s.indptr.astype(np.int64), s.indices.astype(np.int64)]
    a = gossamer.CSR(*wide, s.data, s.shape)
    assert a.index_dtype == "int32"
    assert same_bits(a.indices, s.indices.astype(np.int32))
    b = gossamer.CSR(a.indptr, a.indices, s.data, s.shape, index_dtype="int64")
    assert same_bits(b.indices, wide[1])


@pytest.mark.parametrize("bad", [2**31, -(2**31) - 1, 2**40])
def test_an_index_that_int32_cannot_hold_is_refused(bad: int) -> None:
    indices = np.arange(100, dtype=np.int64)
    indices[77] = bad
    with pytest.raises(ValueError, match=rf"\[77\] is {bad}, expected"):
        gossamer.CSR(np.array([0, 100]), indices, np.ones(100), (1, 100))
