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
from library import examples

BF16 = np.dtype(ml_dtypes.bfloat16)
BLOCKS = [
    *[(1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (1, 16), (16, 1)],
    *[(2, 3), (4, 4), (16, 16), (32, 32), (5, 8), (8, 40)],
]


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
    ({"shape": (4, 9, 1)}, "BSR: shape is (4, 9, 1), expected two integers"),
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
    assert np.shares_memory(wide.indices, indices)
    assert np.shares_memory(wide.with_values(blocks).indptr, indptr)


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


@settings(deadline=None, max_examples=examples(300))
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
        "BSR.from_dense: block is (1, 2, 3), expected two integers",
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
        lambda: gossamer.BSR.from_sparse(scipy.sparse.eye_array(4, format="csr"), block=3),
        ValueError,
        "from_sparse: obj.shape is (4, 4), expected multiples of (3, 3)",
    ),
    (
        lambda: gossamer.BSR.from_sparse(np.ones((4, 4)), block=2),
        TypeError,
        "from_sparse: obj is a ndarray, expected a sparse matrix of SciPy, PyTorch or JAX",
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
        gossamer.BSR.from_sparse(theirs.tocsc(), block=(1, 9)).to_dense(), a.to_dense()
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
        gossamer.BSR.from_sparse(theirs, block=(2, 2))
    assert torch.equal(gossamer.BSR.from_sparse(dense.to_sparse_csr(), block=4).to_dense(), dense)


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


# Products.

WIDTHS = [1, 2, 3, 4, 7, 8, 9, 16, 31, 33, 64, 70]


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("index", [np.int32, np.int64], ids=name)
def test_sums_of_integers_are_exact(block: tuple[int, int], dtype: Any, index: Any) -> None:
    for grid, density in [((1, 1), 1.0), ((3, 5), 0.6), ((9, 7), 0.2), ((2, 80), 0.9)]:
        a = random_blocks(grid, block, density, dtype)
        wide = a.astype(np.float64)
        bsr = gossamer.BSR.from_dense(a, block)
        parts = (bsr.indptr.astype(index), bsr.indices.astype(index))
        bsr = gossamer.BSR(*parts, bsr.blocks, bsr.shape, index_dtype=name(index))
        for n in WIDTHS:
            b = oracle.random_dense((a.shape[1], n), dtype, seed=2, integers=True)
            want = (wide @ b.astype(np.float64)).astype(dtype)
            np.testing.assert_array_equal(gossamer.spmm(bsr, b), want)
            x = np.ascontiguousarray(b.T)
            np.testing.assert_array_equal(gossamer.linear(x, bsr), want.T)
            c = oracle.random_dense((a.shape[0], n), dtype, seed=3, integers=True)
            want = (wide.T @ c.astype(np.float64)).astype(dtype)
            np.testing.assert_array_equal(gossamer.spmm(bsr, c, transpose_a=True), want)
        v = oracle.random_dense((a.shape[1],), dtype, seed=4, integers=True)
        np.testing.assert_array_equal(
            gossamer.spmm(bsr, v), (wide @ v.astype(np.float64)).astype(dtype)
        )


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("block", [(16, 16), (4, 1), (8, 24)], ids=str)
def test_rounding_stays_within_the_dot_product_bound(block: tuple[int, int], dtype: Any) -> None:
    grid = (160 // block[0], 720 // block[1])
    a = np.kron(oracle.random_sparse(grid, 0.3, np.float64, 1) != 0, np.ones(block))
    a = (a * np.random.default_rng(3).standard_normal(a.shape)).astype(dtype)
    bsr = gossamer.BSR.from_dense(a, block)
    wide = a.astype(np.float64)
    for n in (1, 3, 8, 40):
        b = oracle.random_dense((a.shape[1], n), dtype, seed=5)
        c = oracle.random_dense((a.shape[0], n), dtype, seed=6)
        for left, right, got in [
            (wide, b, gossamer.spmm(bsr, b)),
            (wide.T, c, gossamer.spmm(bsr, c, transpose_a=True)),
        ]:
            right_wide = right.astype(np.float64)
            magnitude = np.abs(left) @ np.abs(right_wide)
            oracle.assert_close(got, left @ right_wide, magnitude, left.shape[1])


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("activation", oracle.ACTIVATIONS, ids=str)
def test_epilogue(dtype: Any, activation: Any) -> None:
    a = random_blocks((5, 4), (16, 8), 0.5, dtype)
    bsr = gossamer.BSR.from_dense(a, (16, 8))
    bias = oracle.random_dense((80,), dtype, seed=7, integers=True)
    act = oracle.ACTIVATIONS[activation]
    tolerance = 8 * oracle.unit_roundoff(np.float32) + 4 * oracle.unit_roundoff(dtype)
    for n in (1, 4, 21):
        b = oracle.random_dense((32, n), dtype, seed=8, integers=True)
        before = oracle.random_dense((80, n), dtype, seed=9, integers=True)
        sums = a.astype(float) @ b.astype(float) + bias.astype(float)[:, None]
        options = {"bias": bias, "activation": activation}
        want = act(sums)
        for got in (
            gossamer.spmm(bsr, b, **options),
            gossamer.linear(np.ascontiguousarray(b.T), bsr, **options).T,
        ):
            assert np.all(np.abs(got.astype(float) - want) <= tolerance * (np.abs(sums) + 1))
        out = before.copy()
        assert gossamer.spmm(bsr, b, accumulate=True, out=out, **options) is out
        sums = sums + before.astype(float)
        assert np.all(np.abs(out.astype(float) - act(sums)) <= tolerance * (np.abs(sums) + 1))


@pytest.mark.parametrize("n", [1, 6, 20])
def test_strided_rows_in_and_out(n: int) -> None:
    a = random_blocks((3, 4), (8, 8), 0.5, np.float32)
    bsr = gossamer.BSR.from_dense(a, 8)
    wide = oracle.random_dense((32, n + 5), np.float32, seed=2, integers=True)
    out = np.full((24, n + 3), 99, np.float32)
    gossamer.spmm(bsr, wide[:, 2 : 2 + n], out=out[:, 1 : 1 + n])
    np.testing.assert_array_equal(out[:, 1 : 1 + n], a @ wide[:, 2 : 2 + n])
    assert (out[:, 0] == 99).all()
    assert (out[:, 1 + n :] == 99).all()
    x = oracle.random_dense((n, 40), np.float32, seed=3, integers=True)
    out = np.full((n, 30), 99, np.float32)
    gossamer.linear(x[:, 3:35], bsr, out=out[:, 2:26])
    np.testing.assert_array_equal(out[:, 2:26], x[:, 3:35] @ a.T)
    assert (out[:, 26:] == 99).all()


@pytest.mark.parametrize("n", [1, 5, 20])
@pytest.mark.parametrize("block", [(8, 8), (4, 1)], ids=str)
def test_what_no_block_touches_does_not_matter(n: int, block: tuple[int, int]) -> None:
    a = random_blocks((6, 8), block, 0.3, np.float32)
    a[:, block[1] : 2 * block[1]] = 0
    b = oracle.random_dense((a.shape[1], n), np.float32, seed=1, integers=True)
    want = a @ b
    b[block[1] : 2 * block[1]] = np.nan
    np.testing.assert_array_equal(gossamer.spmm(gossamer.BSR.from_dense(a, block), b), want)


@pytest.mark.parametrize("shape", [(0, 0), (0, 6), (6, 0), (6, 6)])
def test_empty_matrices_give_the_epilogue_of_zero(shape: tuple[int, int]) -> None:
    bsr = gossamer.BSR.from_dense(np.zeros(shape, np.float32), (3, 2))
    bias = np.arange(shape[0], dtype=np.float32)
    for n in (0, 1, 20):
        got = gossamer.spmm(bsr, np.ones((shape[1], n), np.float32), bias=bias)
        np.testing.assert_array_equal(got, np.repeat(bias[:, None], n, axis=1))
        got = gossamer.spmm(bsr, np.ones((shape[0], n), np.float32), transpose_a=True)
        np.testing.assert_array_equal(got, np.zeros((shape[1], n)))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_sddmm_fills_the_blocks(block: tuple[int, int], dtype: Any) -> None:
    pattern = gossamer.BSR.from_dense(random_blocks((5, 4), block, 0.4, dtype), block)
    br, bc = block
    rows, cols = pattern.shape
    grid = np.repeat(np.arange(5), np.diff(pattern.indptr))
    for depth in (0, 1, 7, 16, 33, 70):
        a = oracle.random_dense((rows, depth), dtype, seed=1, integers=True)
        b = oracle.random_dense((cols, depth + 2), dtype, seed=2, integers=True)[:, 1 : depth + 1]
        full = a.astype(float) @ b.astype(float).T
        want = full.reshape(5, br, 4, bc).swapaxes(1, 2)[grid, pattern.indices]
        got = gossamer.sddmm(a, b, pattern)
        np.testing.assert_array_equal(got, want.astype(dtype))
        assert pattern.with_values(got).shape == pattern.shape
        gossamer.sddmm(a, b, pattern, accumulate=True, out=got)
        np.testing.assert_array_equal(got, (want.astype(dtype) * 2).astype(dtype))


def test_random_sddmm_stays_within_the_bound() -> None:
    pattern = gossamer.BSR.from_dense(np.ones((32, 32), np.float32), 16)
    a = oracle.random_dense((32, 200), np.float32, seed=1)
    b = oracle.random_dense((32, 200), np.float32, seed=2)
    got = gossamer.sddmm(a, b, pattern).swapaxes(1, 2).reshape(2, 2, 16, 16)
    got = got.transpose(0, 3, 1, 2).reshape(32, 32)
    wide_a, wide_b = a.astype(float), b.astype(float)
    oracle.assert_close(got, wide_a @ wide_b.T, np.abs(wide_a) @ np.abs(wide_b).T, 200)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_products_return_the_operands_framework(framework: str, dtype: str) -> None:
    module = pytest.importorskip(framework)
    if framework == "jax":
        module = module.numpy
    if framework == "numpy" and dtype == "bfloat16":
        kind: Any = BF16
    else:
        kind = getattr(module, dtype)
    if framework == "jax" and dtype == "float64":
        pytest.skip("JAX has float64 by configuration only")
    w = random_blocks((3, 2), (4, 8), 0.7, np.float32)

    def to(array: np.ndarray) -> Any:
        if framework == "torch":
            return module.from_numpy(array).to(kind)
        return module.asarray(array, dtype=kind)

    a = gossamer.BSR.from_dense(to(w), (4, 8))
    b = oracle.random_dense((16, 5), np.float32, seed=1, integers=True)
    x = oracle.random_dense((12, 5), np.float32, seed=2, integers=True)
    results = {
        "spmm": (gossamer.spmm(a, to(b)), w @ b),
        "linear": (gossamer.linear(to(b.T.copy()), a), (w @ b).T),
        "transposed": (gossamer.spmm(a, to(x), transpose_a=True), w.T @ x),
    }
    for key, (got, want) in results.items():
        assert type(got) is type(to(b)), key
        assert got.dtype == to(b).dtype
        np.testing.assert_array_equal(numpy_of(got).astype(float), want)
    got = gossamer.sddmm(to(x), to(b), a)
    assert type(got) is type(to(b))
    assert tuple(got.shape) == tuple(a.blocks.shape)


SQUARE = gossamer.BSR.from_dense(np.eye(4, dtype=np.float32), 2)
ONES = np.ones((4, 4), np.float32)

BAD_CALLS: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: gossamer.spmm(SQUARE, ONES[:3]),
        ValueError,
        "spmm: b.shape[0] is 3, expected a.shape[1] = 4",
    ),
    (
        lambda: gossamer.spmm(SQUARE, ONES.astype(float)),
        TypeError,
        "spmm: b.dtype is float64, expected a.dtype = float32",
    ),
    (
        lambda: gossamer.spmm(SQUARE, ONES, bias=np.ones(3, np.float32)),
        ValueError,
        "spmm: bias.shape[0] is 3, expected a.shape[0] = 4",
    ),
    (
        lambda: gossamer.linear(ONES[:, :3], SQUARE),
        ValueError,
        "linear: x.shape[1] is 3, expected w.shape[1] = 4",
    ),
    (
        lambda: gossamer.spmm(SQUARE, ONES[:, :2], out=SQUARE.blocks.reshape(4, 2)),
        ValueError,
        "spmm: out overlaps a.blocks, expected separate memory",
    ),
    (
        lambda: gossamer.sddmm(ONES, ONES, SQUARE, out=np.ones(8, np.float32)),
        ValueError,
        "sddmm: out.shape is (8,), expected (2, 2, 2)",
    ),
    (
        lambda: gossamer.sddmm(ONES, ONES, SQUARE, out=np.ones((2, 4, 2), np.float32)[:, ::2]),
        ValueError,
        "sddmm: out.strides[1] is 4, expected 2 (make it contiguous)",
    ),
    (
        lambda: gossamer.sddmm(ONES, ONES[:3], SQUARE),
        ValueError,
        "sddmm: b.shape[0] is 3, expected pattern.shape[1] = 4",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=[row[2] for row in BAD_CALLS])
def test_bad_calls(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_number_of_threads_changes_no_bit(dtype: str) -> None:
    rng = np.random.default_rng(7)

    def dense(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    kept = rng.random((48, 30)) < np.linspace(0.9, 0.02, 48)[:, None] ** 2
    w = np.where(np.kron(kept, np.ones((16, 16))) != 0, dense(768, 480), np.zeros((), dtype))
    a = gossamer.BSR.from_dense(w, 16)
    b, bt, x, left, right = (
        dense(480, 40),
        dense(768, 40),
        dense(3, 480),
        dense(768, 20),
        dense(480, 20),
    )
    calls = {
        "spmm": lambda: gossamer.spmm(a, b),
        "transposed": lambda: gossamer.spmm(a, bt, transpose_a=True),
        "linear": lambda: gossamer.linear(x, a, activation="gelu"),
        "spmv": lambda: gossamer.spmm(a, b[:, 0].copy()),
        "transposed spmv": lambda: gossamer.spmm(a, bt[:, 0].copy(), transpose_a=True),
        "sddmm": lambda: gossamer.sddmm(left, right, a),
    }
    before = gossamer.get_num_threads()
    try:
        gossamer.set_num_threads(1)
        serial = {key: call().tobytes() for key, call in calls.items()}
        for threads in (2, 3, 5):
            gossamer.set_num_threads(threads)
            assert {key: call().tobytes() for key, call in calls.items()} == serial
    finally:
        gossamer.set_num_threads(before)
