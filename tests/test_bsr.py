"""BSR: what may be one, conversions, and the products with it, against float64 NumPy."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import oracle
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

BF16 = np.dtype(ml_dtypes.bfloat16)
BLOCKS = [(1, 1), (4, 1), (1, 16), (2, 3), (4, 4), (16, 16), (32, 32), (5, 8), (8, 40)]


def name(dtype: Any) -> str:
    return np.dtype(dtype).name


def random_blocks(
    grid: tuple[int, int], block: tuple[int, int], density: float, dtype: Any, seed: int = 0
) -> np.ndarray:
    """Draw a dense matrix of small integers whose blocks are full or empty: row 0 full, 1 empty."""
    kept = oracle.random_sparse(grid, density, np.float64, seed, integers=True) != 0
    kept[:1] = True
    shape = (grid[0] * block[0], grid[1] * block[1])
    values = oracle.random_dense(shape, np.float64, seed + 1, integers=True)
    values[::7] += 0.5
    return (values * np.kron(kept, np.ones(block))).astype(dtype)


def numpy_of(array: Any) -> np.ndarray:
    if type(array).__module__ == "torch":
        array = array.to(float).numpy() if array.is_floating_point() else array.numpy()
    return np.asarray(array)


# Structure. Block rows (0, 2), (1): 4 by 9 in blocks of 2 by 3.

PARTS: dict[str, Any] = {
    "indptr": [0, 2, 3],
    "indices": [0, 2, 1],
    "blocks": np.arange(18, dtype=np.float32).reshape(3, 2, 3),
    "shape": (4, 9),
}


def make(index: Any = np.int32, **changes: Any) -> gossamer.BSR:
    parts = PARTS | changes
    for key in ("indptr", "indices"):
        if isinstance(parts[key], list):
            parts[key] = np.array(parts[key], index)
    check = parts.pop("check", True)
    return gossamer.BSR(*parts.values(), check=check, index_dtype=name(index))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"indptr": [1, 2, 3]}, "BSR: indptr[0] is 1, expected 0"),
    ({"indptr": [0, 3, 2]}, "BSR: indptr[2] is 2, expected at least indptr[1] = 3"),
    ({"indptr": [0, 2, 4]}, "BSR: indices.shape[0] is 3, expected indptr[-1] = 4"),
    (
        {"indptr": [0, 3]},
        "BSR: indptr.shape[0] is 2, expected shape[0] / blocks.shape[1] + 1 = 2 + 1",
    ),
    (
        {"indices": [0, 3, 1]},
        "BSR: indices[1] is 3, expected less than shape[1] / blocks.shape[2] = 3",
    ),
    ({"indices": [-1, 2, 1]}, "BSR: indices[0] is -1, expected at least 0"),
    (
        {"indices": [2, 0, 1]},
        "BSR: indices[1] is 0, expected more than indices[0] = 2 in row 0",
    ),
    (
        {"indices": [2, 2, 1]},
        "BSR: indices[1] is 2, expected more than indices[0] = 2 in row 0",
    ),
    ({"blocks": np.ones((2, 2, 3))}, "BSR: blocks.shape[0] is 2, expected indices.shape[0] = 3"),
    ({"blocks": np.ones((3, 6))}, "BSR: blocks.ndim is 2, expected 3"),
    ({"blocks": np.ones((3, 0, 3))}, "BSR: blocks.shape[1] is 0, expected at least 1"),
    ({"blocks": np.ones((3, 2, 0))}, "BSR: blocks.shape[2] is 0, expected at least 1"),
    (
        {"blocks": np.ones((3, 2, 6))[:, :, ::2]},
        "BSR: blocks.strides[-1] is 2, expected 1 (make it contiguous)",
    ),
    (
        {"blocks": np.ones((3, 4, 3))[:, ::2]},
        "BSR: blocks.strides[1] is 6, expected 3 (make it contiguous)",
    ),
    (
        {"blocks": np.ones((6, 2, 3))[::2]},
        "BSR: blocks.strides[0] is 12, expected 6 (make it contiguous)",
    ),
    ({"shape": (5, 9)}, "BSR: shape[0] is 5, expected a multiple of blocks.shape[1] = 2"),
    ({"shape": (4, 10)}, "BSR: shape[1] is 10, expected a multiple of blocks.shape[2] = 3"),
    ({"shape": (-4, 9)}, "BSR: shape[0] is -4, expected at least 0"),
    ({"shape": (4, 9, 1)}, "BSR: shape is (4, 9, 1), expected two extents"),
]


@pytest.mark.parametrize("index", [np.int32, np.int64], ids=name)
@pytest.mark.parametrize(("changes", "message"), BAD, ids=[row[1] for row in BAD])
def test_corrupt_structure_is_refused(changes: dict[str, Any], message: str, index: Any) -> None:
    with pytest.raises(ValueError) as error:
        make(index, **changes)
    assert str(error.value) == message


BAD_TYPES: list[tuple[dict[str, Any], str]] = [
    (
        {"blocks": np.ones((3, 2, 3), np.int32)},
        "BSR: blocks.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    (
        {"indptr": np.array([0, 2, 3], np.float32)},
        "BSR: indptr.dtype is float32, expected int32 or int64",
    ),
    (
        {"indices": np.array([0, 2, 1], np.float32)},
        "BSR: indices.dtype is float32, expected indptr.dtype = int32",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD_TYPES)
def test_wrong_element_types_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as error:
        make(**changes)
    assert str(error.value) == message


def test_without_check_only_the_arrays_are_looked_at() -> None:
    assert make(check=False, indices=[0, 2, 2]).nblocks == 3
    with pytest.raises(ValueError, match=r"shape\[0\] is 5"):
        make(check=False, shape=(5, 9))


def test_values_of_a_sibling_are_checked() -> None:
    a = make()
    assert a.with_values(np.ones((3, 2, 3))).dtype == "float64"
    with pytest.raises(ValueError, match=r"blocks.shape\[1\] is 3, expected the block's rows = 2$"):
        a.with_values(np.ones((3, 3, 2)))
    with pytest.raises(ValueError, match=r"blocks.shape\[0\] is 2, expected indices.shape\[0\] = "):
        a.with_values(np.ones((2, 2, 3)))
    with pytest.raises(TypeError, match=r"blocks.dtype is int64, expected float32"):
        a.with_values(np.ones((3, 2, 3), np.int64))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("index", [np.int32, np.int64], ids=name)
def test_attributes(dtype: Any, index: Any) -> None:
    a = make(index, blocks=PARTS["blocks"].astype(dtype))
    assert (a.shape, a.ndim, a.block, a.nblocks, a.nnz, a.density) == (
        (4, 9),
        2,
        (2, 3),
        3,
        18,
        0.5,
    )
    assert (a.dtype, a.index_dtype, a.device) == (name(dtype), name(index), "cpu")
    want = f"dtype={name(dtype)}, index_dtype={name(index)}, device=cpu)"
    assert repr(a) == f"BSR(shape=(4, 9), block=(2, 3), nblocks=3, {want}"
    with pytest.raises(AttributeError):
        a.blocks = None  # type: ignore[misc]


def test_arrays_are_kept_and_int64_is_narrowed() -> None:
    indptr, indices = np.array([0, 2, 3]), np.array([0, 2, 1])
    blocks = PARTS["blocks"]
    a = gossamer.BSR(indptr, indices, blocks, (4, 9))
    assert a.blocks is blocks
    assert a.index_dtype == "int32"
    wide = gossamer.BSR(indptr, indices, blocks, (4, 9), index_dtype="int64")
    assert wide.indices is indices
    assert wide.with_values(blocks).indptr is indptr


@st.composite
def corrupted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """A valid structure in which up to three numbers are changed."""
    rows, cols = draw(st.integers(0, 6)), draw(st.integers(1, 9))
    br, bc = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kept = draw(st.lists(st.sets(st.integers(0, cols - 1)), min_size=rows, max_size=rows))
    dtype = draw(st.sampled_from([np.int32, np.int64]))
    indptr = np.cumsum([0, *map(len, kept)]).astype(dtype)
    indices = np.array([j for row in kept for j in sorted(row)], dtype)
    for _ in range(draw(st.integers(0, 3))):
        array = draw(st.sampled_from([indptr, indices]))
        if array.size:
            value = draw(st.integers(-2, cols + 2) | st.sampled_from([-(2**31), 2**31 - 1]))
            array[draw(st.integers(0, array.size - 1))] = value
    blocks = np.arange(indices.size * br * bc, dtype=np.float32).reshape(-1, br, bc)
    return indptr, indices, blocks, (rows * br, cols * bc)


@settings(deadline=None, max_examples=300)
@given(corrupted())
def test_what_is_accepted_is_canonical(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]],
) -> None:
    indptr, indices, blocks, shape = case
    valid = indptr[0] == 0 and indptr[-1] == indices.size
    valid = valid and bool((np.diff(indptr.astype(np.int64)) >= 0).all())
    if valid:
        rows = [indices[a:b] for a, b in itertools.pairwise(indptr)]
        cols = shape[1] // blocks.shape[2]
        valid = all((r >= 0).all() and (r < cols).all() and (np.diff(r) > 0).all() for r in rows)
    if not valid:
        with pytest.raises(ValueError, match=r"^BSR: "):
            gossamer.BSR(indptr, indices, blocks, shape, index_dtype=indptr.dtype.name)
        return
    a = gossamer.BSR(indptr, indices, blocks, shape, index_dtype=indptr.dtype.name)
    want = scipy.sparse.bsr_array((blocks, indices, indptr), shape=shape).toarray()
    np.testing.assert_array_equal(a.to_dense(), want)


# Conversions.


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_dense_there_and_back(block: tuple[int, int], dtype: Any) -> None:
    for grid in [(0, 3), (3, 0), (1, 1), (7, 5), (40, 33)]:
        w = random_blocks(grid, block, 0.2, dtype)
        a = gossamer.BSR.from_dense(w, block)
        assert (a.shape, a.block, a.dtype) == (w.shape, block, name(dtype))
        np.testing.assert_array_equal(a.to_dense(), w)
        tiles = w.reshape(grid[0], block[0], grid[1], block[1]).swapaxes(1, 2)
        kept = (tiles != 0).any((2, 3))
        np.testing.assert_array_equal(a.indptr, [0, *np.cumsum(kept.sum(1))])
        np.testing.assert_array_equal(a.indices, kept.nonzero()[1])
        np.testing.assert_array_equal(a.blocks, tiles[kept])


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("mask_type", [np.bool_, np.uint8], ids=name)
def test_mask_keeps_entries_and_their_blocks(dtype: Any, mask_type: Any) -> None:
    w = oracle.random_dense((24, 36), dtype, seed=1)
    mask = np.random.default_rng(2).random((24, 36)) < 0.05
    w[mask.nonzero()[0][0], mask.nonzero()[1][0]] = 0
    a = gossamer.BSR.from_dense(w, (4, 3), mask.astype(mask_type))
    np.testing.assert_array_equal(a.to_dense(), np.where(mask, w, np.zeros((), dtype)))
    assert a.nblocks == mask.reshape(6, 4, 12, 3).any((1, 3)).sum()


def test_negative_zeros_make_no_block_and_nan_does() -> None:
    w = np.full((4, 4), -0.0, np.float32)
    w[3, 3] = np.nan
    a = gossamer.BSR.from_dense(w, 2)
    assert a.indices.tolist() == [1]
    assert a.indptr.tolist() == [0, 0, 1]


def test_strided_operands_of_conversions() -> None:
    w = random_blocks((6, 5), (4, 8), 0.3, np.float32)
    wide = np.full((24, 50), np.nan, np.float32)
    wide[:, 3:43] = w
    a = gossamer.BSR.from_dense(wide[:, 3:43], (4, 8))
    out = np.full((24, 45), 7, np.float32)
    assert a.to_dense(out=out[:, 2:42]).base is out
    np.testing.assert_array_equal(out[:, 2:42], w)
    assert (out[:, [0, 1, 42, 43, 44]] == 7).all()


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("index", [np.int32, np.int64], ids=name)
def test_transpose_and_its_permutation(block: tuple[int, int], dtype: Any, index: Any) -> None:
    w = random_blocks((9, 14), block, 0.3, dtype)
    a = gossamer.BSR.from_dense(w, block)
    parts = (np.asarray(i).astype(index) for i in (a.indptr, a.indices))
    a = gossamer.BSR(*parts, a.blocks, a.shape, index_dtype=name(index))
    t, permutation = a.transpose()
    assert (t.block, t.index_dtype, permutation.dtype) == (block[::-1], name(index), index)
    np.testing.assert_array_equal(t.to_dense(), w.T)
    np.testing.assert_array_equal(t.blocks, np.swapaxes(a.blocks[permutation], 1, 2))
    np.testing.assert_array_equal(a.T.to_dense(), w.T)


BAD_CONVERSIONS: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: gossamer.BSR.from_dense(np.ones((4, 6)), (3, 2)),
        ValueError,
        "BSR.from_dense: w.shape[0] is 4, expected a multiple of block[0] = 3",
    ),
    (
        lambda: gossamer.BSR.from_dense(np.ones((4, 6)), 4),
        ValueError,
        "BSR.from_dense: w.shape[1] is 6, expected a multiple of block[1] = 4",
    ),
    (
        lambda: gossamer.BSR.from_dense(np.ones((4, 6)), (0, 2)),
        ValueError,
        "BSR.from_dense: block[0] is 0, expected at least 1",
    ),
    (
        lambda: gossamer.BSR.from_dense(np.ones((4, 6)), (1, 2, 3)),  # type: ignore[arg-type]
        ValueError,
        "BSR.from_dense: block is (1, 2, 3), expected two extents",
    ),
    (
        lambda: gossamer.BSR.from_dense(np.ones(4), 2),
        ValueError,
        "BSR.from_dense: w.ndim is 1, expected 2",
    ),
    (
        lambda: gossamer.BSR.from_dense(np.ones((4, 6)), 2, np.ones((4, 5), bool)),
        ValueError,
        "BSR.from_dense: mask.shape[1] is 5, expected w.shape[1] = 6",
    ),
    (
        lambda: gossamer.BSR.from_dense(np.ones((4, 6)), 2, np.ones((4, 6))),
        TypeError,
        "BSR.from_dense: mask.dtype is float64, expected bool or uint8",
    ),
    (
        lambda: gossamer.BSR.from_dense(np.ones((4, 6), np.int32), 2),
        TypeError,
        "BSR.from_dense: w.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    (
        lambda: make().to_dense(out=np.ones((4, 8), np.float32)),
        ValueError,
        "BSR.to_dense: out.shape[1] is 8, expected a.shape[1] = 9",
    ),
    (
        lambda: make().to_dense(out=np.ones((4, 9))),
        TypeError,
        "BSR.to_dense: out.dtype is float64, expected a.dtype = float32",
    ),
    (
        lambda: gossamer.BSR.from_sparse(scipy.sparse.eye_array(4, format="csr")),
        ValueError,
        "from_sparse: block is None, expected its sides for a csr matrix",
    ),
    (
        lambda: gossamer.BSR.from_sparse(scipy.sparse.eye_array(4, format="csr"), 3),
        ValueError,
        "from_sparse: obj.shape is (4, 4), expected multiples of (3, 3)",
    ),
    (
        lambda: gossamer.BSR.from_sparse(np.ones((4, 4)), 2),
        TypeError,
        "from_sparse: obj is a ndarray, expected a sparse matrix of SciPy or PyTorch",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "message"), BAD_CONVERSIONS, ids=[row[2] for row in BAD_CONVERSIONS]
)
def test_bad_conversions(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_scipy_there_and_back() -> None:
    a = make()
    theirs = a.to_scipy()
    assert np.shares_memory(theirs.data, a.blocks)
    np.testing.assert_array_equal(theirs.toarray(), a.to_dense())
    back = gossamer.BSR.from_sparse(theirs)
    assert np.shares_memory(back.blocks, a.blocks)
    unsorted = scipy.sparse.bsr_array(
        (np.ones((3, 2, 2), np.float32), np.array([1, 0, 1]), np.array([0, 3])), shape=(2, 4)
    )
    summed = gossamer.BSR.from_sparse(unsorted)
    assert summed.indices.tolist() == [0, 1]
    assert summed.blocks[1].tolist() == [[2, 2], [2, 2]]
    assert unsorted.indices.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(
        gossamer.BSR.from_sparse(theirs.tocsc(), (1, 9)).to_dense(), a.to_dense()
    )
    assert gossamer.BSR.from_sparse(a) is a


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_torch_there_and_back(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    w = random_blocks((4, 6), (4, 2), 0.5, np.float32)
    dense = torch.from_numpy(w).to(getattr(torch, dtype))
    theirs = dense.to_sparse_bsr((4, 2))
    a = gossamer.BSR.from_sparse(theirs)
    assert (a.block, a.dtype) == ((4, 2), dtype)
    assert isinstance(a.to_dense(), torch.Tensor)
    assert torch.equal(a.to_dense(), dense)
    assert torch.equal(a.to_torch().to_dense(), dense)
    assert a.to_torch().values().data_ptr() == a.blocks.data_ptr()
    with pytest.raises(ValueError, match=r"block is \(2, 2\), expected obj's \(4, 2\)$"):
        gossamer.BSR.from_sparse(theirs, (2, 2))
    assert torch.equal(gossamer.BSR.from_sparse(dense.to_sparse_csr(), 4).to_dense(), dense)


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_conversions_stay_in_the_framework(framework: str) -> None:
    w = random_blocks((4, 6), (4, 2), 0.5, np.float32)
    module = pytest.importorskip(framework)
    if framework == "jax":
        module = module.numpy
    array = module.asarray(w)
    a = gossamer.BSR.from_dense(array, (4, 2))
    for part in (a.indptr, a.indices, a.blocks, a.to_dense(), a.T.blocks, a.transpose()[1]):
        assert type(part) is type(array)
    np.testing.assert_array_equal(numpy_of(a.to_dense()), w)


def test_pickle_and_copy() -> None:
    for index in (np.int32, np.int64):
        a = make(index)
        for b in (pickle.loads(pickle.dumps(a)), copy.copy(a), copy.deepcopy(a)):
            assert (b.shape, b.block, b.index_dtype) == (a.shape, a.block, a.index_dtype)
            np.testing.assert_array_equal(b.to_dense(), a.to_dense())
