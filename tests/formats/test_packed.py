"""Packed matrices: their bytes, new values, copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import gossamer
import ml_dtypes
import numpy as np
import oracle
import pytest

WIDTHS = [None, 1, 8, 64]
#: Of few entries to nearly all, with empty rows and more columns than a block has.
CASES = [(1, 1, 1.0), (40, 70, 0.02), (33, 300, 0.1), (70, 257, 0.5), (300, 40, 0.9), (16, 0, 0.0)]


def name(dtype: type) -> str:
    return np.dtype(dtype).name


def matrix(case: tuple[int, int, float], dtype: type, seed: int = 1) -> gossamer.CSR:
    rows, cols, density = case
    dense = oracle.random_sparse((rows, cols), density, np.float64, seed, integers=True)
    mask = np.asarray(dense != 0)
    mask[:1] = True  # zeros that are stored
    return gossamer.CSR.from_dense(dense.astype(dtype), mask)


def used(packed: gossamer.Packed) -> None:
    """Have every layout built, of the transpose too."""
    for n in (1, 4, 8, 64):
        for transpose in (False, True):
            rows = packed.shape[0 if transpose else 1]
            b = np.ones((rows, n), np.float64).astype(packed.dtype)
            gossamer.spmm(packed, b, transpose_a=transpose)


def assert_same_products(packed: gossamer.Packed, a: gossamer.CSR) -> None:
    dtype = a.values.dtype
    for n in (1, 3, 8, 33):
        b = oracle.random_dense((a.shape[1], n), dtype, seed=2, integers=True)
        np.testing.assert_array_equal(gossamer.spmm(packed, b), gossamer.spmm(a, b))
        c = oracle.random_dense((a.shape[0], n), dtype, seed=3, integers=True)
        np.testing.assert_array_equal(
            gossamer.spmm(packed, c, transpose_a=True), gossamer.spmm(a, c, transpose_a=True)
        )


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("first_use", [used, lambda packed: None], ids=["used", "fresh"])
def test_update_is_packing_the_other_values(
    n: int | None,
    dtype: type,
    case: tuple[int, int, float],
    first_use: Callable[[gossamer.Packed], None],
) -> None:
    a = matrix(case, dtype)
    packed = gossamer.pack(a, n=n)
    first_use(packed)
    for seed in (5, 6):
        values = oracle.random_dense((a.nnz,), dtype, seed=seed, integers=True)
        assert packed.update(values) is packed
        assert_same_products(packed, a.with_values(values))


@pytest.mark.parametrize("threads", [1, 3])
def test_update_of_several_blocks_on_several_threads(threads: int) -> None:
    before = gossamer.get_num_threads()
    gossamer.set_num_threads(threads)
    try:
        for dtype in (np.float32, np.float16):
            for density in (0.03, 0.3, 0.8):
                a = matrix((1100, 700, density), dtype)
                packed = gossamer.pack(a)
                used(packed)
                values = oracle.random_dense((a.nnz,), dtype, seed=8, integers=True)
                assert_same_products(packed.update(values), a.with_values(values))
    finally:
        gossamer.set_num_threads(before)


def test_update_takes_arrays_of_other_frameworks() -> None:
    torch = pytest.importorskip("torch")
    a = gossamer.CSR.from_dense(torch.eye(3))
    packed = gossamer.pack(a).update(torch.tensor([1.0, 2.0, 3.0]))
    assert gossamer.spmm(packed, torch.ones(3)).tolist() == [1, 2, 3]


@pytest.mark.parametrize("n", [None, 1, 32])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=lambda t: np.dtype(t).name)
def test_to_dense_gives_the_matrix_back(dtype: type, n: int | None) -> None:
    for case in ((0, 4, 0.5), (5, 0, 0.5), (1, 1, 1.0), (9, 7, 0.0), (40, 70, 0.1), (40, 70, 0.7)):
        a = matrix(case, dtype)
        packed = gossamer.pack(a, n=n)
        whole = np.ones((case[0], case[1] + 3), dtype)
        got, out = packed.to_dense(), whole[:, 1:-2]
        assert packed.to_dense(out=out) is out
        wanted = np.asarray(a.to_dense())
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(out, wanted)
        assert np.all(whole[:, [0, -2, -1]] == 1)


def test_to_dense_writes_arrays_of_other_frameworks() -> None:
    torch = pytest.importorskip("torch")
    out = torch.ones(2, 2)
    assert gossamer.pack(gossamer.CSR.from_dense(torch.eye(2))).to_dense(out=out) is out
    assert out.tolist() == [[1, 0], [0, 1]]


A = gossamer.CSR.from_dense(np.array([[1, 0, 2], [0, 3, 0]], np.float32))
BAD_OUTPUTS: list[tuple[np.ndarray, type[Exception], str]] = [
    (np.ones((2, 4), np.float32), ValueError, "out.shape[1] is 4, expected a.shape[1] = 3"),
    (np.ones(3, np.float32), ValueError, "out.ndim is 1, expected 2"),
    (np.ones((2, 3)), TypeError, "out.dtype is float64, expected a.dtype = float32"),
]


@pytest.mark.parametrize(("out", "error", "message"), BAD_OUTPUTS, ids=lambda v: None)
def test_bad_outputs(out: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        gossamer.pack(A).to_dense(out=out)
    assert str(caught.value) == f"Packed.to_dense: {message}"
    assert np.all(out == 1)


BAD_UPDATES: list[tuple[object, type[Exception], str]] = [
    (np.ones(4, np.float32), ValueError, "values.shape[0] is 4, expected packed.nnz = 3"),
    (np.ones((3, 1), np.float32), ValueError, "values.ndim is 2, expected 1"),
    (np.ones(3), TypeError, "values.dtype is float64, expected packed.dtype = float32"),
    (
        np.ones(6, np.float32)[::2],
        ValueError,
        "values.strides[-1] is 2, expected 1 (make it contiguous)",
    ),
    ([1, 2, 3], TypeError, "values is a list, expected an array with __dlpack__"),
]


@pytest.mark.parametrize(("values", "error", "message"), BAD_UPDATES, ids=lambda v: None)
def test_bad_updates(values: object, error: type[Exception], message: str) -> None:
    packed = gossamer.pack(A)
    with pytest.raises(error) as caught:
        packed.update(values)
    assert str(caught.value) == f"Packed.update: {message}"
    np.testing.assert_array_equal(gossamer.spmm(packed, np.ones(3, np.float32)), [3, 3])


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize(
    "duplicate",
    [lambda packed: pickle.loads(pickle.dumps(packed)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_copies_are_packed_where_they_land(
    n: int | None, dtype: type, duplicate: Callable[[gossamer.Packed], gossamer.Packed]
) -> None:
    for case in CASES:
        a = matrix(case, dtype)
        packed = gossamer.pack(a, n=n)
        made = duplicate(packed)
        assert repr(made) == repr(packed)
        packed.update(np.zeros(a.nnz, dtype))
        assert_same_products(made, a)


def test_a_pickle_holds_the_values_of_its_time() -> None:
    packed = gossamer.pack(A)
    packed.update(np.array([4, 5, 6], np.float32))
    again = pickle.loads(pickle.dumps(packed))
    np.testing.assert_array_equal(gossamer.spmm(again, np.ones(3, np.float32)), [9, 6])


def test_a_corrupt_pickle_is_refused() -> None:
    rebuild, ((indptr, indices, values), shape, dtype, n) = gossamer.pack(A).__reduce__()
    bad = [
        (indptr, indices[:-4], values, shape, dtype, n),
        (indptr[:-4], indices, values, shape, dtype, n),
        (indptr, b"\xff" * len(indices), values, shape, dtype, n),
        (indptr[::-1], indices, values, shape, dtype, n),
        (indptr, indices, values, (2, 1), dtype, n),
        (indptr, indices, values, (2**62, 3), dtype, n),
        (indptr, indices, values[:-4], shape, dtype, n),
        (indptr, indices, values, shape, "float64", n),
        (indptr, indices, values, shape, dtype, 0),
        (indptr + b"\0", indices, values, shape, dtype, n),
        (indptr, indices + b"\0", values, shape, dtype, n),
        (indptr, indices, values + b"\0", shape, dtype, n),
    ]
    for state in bad:
        with pytest.raises(ValueError, match=r"CSR|pack"):
            rebuild(state[:3], *state[3:])
    parts = (indptr, indices, values)
    for wrong in [
        (parts, shape, "int32", n),
        (parts, shape, None, n),
        (parts, (2, 3.5), dtype, n),
        (parts, None, dtype, n),
        (parts, shape, dtype, "64"),
        ((indptr, None, values), shape, dtype, n),
        (tuple(map(bytearray, parts)), shape, dtype, n),
    ]:
        with pytest.raises(TypeError, match=r"^pack: "):
            rebuild(*wrong)
    for wrong in [(parts, (2, 3, 1), dtype, n), (parts[:2], shape, dtype, n)]:
        with pytest.raises((TypeError, ValueError), match=r"^pack: "):
            rebuild(*wrong)


@pytest.mark.parametrize("n", [None, 1, 2, 4, 8, 16, 64, 512])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("density", [0.005, 0.02, 0.1, 0.3, 0.5, 0.9])
def test_bytes_stay_near_those_of_a_csr(dtype: type, density: float, n: int | None) -> None:
    """Of the matrix of the issue's size, and a larger one with long rows."""
    for shape in ((512, 1024), (64, 5000)):
        dense = oracle.random_sparse(shape, density, np.float32, seed=1).astype(dtype)
        a = gossamer.CSR.from_dense(dense)
        csr = 4 * (shape[0] + 1) + a.nnz * (4 + np.dtype(dtype).itemsize)
        assert gossamer.pack(a, n=n).nbytes <= 1.15 * csr


