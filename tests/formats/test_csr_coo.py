"""CSR matrices of coordinate lists, patterns without values, and several sets of values."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
import scipy.sparse
from gossamer import CSR

F32 = np.float32


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (40, 70), (3000, 2500), (2, 10**9), (10**6, 2)])
def test_coordinates_in_any_order(shape: tuple[int, int], index: Any) -> None:
    rng = np.random.default_rng(0)
    n = 500
    edges = np.stack([rng.integers(0, extent, n) for extent in shape]).astype(index)
    edges[:, n // 2 : n // 2 + 50] = edges[:, :50]  # duplicates
    values = rng.integers(-4, 5, n).astype(F32)
    want = scipy.sparse.coo_array((values, tuple(edges)), shape=shape).tocsr()
    want.sum_duplicates()
    for given in (edges, tuple(edges), list(edges)):
        a = CSR.from_coo(given, values, shape=shape)
        assert a.shape == shape
        np.testing.assert_array_equal(a.indptr, want.indptr)
        np.testing.assert_array_equal(a.indices, want.indices)
        np.testing.assert_array_equal(a.values, want.data)
    pattern = CSR.from_coo(edges, shape=shape)
    assert (pattern.values, pattern.dtype) == (None, None)
    np.testing.assert_array_equal(pattern.indptr, want.indptr)
    np.testing.assert_array_equal(pattern.indices, want.indices)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=lambda x: np.dtype(x).name)
def test_duplicates_are_summed_in_their_order(dtype: Any) -> None:
    values = np.array([1, 2**-12, 2**-12, 5]).astype(dtype)
    index = np.array([[0, 0, 0, 1], [2, 2, 2, 0]])
    got = CSR.from_coo(index, values, shape=(2, 3))
    assert got.dtype == np.dtype(dtype).name
    want = np.array([1 + 2**-11, 5]).astype(dtype)
    np.testing.assert_array_equal(got.values, want)


def test_lists_may_have_gaps() -> None:
    mask = oracle.random_sparse((9, 11), 0.3, F32, 1) != 0
    values = np.repeat(np.arange(mask.sum(), dtype=F32), 2)[::2]
    a = CSR.from_coo(np.nonzero(mask), values, shape=mask.shape)  # strided views
    want = np.zeros(mask.shape)
    want[mask] = values
    np.testing.assert_array_equal(a.to_dense(), want)
    backwards = CSR.from_coo([x[::-1] for x in np.nonzero(mask)], values[::-1], shape=mask.shape)
    np.testing.assert_array_equal(backwards.to_dense(), want)


def test_empty_lists() -> None:
    empty = np.zeros((2, 0), np.int64)
    a = CSR.from_coo(empty, np.zeros(0, F32), shape=(3, 4))
    np.testing.assert_array_equal(a.to_dense(), np.zeros((3, 4)))
    assert CSR.from_coo(empty, shape=(0, 0)).nnz == 0


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_coordinates_of_a_framework(framework: str) -> None:
    module = pytest.importorskip(framework)
    to = module.from_numpy if framework == "torch" else module.numpy.asarray
    index = to(np.array([[1, 0], [0, 1]], np.int32))
    a = CSR.from_coo(index, to(np.array([2, 3], F32)), shape=(2, 2))
    kind = module.Tensor if framework == "torch" else module.Array
    assert isinstance(a.values, kind)
    np.testing.assert_array_equal(np.asarray(a.to_dense()), [[0, 3], [2, 0]])
    assert isinstance(CSR.from_coo(index, shape=(2, 2)).indices, kind)


def pattern() -> CSR:
    return CSR(np.array([0, 2, 3]), np.array([0, 2, 1]), None, (2, 3))


def test_a_pattern_has_no_values() -> None:
    p = pattern()
    assert repr(p) == "CSR(shape=(2, 3), nnz=3, dtype=None, index_dtype=int32, device=cpu)"
    assert (p.values, p.dtype, p.nnz, p.density, p.batch) == (None, None, 3, 0.5, ())
    a = p.with_values(np.array([1, 2, 3], F32))
    np.testing.assert_array_equal(a.to_dense(), [[1, 0, 2], [0, 3, 0]])
    assert np.shares_memory(a.indices, p.indices)
    back = a.with_values(None)
    assert back.values is None
    for other in (pickle.loads(pickle.dumps(p)), copy.deepcopy(p)):
        assert other.values is None
        np.testing.assert_array_equal(other.indices, p.indices)


def test_a_pattern_is_transposed_with_its_permutation() -> None:
    dense = oracle.random_sparse((30, 40), 0.2, F32, 1)
    a = CSR.from_dense(dense)
    t, permutation = a.with_values(None).transpose()
    assert t.values is None
    np.testing.assert_array_equal(t.with_values(a.values[permutation]).to_dense(), dense.T)
    assert a.with_values(None).T.shape == (40, 30)


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_index_types_of_patterns(index: Any) -> None:
    p = pattern()
    arrays = (p.indptr.astype(index), p.indices.astype(index))
    name = np.dtype(index).name
    assert CSR(*arrays, None, (2, 3)).index_dtype == "int32"
    assert CSR(*arrays, None, (2, 3), index_dtype=name).index_dtype == name
    mixed = CSR(p.indptr.astype(np.int64), p.indices, None, (2, 3), index_dtype="int64")
    assert mixed.index_dtype == "int64"


def test_a_pattern_has_the_structure_of_its_matrices() -> None:
    p = pattern()
    assert p.same_structure(p.with_values(np.ones((2, 3), F32)))
    assert not p.same_structure(pattern().transpose()[0])
    np.testing.assert_array_equal(p.row_indices(), [0, 0, 1])


def test_corrupt_patterns_are_refused() -> None:
    for index in (np.int32, np.int64):
        with pytest.raises(ValueError, match=r"^CSR: indices\[1\] is 3, expected less than"):
            CSR(np.array([0, 2, 3], index), np.array([0, 3, 1], index), None, (2, 3))
        with pytest.raises(ValueError, match=r"^CSR: indptr\[0\] is 1, expected 0$"):
            CSR(np.array([1, 2, 3], index), np.array([0, 2, 1], index), None, (2, 3))
    with pytest.raises(ValueError, match=r"expected at least indices|expected more than indices"):
        CSR(np.array([0, 2, 3], np.int64), np.array([2, 0, 1], np.int32), None, (2, 3))
    assert CSR(np.array([0, 2, 3]), np.array([0, 2, 1]), None, (2, 3), check=False).nnz == 3


def test_several_sets_of_values() -> None:
    values = np.arange(12, dtype=F32).reshape(4, 3)
    a = CSR(np.array([0, 2, 3]), np.array([0, 2, 1]), values, (2, 3))
    assert repr(a).startswith("CSR(shape=(2, 3), nnz=3, batch=(4,), dtype=float32,")
    assert a.values is values
    assert (a.batch, a.nnz, a.dtype) == ((4,), 3, "float32")
    assert a.with_values(values[0]).batch == ()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(a)).values, values)


def test_values_live_as_long_as_the_matrix() -> None:
    class Array(np.ndarray):
        pass

    values = np.ones((2, 3), F32).view(Array)
    a: CSR | None = pattern().with_values(values)
    gone = weakref.ref(values)
    values.a = a  # type: ignore[attr-defined]
    del values
    gc.collect()
    assert gone() is not None
    a = None
    gc.collect()
    assert gone() is None


P = pattern()
A = P.with_values(np.ones(3, F32))
BATCH = P.with_values(np.ones((4, 3), F32))
EDGES = np.array([[0, 1, 0], [0, 1, 0]])

BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (P.to_dense, ValueError, "CSR.to_dense: values is None, expected an array of shape (3,)"),
    (
        BATCH.to_dense,
        ValueError,
        "CSR.to_dense: values.shape is (4, 3), expected an array of shape (3,)",
    ),
    (
        lambda: P.astype("float32"),
        ValueError,
        "CSR.astype: values is None, expected an array of shape (3,)",
    ),
    (lambda: P[0:1], ValueError, "CSR: values is None, expected an array of shape (3,)"),
    (
        lambda: BATCH[0:1],
        ValueError,
        "CSR: values.shape is (4, 3), expected an array of shape (3,)",
    ),
    (
        lambda: P @ np.ones((3, 1), F32),
        ValueError,
        "spmm: a.values is None, expected an array",
    ),
    (P.to_scipy, ValueError, "CSR.to_scipy: values is None, expected an array of shape (3,)"),
    (
        BATCH.transpose,
        ValueError,
        "CSR.transpose: values.shape is (4, 3), expected an array of shape (3,)",
    ),
    (
        lambda: gossamer.pack(P),
        ValueError,
        "pack: a.values is None, expected an array of shape (3,)",
    ),
    (
        lambda: gossamer.prune.mean_same_pattern([A, P]),
        ValueError,
        "mean_same_pattern: matrices[1].values is None, expected an array of shape (3,)",
    ),
    (
        lambda: gossamer.prune.nnz_stats(P),
        ValueError,
        "nnz_stats: x.values is None, expected an array of shape (3,)",
    ),
    (
        lambda: gossamer.regrow.csr_drop_grow_(P, gossamer.regrow.Random(1), 1, 1),
        ValueError,
        "csr_drop_grow_: a.values is None, expected an array of shape (3,)",
    ),
    (
        lambda: P.with_values(np.ones((2, 4), F32)),
        ValueError,
        "CSR: values.shape[1] is 4, expected indices.shape[0] = 3",
    ),
    (
        lambda: P.with_values(np.ones((4, 3), np.int32)),
        TypeError,
        "CSR: values.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    (
        lambda: P.with_values(np.ones((3, 4), F32).T),
        ValueError,
        "CSR: values.strides[-1] is 4, expected 1 (make it contiguous)",
    ),
    (
        lambda: P.with_values(np.ones((1, 1, 1, 1, 1, 3), F32)),
        ValueError,
        "CSR: values.ndim is 6, expected 1 to 5",
    ),
    (
        lambda: CSR.from_coo(np.ones((3, 2), int), shape=(2, 2)),
        ValueError,
        "CSR.from_coo: index.shape is (3, 2), expected (2, n)",
    ),
    (
        lambda: CSR.from_coo((EDGES[0],), shape=(2, 2)),
        ValueError,
        "CSR.from_coo: index has 1 parts, expected 2",
    ),
    (
        lambda: CSR.from_coo((EDGES[0], EDGES[1, :2]), shape=(2, 2)),
        ValueError,
        "CSR.from_coo: col.shape[0] is 2, expected row.shape[0] = 3",
    ),
    (
        lambda: CSR.from_coo(EDGES, shape=(1, 2)),
        ValueError,
        "CSR.from_coo: row[1] is 1, expected less than shape[0] = 1",
    ),
    (
        lambda: CSR.from_coo(-EDGES, shape=(2, 2)),
        ValueError,
        "CSR.from_coo: row[1] is -1, expected at least 0",
    ),
    (
        lambda: CSR.from_coo(EDGES.astype(F32), shape=(2, 2)),
        TypeError,
        "CSR.from_coo: row.dtype is float32, expected int32 or int64",
    ),
    (
        lambda: CSR.from_coo(EDGES, np.ones(2, F32), shape=(2, 2)),
        ValueError,
        "CSR.from_coo: values.shape[0] is 2, expected row.shape[0] = 3",
    ),
    (
        lambda: CSR.from_coo(EDGES, shape=(2, 2), duplicates="refuse"),
        ValueError,
        "CSR.from_coo: entries 0 and 2 are both at (0, 0), expected no duplicates",
    ),
    (
        lambda: CSR.from_coo(EDGES, shape=(2, 2), duplicates="max"),
        ValueError,
        "CSR.from_coo: duplicates is 'max', expected 'sum' or 'refuse'",
    ),
    (
        lambda: CSR.from_coo(EDGES, shape=(-1, 2)),
        ValueError,
        "CSR.from_coo: shape[0] is -1, expected at least 0",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
