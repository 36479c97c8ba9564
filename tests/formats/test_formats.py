"""CSR as Python sees it: construction, conversions, and the arrays that it holds."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import pytest
from gossamer import prune

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BF16]
A = np.array([[1, 0, 2], [0, 3, 0]])


def parts(dtype: Any = np.float32, index: Any = np.int32) -> tuple[np.ndarray, ...]:
    return (
        np.array([0, 2, 3], index),
        np.array([0, 2, 1], index),
        np.array([1, 2, 3]).astype(dtype),
    )


def csr(dtype: Any = np.float32) -> gossamer.CSR:
    return gossamer.CSR(*parts(dtype), (2, 3))


def numpy_of(array: Any) -> np.ndarray:
    if type(array).__module__ == "torch":
        array = array.to(float).numpy() if array.is_floating_point() else array.numpy()
    return np.asarray(array)


def same(a: gossamer.CSR, b: gossamer.CSR) -> None:
    assert (a.shape, a.dtype, a.index_dtype) == (b.shape, b.dtype, b.index_dtype)
    for mine, other in ((a.indptr, b.indptr), (a.indices, b.indices), (a.values, b.values)):
        np.testing.assert_array_equal(numpy_of(mine), numpy_of(other))


# Construction.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attributes(dtype: np.dtype) -> None:
    a = csr(dtype)
    assert (a.shape, a.ndim, a.nnz, a.density) == ((2, 3), 2, 3, 0.5)
    assert (a.dtype, a.index_dtype, a.device) == (dtype.name, "int32", "cpu")
    expected = f"CSR(shape=(2, 3), nnz=3, dtype={dtype.name}, index_dtype=int32, device=cpu)"
    assert repr(a) == expected


def test_attributes_are_read_only() -> None:
    a = csr()
    for name in ("indptr", "indices", "values", "shape", "nnz", "dtype", "extra"):
        with pytest.raises(AttributeError):
            setattr(a, name, None)


def test_empty_matrix() -> None:
    a = gossamer.CSR(np.zeros(1, np.int32), np.zeros(0, np.int32), np.zeros(0), (0, 0))
    assert (a.nnz, a.density) == (0, 0.0)


def test_arrays_are_kept_and_shared() -> None:
    indptr, indices, values = parts()
    a = gossamer.CSR(indptr, indices, values, (2, 3))
    assert np.shares_memory(a.indptr, indptr)
    assert np.shares_memory(a.indices, indices)
    assert a.values is values
    values[0] = 7
    assert gossamer.spmm(a, np.eye(3, dtype=np.float32))[0, 0] == 7


def test_shape_takes_any_integers() -> None:
    shape = (np.int64(2), np.uint8(3))
    assert gossamer.CSR(*parts(), shape).shape == (2, 3)
    assert gossamer.CSR(*parts(), [2, 3]).shape == (2, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        gossamer.CSR(*parts(), (2.0, 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^CSR: shape is \(2,\), expected two integers$"):
        gossamer.CSR(*parts(), (2,))  # type: ignore[arg-type]


# Index types.


def test_int64_is_narrowed_where_it_fits() -> None:
    indptr, indices, values = parts(index=np.int64)
    a = gossamer.CSR(indptr, indices, values, (2, 3))
    assert a.index_dtype == "int32"
    assert a.indptr.dtype == a.indices.dtype == np.int32
    assert a.values is values
    same(a, csr())


def test_int64_is_kept_where_the_shape_needs_it() -> None:
    indptr, indices, values = parts(index=np.int64)
    a = gossamer.CSR(indptr, indices, values, (2, 2**31))
    assert a.index_dtype == "int64"
    assert np.shares_memory(a.indices, indices)


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("wanted", ["int32", "int64"])
def test_index_dtype_forces_a_type(index: Any, wanted: str) -> None:
    a = gossamer.CSR(*parts(index=index), (2, 3), index_dtype=wanted)
    assert a.index_dtype == wanted
    assert a.indptr.dtype == a.indices.dtype == np.dtype(wanted)
    np.testing.assert_array_equal(a.to_dense(), A)


def test_mixed_index_types_become_one() -> None:
    indptr, indices, values = parts()
    a = gossamer.CSR(indptr.astype(np.int64), indices, values, (2, 3))
    assert a.index_dtype == "int32"
    assert np.shares_memory(a.indices, indices)
    wide = gossamer.CSR(indptr, indices.astype(np.int64), values, (2, 3), index_dtype="int64")
    same(wide, gossamer.CSR(*parts(index=np.int64), (2, 3), index_dtype="int64"))


def test_unknown_index_dtype_is_refused() -> None:
    message = "^CSR: index_dtype is 'int16', expected 'int32', 'int64' or None$"
    with pytest.raises(ValueError, match=message):
        gossamer.CSR(*parts(), (2, 3), index_dtype="int16")


def test_narrowed_arrays_are_of_the_callers_framework() -> None:
    torch = pytest.importorskip("torch")
    a = gossamer.CSR(*(torch.from_numpy(p) for p in parts(index=np.int64)), (2, 3))
    assert (a.indptr.dtype, a.indices.dtype) == (torch.int32, torch.int32)


# Corrupt structure never becomes a CSR.

CORRUPT: dict[str, tuple[list[int], list[int], str]] = {
    "start": ([1, 2, 3], [0, 2, 1], r"indptr\[0\] is 1, expected 0"),
    "descent": ([0, 3, 2], [0, 1, 2], r"indptr\[2\] is 2, expected at least indptr\[1\] = 3"),
    "end": ([0, 2, 2], [0, 2, 1], r"indices\.shape\[0\] is 3, expected indptr\[-1\] = 2"),
    "negative": ([0, 2, 3], [-1, 2, 1], r"indices\[0\] is -1, expected at least 0"),
    "beyond": ([0, 2, 3], [0, 3, 1], r"indices\[1\] is 3, expected less than shape\[1\] = 3"),
    "repeated": ([0, 2, 3], [2, 2, 1], r"indices\[1\] is 2, expected more than indices\[0\] = 2"),
    "unsorted": ([0, 2, 3], [2, 0, 1], r"indices\[1\] is 0, expected more than indices\[0\] = 2"),
}


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("case", CORRUPT)
def test_corrupt_structure_is_refused(case: str, index: Any) -> None:
    indptr, indices, message = CORRUPT[case]
    with pytest.raises(ValueError, match=f"^CSR: {message}"):
        gossamer.CSR(np.array(indptr, index), np.array(indices, index), parts()[2], (2, 3))


def test_unchecked_structure_is_taken() -> None:
    indptr, indices, values = parts()
    a = gossamer.CSR(indptr, indices[[1, 0, 2]], values, (2, 3), check=False)
    assert a.nnz == 3


def test_index_that_does_not_fit_is_refused_even_unchecked() -> None:
    indptr, indices, values = parts(index=np.int64)
    indices[0] = -(2**40)
    with pytest.raises(ValueError, match=r"int32"):
        gossamer.CSR(indptr, indices, values, (2, 3), check=False)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "short indptr": ({"indptr": np.zeros(2, np.int32)}, ValueError, r"indptr\.shape\[0\] is 2"),
    "no indptr": ({"indptr": np.zeros(0, np.int32)}, ValueError, r"indptr\.shape\[0\] is 0"),
    "flat shape": ({"shape": (-1, 3)}, ValueError, r"shape\[0\] is -1, expected at least 0"),
    "2-D indices": ({"indices": np.zeros((3, 1), np.int32)}, ValueError, r"indices\.ndim is 2"),
    "few values": ({"values": np.zeros(2, np.float32)}, ValueError, r"values\.shape\[0\] is 2"),
    "gaps": ({"values": np.zeros(6, np.float32)[::2]}, ValueError, r"values\.strides\[-1\] is 2"),
    "int values": ({"values": np.zeros(3, np.int32)}, TypeError, r"values\.dtype is int32"),
    "float index": ({"indices": np.zeros(3, np.float32)}, TypeError, r"indices\.dtype is float32"),
    "short index": ({"indices": np.zeros(3, np.int16)}, TypeError, "indices has element type int1"),
    "list": ({"values": [1, 2, 3]}, TypeError, "values is a list, expected an array with __dlpa"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(case: str) -> None:
    change, error, message = BAD[case]
    arguments = dict(zip(("indptr", "indices", "values"), parts(), strict=True), shape=(2, 3))
    with pytest.raises(error, match=f"^CSR: {message}"):
        gossamer.CSR(**(arguments | change))  # type: ignore[arg-type]


# Dense, and back.


def make(framework: str, array: np.ndarray) -> Any:
    if framework == "numpy":
        return array.copy()
    module = pytest.importorskip(framework)
    if framework == "jax":
        return module.numpy.asarray(array)
    if array.dtype == BF16:
        return module.from_numpy(array.view(np.uint16).copy()).view(module.bfloat16)
    return module.from_numpy(array.copy())


@pytest.mark.parametrize("dtype", [DTYPES[0], DTYPES[2], BF16], ids=str)
@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_dense_round_trip_in_every_framework(framework: str, dtype: np.dtype) -> None:
    w = make(framework, A.astype(dtype))
    a = gossamer.CSR.from_dense(w)
    for array in (a.indptr, a.indices, a.values, a.to_dense()):
        assert isinstance(array, type(w))
    same(a, csr(dtype))
    np.testing.assert_array_equal(numpy_of(a.to_dense()), A)
    assert a.to_dense().dtype == w.dtype


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_mask_decides_what_is_kept(framework: str) -> None:
    mask = np.array([[True, True, False], [False, False, True]])
    a = gossamer.CSR.from_dense(A.astype(np.float32), make(framework, mask))
    assert a.indices.tolist() == [0, 1, 2]
    assert a.values.tolist() == [1, 0, 0]
    byte = gossamer.CSR.from_dense(A.astype(np.float32), mask=mask.astype(np.uint8))
    same(a, byte)


def test_nan_is_kept_and_negative_zero_is_not() -> None:
    a = gossamer.CSR.from_dense(np.array([[np.nan, -0.0, 0.0]]))
    assert a.nnz == 1


def test_from_dense_reads_strided_rows() -> None:
    wide = np.zeros((2, 5), np.float32)
    wide[:, 1:4] = A
    same(gossamer.CSR.from_dense(wide[:, 1:4]), csr())


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0), (1, 1), (3, 70)])
def test_from_dense_of_any_size(shape: tuple[int, int]) -> None:
    w = np.arange(shape[0] * shape[1], dtype=np.float64).reshape(shape) % 3
    a = gossamer.CSR.from_dense(w)
    assert (a.shape, a.nnz) == (shape, np.count_nonzero(w))
    np.testing.assert_array_equal(a.to_dense(), w)


@pytest.mark.parametrize(
    ("w", "mask", "error", "message"),
    [
        (np.zeros(3), None, ValueError, r"^CSR\.from_dense: w\.ndim is 1, expected 2"),
        (np.zeros((2, 2), np.int32), None, TypeError, r"^CSR\.from_dense: w\.dtype is int32"),
        (np.zeros((2, 2)), np.zeros((2, 3), bool), ValueError, r"^CSR\.from_dense: mask\.shape"),
        (
            np.zeros((2, 2)),
            np.zeros((2, 2)),
            TypeError,
            r"^CSR\.from_dense: mask\.dtype is float64",
        ),
        (np.zeros((2, 2)).T[:, ::-1], None, ValueError, r"^CSR\.from_dense: w\.strides"),
        ([[1.0]], None, TypeError, r"^CSR\.from_dense: w is a list"),
    ],
    ids=["1-D", "integer", "mask shape", "mask type", "layout", "list"],
)
def test_bad_dense_is_refused(w: Any, mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gossamer.CSR.from_dense(w, mask)


def test_to_dense_writes_into_out() -> None:
    wide = np.full((2, 5), 9, np.float32)
    out = wide[:, 1:4]
    assert csr().to_dense(out=out) is out
    np.testing.assert_array_equal(wide, [[9, 1, 0, 2, 9], [9, 0, 3, 0, 9]])
    with pytest.raises(ValueError, match=r"^CSR\.to_dense: out\.shape"):
        csr().to_dense(out=np.zeros((3, 2), np.float32))
    with pytest.raises(TypeError, match=r"^CSR\.to_dense: out\.dtype"):
        csr().to_dense(out=np.zeros((2, 3)))


# Transposition and values.


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_transpose(framework: str) -> None:
    a = gossamer.CSR.from_dense(make(framework, A.astype(np.float32)))
    t, permutation = a.transpose()
    assert t.shape == (3, 2)
    assert isinstance(permutation, type(a.values))
    np.testing.assert_array_equal(numpy_of(t.to_dense()), A.T)
    np.testing.assert_array_equal(numpy_of(t.values), numpy_of(a.values)[numpy_of(permutation)])
    same(t.transpose()[0], a)
    same(a.T, t)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_transpose_of_every_type(dtype: np.dtype) -> None:
    t, _ = csr(dtype).transpose()
    assert t.values.dtype == dtype
    np.testing.assert_array_equal(t.to_dense().astype(float), A.T)


def test_with_values_shares_the_structure() -> None:
    a = csr()
    b = a.with_values(np.array([4, 5, 6], np.float64))
    assert np.shares_memory(b.indptr, a.indptr)
    assert np.shares_memory(b.indices, a.indices)
    assert (a.dtype, b.dtype) == ("float32", "float64")
    np.testing.assert_array_equal(b.to_dense(), [[4, 0, 5], [0, 6, 0]])


@pytest.mark.parametrize(
    ("values", "error"), [(np.zeros(4), ValueError), (np.zeros(3, int), TypeError), (1, TypeError)]
)
def test_with_values_refuses(values: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"values"):
        csr().with_values(values)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))]
)
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_copies_and_pickles(again: Any, index: str) -> None:
    a = gossamer.CSR(*parts(), (2, 3), index_dtype=index)
    same(again(a), a)
    assert (again(a).values is a.values) == (again is copy.copy)


def test_a_tampered_pickle_is_checked() -> None:
    indptr, indices, values = parts()
    a = gossamer.CSR(indptr, indices, values, (2, 3))
    indices[0] = 99
    with pytest.raises(ValueError, match=r"^CSR: indices\[0\] is 99"):
        pickle.loads(pickle.dumps(a))


# Other libraries' sparse matrices.


@pytest.mark.parametrize("layout", ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_from_scipy(layout: str, kind: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    matrix = getattr(sparse, f"coo_{kind}")(A.astype(np.float32)).asformat(layout)
    a = gossamer.CSR.from_sparse(matrix)
    np.testing.assert_array_equal(a.to_dense(), A)


def test_from_scipy_shares_arrays() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_array(A.astype(np.float32))
    assert np.shares_memory(gossamer.CSR.from_sparse(matrix).values, matrix.data)


def test_from_scipy_sorts_and_sums_a_copy() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    indices, values = np.array([2, 0, 2, 1], np.int32), np.array([1.0, 1.0, 1.0, 3.0])
    matrix = sparse.csr_array((values, indices, np.array([0, 3, 4], np.int32)), shape=(2, 3))
    a = gossamer.CSR.from_sparse(matrix)
    assert a.indices.tolist() == [0, 2, 1]
    np.testing.assert_array_equal(a.to_dense(), A)
    assert matrix.indices.tolist() == [2, 0, 2, 1]


def test_to_scipy_shares_arrays() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    a = csr()
    matrix = a.to_scipy()
    assert isinstance(matrix, sparse.csr_array)
    assert np.shares_memory(matrix.data, a.values)
    np.testing.assert_array_equal(matrix.toarray(), A)


@pytest.mark.parametrize("layout", ["csr", "coo", "csc"])
def test_from_torch(layout: str) -> None:
    torch = pytest.importorskip("torch")
    dense = torch.from_numpy(A.astype(np.float32))
    matrix = {"csr": dense.to_sparse_csr, "coo": dense.to_sparse, "csc": dense.to_sparse_csc}[
        layout
    ]()
    a = gossamer.CSR.from_sparse(matrix)
    assert isinstance(a.values, torch.Tensor)
    np.testing.assert_array_equal(a.to_dense().numpy(), A)


def test_from_torch_refuses_dense_and_batches() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"^from_sparse: obj is a dense torch.Tensor"):
        gossamer.CSR.from_sparse(torch.eye(2))
    with pytest.raises(ValueError, match=r"^from_sparse: obj\.ndim is 3, expected 2$"):
        gossamer.CSR.from_sparse(torch.ones(2, 3, 4).to_sparse_csr())


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16], ids=str)
@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_to_torch_shares_arrays(framework: str, dtype: np.dtype) -> None:
    torch = pytest.importorskip("torch")
    a = gossamer.CSR.from_dense(make(framework, A.astype(dtype)))
    matrix = a.to_torch()
    assert matrix.layout == torch.sparse_csr
    np.testing.assert_array_equal(matrix.to_dense().to(float).numpy(), A)
    same(gossamer.CSR.from_sparse(matrix), csr(dtype))
    if framework == "torch":
        assert matrix.values().data_ptr() == a.values.data_ptr()


@pytest.mark.parametrize("layout", ["CSR", "CSC", "COO"])
def test_from_older_classes_of_jax(layout: str) -> None:
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    matrix = getattr(sparse, layout).fromdense(jax.numpy.asarray(A, dtype="float32"))
    np.testing.assert_array_equal(gossamer.CSR.from_sparse(matrix).to_dense(), A)


@pytest.mark.parametrize("layout", ["BCSR", "BCOO", "CSR", "CSC", "COO"])
@pytest.mark.parametrize("block", [(1, 1), (2, 1), (2, 3)])
def test_blocks_from_jax(layout: str, block: tuple[int, int]) -> None:
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    dense = np.kron(np.array([[0, 1], [0, 0], [1, 1]]), A).astype(np.float32)
    matrix = getattr(sparse, layout).fromdense(jax.numpy.asarray(dense))
    a = gossamer.BSR.from_sparse(matrix, block=block)
    np.testing.assert_array_equal(a.to_dense(), dense)
    want = gossamer.BSR.from_dense(dense, block)
    np.testing.assert_array_equal(a.indptr, want.indptr)
    np.testing.assert_array_equal(a.indices, want.indices)
    with pytest.raises(ValueError, match=f"from_sparse: block is None.* a {layout} matrix"):
        gossamer.BSR.from_sparse(matrix)


def test_a_negative_index_of_jax_is_refused() -> None:
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    places, values = jax.numpy.asarray([[0, 1], [-1, 0]]), jax.numpy.ones(2)
    with pytest.raises(ValueError, match="from_sparse: obj has the index -1, expected at least 0"):
        gossamer.CSR.from_sparse(sparse.BCOO((values, places), shape=(2, 2)))
    columns = jax.numpy.asarray([1, -1])
    with pytest.raises(ValueError, match="from_sparse: obj has the index -1, expected at least 0"):
        gossamer.CSR.from_sparse(
            sparse.CSR((values, columns, jax.numpy.asarray([0, 1, 2])), shape=(2, 2))
        )


def test_a_traced_matrix_of_jax_is_refused() -> None:
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    places = jax.numpy.asarray([[0, 1]])
    with pytest.raises(TypeError, match="from_sparse: obj is traced, expected an array with value"):
        jax.jit(
            lambda x: gossamer.CSR.from_sparse(sparse.BCOO((x, places), shape=(2, 2))).to_dense()
        )(jax.numpy.ones(1))


def test_a_class_derived_from_scipys() -> None:
    scipy_sparse = pytest.importorskip("scipy.sparse")
    own = type("Own", (scipy_sparse.csr_array,), {})(A.astype(np.float32))
    np.testing.assert_array_equal(gossamer.CSR.from_sparse(own).to_dense(), A)
    np.testing.assert_array_equal(gossamer.BSR.from_sparse(own, block=1).to_dense(), A)


def test_a_torch_matrix_with_dense_axes_is_refused() -> None:
    torch = pytest.importorskip("torch")
    mixed = torch.eye(3).to_sparse(1)
    for source in (gossamer.CSR.from_sparse, lambda x: gossamer.BSR.from_sparse(x, block=1)):
        with pytest.raises(ValueError, match=r"from_sparse: obj.dense_dim\(\) is 1, expected 0"):
            source(mixed)


@pytest.mark.parametrize("layout", ["BCSR", "BCOO", "CSR", "CSC", "COO"])
def test_from_jax_without_what_pads_it(layout: str) -> None:
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    matrix = getattr(sparse, layout).fromdense(jax.numpy.asarray(A, dtype="float32"), nse=7)
    a = gossamer.CSR.from_sparse(matrix)
    assert a.nnz == 3
    np.testing.assert_array_equal(a.to_dense(), A)


def test_from_jax_sorts_and_sums() -> None:
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    values, columns = jax.numpy.asarray([2.0, 0.5, 0.5, 3.0]), jax.numpy.asarray([2, 0, 0, 1])
    matrix = sparse.BCSR((values, columns, jax.numpy.asarray([0, 3, 4])), shape=(2, 3))
    np.testing.assert_array_equal(gossamer.CSR.from_sparse(matrix).to_dense(), A)


#: [[0, 5], [0, 6]] with a zero that is stored, by each library.
STORED_ZERO: dict[str, Callable[[], Any]] = {
    "scipy": lambda: _scipy().csr_array((np.array([0.0, 5, 6]), [0, 1, 1], [0, 2, 3])),
    "scipy coo": lambda: _scipy().coo_array((np.array([0.0, 5, 6]), ([0, 0, 1], [0, 1, 1]))),
    "torch csr": lambda: _torch().sparse_csr_tensor(
        _torch().tensor([0, 2, 3]), _torch().tensor([0, 1, 1]), _torch().tensor([0.0, 5, 6])
    ),
    "torch coo": lambda: _torch().sparse_coo_tensor([[0, 0, 1], [0, 1, 1]], [0.0, 5, 6], (2, 2)),
    "jax BCSR": lambda: _jax().BCSR((_f32(0, 5, 6), _i32(0, 1, 1), _i32(0, 2, 3)), shape=(2, 2)),
    "jax BCOO": lambda: _jax().BCOO(
        (_f32(0, 5, 6), np.array([[0, 0], [0, 1], [1, 1]])), shape=(2, 2)
    ),
    "jax CSR": lambda: _jax().CSR((_f32(0, 5, 6), _i32(0, 1, 1), _i32(0, 2, 3)), shape=(2, 2)),
    "jax CSC": lambda: _jax().CSC((_f32(0, 5, 6), _i32(0, 0, 1), _i32(0, 1, 3)), shape=(2, 2)),
}


def _scipy() -> Any:
    return pytest.importorskip("scipy.sparse")


def _torch() -> Any:
    return pytest.importorskip("torch")


def _jax() -> Any:
    return pytest.importorskip("jax.experimental.sparse")


def _f32(*values: float) -> Any:
    return pytest.importorskip("jax").numpy.asarray(values, dtype="float32")


def _i32(*values: int) -> Any:
    return pytest.importorskip("jax").numpy.asarray(values, dtype="int32")


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("source", STORED_ZERO)
def test_a_zero_that_is_stored_is_an_entry(source: str) -> None:
    a = gossamer.CSR.from_sparse(STORED_ZERO[source]())
    assert a.nnz == 3
    np.testing.assert_array_equal(np.asarray(a.to_dense()), [[0, 5], [0, 6]])


@pytest.mark.parametrize("layout", ["BCSR", "BCOO"])
def test_from_jax(layout: str) -> None:
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    matrix = getattr(sparse, layout).fromdense(jax.numpy.asarray(A, dtype="float32"))
    a = gossamer.CSR.from_sparse(matrix)
    assert isinstance(a.values, jax.Array)
    np.testing.assert_array_equal(np.asarray(a.to_dense()), A)


def test_from_jax_refuses_batches() -> None:
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    matrix = sparse.BCSR.fromdense(jax.numpy.ones((2, 3, 4)), n_batch=1)
    with pytest.raises(ValueError, match=r"^from_sparse: obj\.ndim is 3, expected 2$"):
        gossamer.CSR.from_sparse(matrix)


def test_from_sparse_of_a_csr_is_itself() -> None:
    a = csr()
    assert gossamer.CSR.from_sparse(a) is a


@pytest.mark.parametrize("obj", [A, [[1]], None], ids=repr)
def test_from_sparse_refuses_others(obj: Any) -> None:
    name = type(obj).__name__
    with pytest.raises(TypeError, match=f"^from_sparse: obj is a {name}, expected a sparse matrix"):
        gossamer.CSR.from_sparse(obj)


# Packed.


def test_packed_attributes() -> None:
    packed = gossamer.pack(csr())
    assert (packed.shape, packed.ndim, packed.nnz) == ((2, 3), 2, 3)
    assert (packed.dtype, packed.device) == ("float32", "cpu")
    assert isinstance(packed.nbytes, int)
    assert isinstance(packed.layouts, str)
    assert repr(packed).startswith("Packed(shape=(2, 3), nnz=3, dtype=float32, ")


def test_packed_is_made_by_pack_only() -> None:
    with pytest.raises(TypeError, match=r"pack"):
        gossamer.Packed()


def test_packed_does_not_see_later_values() -> None:
    a, eye = csr(), np.eye(3, dtype=np.float32)
    packed = gossamer.pack(a, n=3)
    a.values[:] = 0
    np.testing.assert_array_equal(gossamer.spmm(packed, eye), A)
    np.testing.assert_array_equal(gossamer.spmm(a, eye), 0 * A)


def test_packed_keeps_nothing_of_its_source_alive() -> None:
    packed = gossamer.pack(csr())
    np.testing.assert_array_equal(gossamer.linear(np.eye(3, dtype=np.float32), packed), A.T)


# Structure is checked once, so nobody changes it afterwards.


def zeros_among(rows: int = 200) -> Any:
    """Return a SciPy matrix of which half of the entries that are stored are zero."""
    matrix = _scipy().random_array((rows, rows), density=0.1, format="csr", rng=1)
    matrix.data[::2] = 0
    return matrix


def test_a_scipy_matrix_may_change_its_structure_afterwards() -> None:
    matrix = zeros_among()
    a = gossamer.CSR.from_sparse(matrix)
    indptr, indices = a.indptr.copy(), a.indices.copy()
    matrix.eliminate_zeros()
    np.testing.assert_array_equal(a.indptr, indptr)
    np.testing.assert_array_equal(a.indices, indices)
    again = gossamer.CSR(a.indptr, a.indices, a.values, a.shape)  # is still in order
    gossamer.spmm(again.T, np.ones((200, 3)))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_a_torch_matrix_may_change_its_structure_afterwards() -> None:
    torch = _torch()
    matrix = torch.sparse_csr_tensor(
        torch.tensor([0, 2, 3], dtype=torch.int32),
        torch.tensor([0, 2, 1], dtype=torch.int32),
        torch.tensor([1.0, 2.0, 3.0]),
        size=(2, 3),
    )
    a = gossamer.CSR.from_sparse(matrix)
    matrix.crow_indices().fill_(99)
    matrix.col_indices().fill_(99)
    np.testing.assert_array_equal(np.asarray(a.to_dense()), A)


@pytest.mark.parametrize("form", ["CSR", "BSR"])
@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_index_arrays_cannot_be_changed_through_a_matrix(framework: str, form: str) -> None:
    dense = make(framework, A.astype(np.float32))
    a = gossamer.CSR.from_dense(dense) if form == "CSR" else gossamer.BSR.from_dense(dense, 1)
    if framework == "numpy":
        for array in (a.indptr, a.indices):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 77
    if framework == "torch":
        a.indptr.fill_(77)
        a.indices.fill_(77)
        a.to_torch().crow_indices().fill_(77)
        a.to_torch().col_indices().fill_(77)
    matrix = a.to_scipy()
    for array in (matrix.indptr, matrix.indices):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 77
    np.testing.assert_array_equal(np.asarray(a.to_dense()), A)


def test_what_scipy_does_in_place_does_not_reach_a_matrix() -> None:
    a = gossamer.CSR.from_sparse(zeros_among())
    before = a.to_dense()
    with pytest.raises(ValueError, match="read-only"):
        a.to_scipy().eliminate_zeros()
    np.testing.assert_array_equal(a.to_dense(), before)
    copy = a.to_scipy().copy()
    copy.eliminate_zeros()
    assert copy.nnz < a.nnz


# Objects.


ONES = np.ones((4, 16), np.float32)
OBJECTS: dict[str, Callable[[], Any]] = {
    "CSR": csr,
    "BSR": lambda: gossamer.BSR.from_dense(A * 1.0, 1),
    "NM": lambda: gossamer.NM.from_dense(ONES, 2, 2),
    "GroupQuant": lambda: gossamer.GroupQuant.from_dense(ONES),
    "Packed": lambda: gossamer.pack(csr()),
    "BlockLayout": lambda: gossamer.BlockLayout.from_mask(ONES[None] > 0, block=2),
    "DeltaState": gossamer.DeltaState,
    "Score": lambda: prune.score(ONES),
    "Selection": lambda: prune.Selection(3),
    "ColumnStats": prune.ColumnStats,
}


@pytest.mark.parametrize("make_one", OBJECTS)
def test_weak_references(make_one: str) -> None:
    a = OBJECTS[make_one]()
    reference = weakref.ref(a)
    assert reference() is a
    del a
    assert reference() is None


class Attributed(np.ndarray):
    """An array that may have attributes."""


#: What looks into an array x [3], for BSR [3, 1, 1], by the ways to make it.
HOLDERS: dict[str, Callable[[Any], Any]] = {
    "CSR": lambda x: gossamer.CSR(np.arange(2) * 3, np.arange(3), x, (1, 3)),
    "BSR": lambda x: gossamer.BSR(csr().indptr, csr().indices, x, (2, 3)),
    "with_values": lambda x: csr().with_values(x),
    "native": lambda x: csr().with_values(x)._native,
    "siblings": lambda x: [a := csr().with_values(x), a.with_values(x), a.T],
    "score": prune.score,
    "score of several": lambda x: prune.score(np.ones(x.shape), kind="snip", g=x),
}


@pytest.mark.parametrize("framework", ["numpy", "numpy view", "torch", "Parameter"])
@pytest.mark.parametrize("holder", HOLDERS)
def test_circles_are_collected(holder: str, framework: str) -> None:
    shape = (3, 1, 1) if holder == "BSR" else (3,)
    x: Any = Attributed(shape)
    if framework == "numpy view":
        x = np.ones(shape).view(Attributed)
    elif framework != "numpy":
        x = _torch().ones(shape)
    if framework == "Parameter":
        x = _torch().nn.Parameter(x, requires_grad=False)
    gone = weakref.ref(x)
    x.me = HOLDERS[holder](x)
    del x
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("kind", [gossamer.CSR, gossamer.BSR, gossamer.NM, gossamer.GroupQuant])
def test_a_constructor_that_gets_a_dense_array_names_the_one_that_takes_it(kind: Any) -> None:
    name = kind.__name__
    with pytest.raises(TypeError) as caught:
        kind(np.eye(2))
    assert str(caught.value) == (
        f"{name}: got one array, expected the arrays that the format consists of; "
        f"{name}.from_dense takes a dense array"
    )
    assert kind.to_dense is gossamer.CSR.to_dense


WIDE = 2**31 + 4
TOO_WIDE = "shape[1] is 2147483652, expected at most 2147483647 for int32 indices"


@pytest.mark.parametrize("format_name", ["CSR", "BSR"])
@pytest.mark.parametrize("wanted", [None, "int32", "int64"])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_shapes_that_int32_cannot_count(format_name: str, wanted: str | None, index: Any) -> None:
    last = WIDE // 2 - 1 if index == np.int64 else 7
    blocks = np.ones((2, 1, 2) if format_name == "BSR" else 2, np.float32)
    last = last * 2 if format_name == "CSR" else last
    parts = (np.array([0, 1, 2], index), np.array([0, last], index), blocks)
    make = getattr(gossamer, format_name)
    if wanted == "int64" or (wanted is None and index == np.int64):
        a = make(*parts, (2, WIDE), index_dtype=wanted)
        assert (a.index_dtype, a.shape) == ("int64", (2, WIDE))
        assert np.asarray(a.indices).tolist() == [0, last]
    else:
        with pytest.raises(ValueError) as caught:
            make(*parts, (2, WIDE), index_dtype=wanted)
        assert str(caught.value) == f"{format_name}: {TOO_WIDE}"