def test_sixteen_bits_stay_sixteen_bits() -> None:
    dense = oracle.random_sparse((512, 1024), 0.1, np.float32, seed=1)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        for n in (1, 8, 64):
            narrow, wide = (
                gossamer.pack(gossamer.CSR.from_dense(dense.astype(kind)), n=n)
                for kind in (dtype, np.float32)
            )
            assert narrow.layouts == wide.layouts
            assert wide.nbytes - narrow.nbytes >= 2 * narrow.nnz


def test_bytes_grow_with_what_is_built() -> None:
    packed = gossamer.pack(matrix((300, 300, 0.3), np.float32))
    fresh = packed.nbytes
    gossamer.spmm(packed, np.ones((300, 64), np.float32))
    wide = packed.nbytes
    gossamer.spmm(packed, np.ones((300, 64), np.float32), transpose_a=True)
    assert fresh <= wide < packed.nbytes


def nearly_full(dtype: type) -> gossamer.CSR:
    """Make a matrix [70, 130] without half of a row and without a column, with stored zeros."""
    keep = np.ones((70, 130), bool)
    keep[1, ::2] = keep[:, 7] = False
    return gossamer.CSR.from_dense(
        oracle.random_dense((70, 130), dtype, seed=1, integers=True), keep
    )


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_a_matrix_of_few_zeros_is_packed_densely(dtype: type) -> None:
    a = nearly_full(dtype)
    for n in (1, 5, 8, 32, 130):
        packed = gossamer.pack(a, n=n)
        assert packed.layouts in ("dense", "bits")
        assert_same_products(packed, a)
        values = oracle.random_dense((a.nnz,), dtype, seed=5, integers=True)
        assert_same_products(packed.update(values), a.with_values(values))
        assert_same_products(pickle.loads(pickle.dumps(packed)), a.with_values(values))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_no_entry_of_a_dense_layout_touches_does_not_matter(dtype: type, value: float) -> None:
    packed = gossamer.pack(nearly_full(dtype), n=32)
    assert packed.layouts == "dense"
    for n in (1, 9, 40):
        b = oracle.random_dense((130, n), dtype, seed=2, integers=True)
        want = gossamer.spmm(packed, b)
        b[7, 0] = value
        np.testing.assert_array_equal(gossamer.spmm(packed, b), want)
        x = np.ascontiguousarray(b.T)
        np.testing.assert_array_equal(gossamer.linear(x, packed), want.T)


@pytest.mark.parametrize("n", [1, 6, 33])
def test_threads_do_not_change_a_bit_of_a_dense_layout(n: int) -> None:
    packed = gossamer.pack(gossamer.CSR.from_dense(np.ones((300, 500), np.float32)), n=n)
    b = oracle.random_dense((500, n), np.float32, seed=6)
    before = gossamer.get_num_threads()
    results = set()
    try:
        for threads in (1, 2, 5):
            gossamer.set_num_threads(threads)
            results.add(gossamer.spmm(packed, b).tobytes())
    finally:
        gossamer.set_num_threads(before)
    assert len(results) == 1


def test_repr_says_which_layout_and_why() -> None:
    few = gossamer.CSR.from_dense(oracle.random_sparse((512, 1024), 0.1, np.float32, seed=1))
    level = gossamer.info()["isa"]
    assert "n=64, layouts=blocks (many columns of B: " in repr(gossamer.pack(few, n=64))
    assert repr(gossamer.pack(few)).count("for n = ") == 3
    full = gossamer.pack(gossamer.CSR.from_dense(np.ones((64, 64), np.float32)), n=64)
    assert "layouts=dense (few zeros: " in repr(full)
    assert f"; density 1, {level})" in repr(full)


def test_the_operator_is_spmm() -> None:
    a = matrix(CASES[3], np.float32)
    packed, b = gossamer.pack(a), np.ones((257, 3), np.float32)
    np.testing.assert_array_equal(packed @ b, gossamer.spmm(packed, b))
    np.testing.assert_array_equal(packed @ b[:, 0].copy(), a @ b[:, 0].copy())
    with pytest.raises(ValueError, match=r"^spmm: b\.shape\[0\] is 256, expected .* 257$"):
        packed @ b[1:]
    with pytest.raises(TypeError, match="unsupported operand"):
        b.T @ packed
