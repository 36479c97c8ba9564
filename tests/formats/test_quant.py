"""Group-quantised matrices against float64 NumPy."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import subprocess
import sys
from collections.abc import Callable

import gossamer
import ml_dtypes
import numpy as np
import oracle
import pytest
from gossamer import GroupQuant
from numpy.typing import NDArray

F32 = np.float32
GROUPS = [16, 32, 64, 128]
#: K a multiple of every group, of some, of none; fewer columns than a group; nothing.
SHAPES = [(9, 256), (20, 96), (33, 301), (5, 7), (1, 1), (0, 40), (4, 0)]


def name(dtype: type) -> str:
    return np.dtype(dtype).name


def dequantised(a: GroupQuant) -> NDArray[np.float64]:
    """Read the arrays as the class says."""
    dense = np.zeros((a.shape[0], -(-a.shape[1] // a.group) * a.group))
    codes = np.asarray(a.codes)
    if a.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(-1, a.group)
    scales = np.asarray(a.scales).astype(float)[:, None]
    numbers = (codes.astype(float) - np.asarray(a.zeros).astype(float)[:, None]) * scales
    rows = np.repeat(np.arange(a.shape[0]), np.diff(np.asarray(a.indptr)))
    for p, (row, group) in enumerate(zip(rows, np.asarray(a.indices), strict=True)):
        dense[row, group * a.group : (group + 1) * a.group] = numbers[p]
    return dense[:, : a.shape[1]]


def weights(shape: tuple[int, int], dtype: type, seed: int = 1) -> NDArray[np.generic]:
    return oracle.random_dense(shape, dtype, seed)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", GROUPS)
def test_numbers_are_within_half_a_scale(dtype: type, bits: int, group: int) -> None:
    for shape in SHAPES:
        w = weights(shape, dtype)
        a = GroupQuant.from_dense(w, group=group, bits=bits)
        got = dequantised(a)
        across = -(-shape[1] // group)
        scales = np.zeros((shape[0], across))
        rows = np.repeat(np.arange(shape[0]), np.diff(a.indptr))
        scales[rows, np.asarray(a.indices)] = a.scales
        bound = np.repeat(scales, group, axis=1)[:, : shape[1]] / 2
        assert np.all(np.abs(got - w.astype(float)) <= bound * (1 + 1e-6))
        np.testing.assert_array_equal(a.to_dense(), got.astype(dtype))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("other_end", [-65504, -6550, 0])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_float16_stays_finite(bits: int, other_end: int, sign: int) -> None:
    w = sign * np.array([[65504, other_end] * 8], np.float16)
    a = GroupQuant.from_dense(w, bits=bits)
    assert np.all(np.abs(a.to_dense().astype(float) - w) < float(a.scales[0]))
    unit = np.zeros((1, 16), np.float16)
    unit[0, 0] = 1
    np.testing.assert_array_equal(gossamer.linear(unit, a), a.to_dense()[:, :1])


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", GROUPS)
def test_products_are_those_of_the_dequantised_matrix(dtype: type, bits: int, group: int) -> None:
    # Of 0.7 of the groups, 9 columns are multiplied as vectors and 16 as a tile; of 0.2, 40 and 70.
    for shape, sparsity in itertools.product(SHAPES, (0.3, 0.8)):
        a = GroupQuant.from_dense(weights(shape, dtype), group=group, bits=bits, sparsity=sparsity)
        w = dequantised(a)
        for n in (1, 2, 3, 8, 9, 16, 40, 70):
            b = oracle.random_dense((shape[1], n), dtype, seed=2)
            wide = b.astype(float)
            want, magnitude = w @ wide, np.abs(w) @ np.abs(wide)
            oracle.assert_close(gossamer.spmm(a, b), want, magnitude, shape[1])
            x = np.ascontiguousarray(b.T)
            oracle.assert_close(gossamer.linear(x, a), want.T, magnitude.T, shape[1])
        for n in (1, 7, 40):
            c = oracle.random_dense((shape[0], n), dtype, seed=3)
            wide = c.astype(float)
            got = gossamer.spmm(a, c, transpose_a=True)
            oracle.assert_close(got, w.T @ wide, np.abs(w.T) @ np.abs(wide), shape[0])


def with_integers(
    shape: tuple[int, int], group: int, bits: int, dtype: type, seed: int = 1
) -> GroupQuant:
    """Make a matrix of small integers: scales 1 and 2, half of the groups."""
    rng = np.random.default_rng(seed)
    kept = rng.random((shape[0], -(-shape[1] // group))) < 0.5
    indptr = np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int32)
    count = int(indptr[-1])
    return GroupQuant(
        indptr,
        np.nonzero(kept)[1].astype(np.uint16),
        rng.integers(0, 256 if bits == 4 else 16, (count, group * bits // 8)).astype(np.uint8),
        rng.integers(1, 3, count).astype(np.float16),
        rng.integers(0, 16, count).astype(np.uint8),
        shape=shape,
        group=group,
        bits=bits,
        dtype=name(dtype),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=name)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", GROUPS)
def test_sums_of_integers_are_exact(dtype: type, bits: int, group: int) -> None:
    for shape in [*SHAPES, (70, 1000)]:
        a = with_integers(shape, group, bits, dtype)
        w = dequantised(a)
        for n in (1, 2, 3, 4, 5, 8, 9, 16, 33, 64, 70):
            b = oracle.random_dense((shape[1], n), dtype, seed=2, integers=True)
            np.testing.assert_array_equal(gossamer.spmm(a, b), w @ b)
            c = oracle.random_dense((shape[0], n), dtype, seed=2, integers=True)
            np.testing.assert_array_equal(gossamer.spmm(a, c, transpose_a=True), w.T @ c)


@pytest.mark.parametrize("activation", oracle.ACTIVATIONS, ids=str)
def test_epilogue(activation: object) -> None:
    a = with_integers((37, 100), 16, 4, F32)
    w, act = dequantised(a), oracle.ACTIVATIONS[activation]
    bias = oracle.random_dense((37,), F32, seed=7)
    for n in (1, 5, 30):
        x = oracle.random_dense((n, 100), F32, seed=8) / 100
        before = oracle.random_dense((n, 37), F32, seed=9)
        out = before.copy()
        got = gossamer.linear(x, a, bias=bias, activation=activation, accumulate=True, out=out)
        assert got is out
        want = act(x.astype(float) @ w.T + bias + before)
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4)


def test_strided_rows_in_and_out() -> None:
    a = with_integers((21, 50), 16, 4, F32)
    w = dequantised(a)
    for n in (1, 6, 20):
        x = oracle.random_dense((n, 60), F32, seed=3, integers=True)
        out = np.full((n, 30), 99, F32)
        gossamer.linear(x[:, 5:55], a, out=out[:, 2:23])
        np.testing.assert_array_equal(out[:, 2:23], x[:, 5:55] @ w.T)
        assert (out[:, :2] == 99).all()
        assert (out[:, 23:] == 99).all()
        wide = oracle.random_dense((50, n + 5), F32, seed=4, integers=True)
        np.testing.assert_array_equal(gossamer.spmm(a, wide[:, 2 : 2 + n]), w @ wide[:, 2 : 2 + n])


@pytest.mark.parametrize("n", [1, 6, 40])
def test_threads_do_not_change_a_bit(n: int) -> None:
    a = GroupQuant.from_dense(weights((600, 500), F32), sparsity=0.5)
    x = oracle.random_dense((n, 500), F32, seed=3)
    c = oracle.random_dense((600, n), F32, seed=3)
    before = gossamer.get_num_threads()
    results = set()
    try:
        for threads in (1, 2, 3):
            gossamer.set_num_threads(threads)
            results.add(
                gossamer.linear(x, a).tobytes()
                + gossamer.spmm(a, c, transpose_a=True).tobytes()
                + np.asarray(GroupQuant.from_dense(weights((600, 500), F32)).codes).tobytes()
            )
    finally:
        gossamer.set_num_threads(before)
    assert len(results) == 1


@pytest.mark.parametrize("sparsity", [0, 0.25, 0.5, 0.9, 1])
def test_sparsity_keeps_the_largest_groups(sparsity: float) -> None:
    w = weights((40, 100), F32)
    a = GroupQuant.from_dense(w, group=16, sparsity=sparsity)
    padded = np.zeros((40, 112))
    padded[:, :100] = w
    norms = np.sqrt((padded.reshape(40, 7, 16) ** 2).sum(2)).reshape(-1)
    kept = gossamer.schedule.nnz(280, sparsity)
    assert a.groups == kept
    rows = np.repeat(np.arange(40), np.diff(a.indptr))
    chosen = rows * 7 + np.asarray(a.indices)
    assert set(chosen) == set(np.argsort(-norms, kind="stable")[:kept])


@pytest.mark.parametrize("mask_dtype", [bool, np.uint8])
def test_masks_of_elements_and_of_groups(mask_dtype: type) -> None:
    w = weights((30, 70), F32) + 5
    mask = np.zeros((30, 70), mask_dtype)
    mask[3, 5] = mask[3, 69] = mask[20, 17] = 1
    a = GroupQuant.from_dense(w, bits=8, mask=mask)
    assert list(a.indices) == [0, 4, 1]
    dense = a.to_dense()
    assert (dense[mask == 0] == 0).all()
    np.testing.assert_allclose(dense[mask != 0], w[mask != 0], rtol=0.003)
    of_groups = np.zeros((30, 5), mask_dtype)
    of_groups[3, [0, 4]] = of_groups[20, 1] = 1
    b = GroupQuant.from_dense(w, bits=8, mask=of_groups)
    np.testing.assert_array_equal(b.indices, a.indices)
    assert (b.to_dense() != 0).sum() == 16 + 6 + 16


def test_zero_is_exact_and_groups_of_zeros_are_left_out() -> None:
    w = np.zeros((2, 48), F32)
    w[0, :16] = np.linspace(3, 4, 16)
    w[0, 3] = 0
    w[1, 20] = -2
    a = GroupQuant.from_dense(w)
    assert list(a.indptr) == [0, 1, 2]
    dense = a.to_dense()
    assert (dense[w == 0] == 0).all()
    everything = GroupQuant.from_dense(w, mask=np.ones((2, 3), bool))
    assert everything.groups == 6
    np.testing.assert_array_equal(everything.to_dense(), dense)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", GROUPS)
def test_bytes_are_those_of_the_formula(bits: int, group: int) -> None:
    a = GroupQuant.from_dense(weights((50, 300), F32), group=group, bits=bits, sparsity=0.4)
    arrays = (a.indptr, a.indices, a.codes, a.scales, a.zeros)
    assert a.nbytes == sum(np.asarray(array).nbytes for array in arrays)
    assert a.nbytes == 4 * 51 + a.groups * (group * bits // 8 + 5)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_arrays_of_other_frameworks(framework: str) -> None:
    module = pytest.importorskip(framework)
    w = weights((8, 40), F32)
    given = module.from_numpy(w) if framework == "torch" else module.numpy.asarray(w)
    a = GroupQuant.from_dense(given, sparsity=0.5)
    want = GroupQuant.from_dense(w, sparsity=0.5)
    assert type(a.codes) is type(given)
    np.testing.assert_array_equal(np.asarray(a.to_dense()), want.to_dense())
    x = np.ones((2, 40), F32)
    ours = module.from_numpy(x) if framework == "torch" else module.numpy.asarray(x)
    np.testing.assert_array_equal(np.asarray(gossamer.linear(ours, a)), gossamer.linear(x, want))


@pytest.mark.parametrize(
    "duplicate",
    [lambda a: pickle.loads(pickle.dumps(a)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_copies(duplicate: Callable[[GroupQuant], GroupQuant]) -> None:
    a = GroupQuant.from_dense(weights((8, 40), np.float16), group=32, bits=8, sparsity=0.5)
    made = duplicate(a)
    assert repr(made) == repr(a)
    np.testing.assert_array_equal(made.to_dense(), a.to_dense())


def test_attributes() -> None:
    a = GroupQuant.from_dense(np.ones((2, 20), F32), bits=8)
    assert (a.shape, a.ndim, a.group, a.bits, a.groups, a.nnz) == ((2, 20), 2, 16, 8, 4, 64)
    assert (a.dtype, a.device) == ("float32", "cpu")
    with pytest.raises(ValueError, match="read-only"):
        a.indices[0] = 1
    a.scales[:] = 0
    assert (a.to_dense() == 0).all()


def arrays(**changed: object) -> Callable[[], object]:
    """Make a matrix [2, 40] of three groups, with some of its arrays changed."""
    given: dict[str, object] = {
        "indptr": np.array([0, 2, 3], np.int32),
        "indices": np.array([0, 2, 1], np.uint16),
        "codes": np.zeros((3, 8), np.uint8),
        "scales": np.ones(3, np.float16),
        "zeros": np.zeros(3, np.uint8),
        "shape": (2, 40),
    }
    return lambda: GroupQuant(**(given | changed))  # type: ignore[arg-type]


def one_bad(value: float) -> np.ndarray:
    return np.array([1, value, 1], np.float16)


W = np.ones((2, 20), F32)
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (arrays(group=24), ValueError, "GroupQuant: group is 24, expected 16, 32, 64 or 128"),
    (arrays(bits=3), ValueError, "GroupQuant: bits is 3, expected 4 or 8"),
    (
        arrays(dtype="int32"),
        TypeError,
        "GroupQuant: dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    (arrays(shape=(-1, 40)), ValueError, "GroupQuant: shape[0] is -1, expected 0 to 2147483647"),
    (
        arrays(shape=(2, 2**62)),
        ValueError,
        f"GroupQuant: shape[1] is {2**62}, expected 0 to 65536 * group = 1048576",
    ),
    (
        arrays(shape=(3, 40)),
        ValueError,
        "GroupQuant: indptr.shape[0] is 3, expected shape[0] + 1 = 3 + 1",
    ),
    (
        arrays(shape=(2, 32)),
        ValueError,
        "GroupQuant: indices[1] is 2, expected less than shape[1] / group = 2",
    ),
    (
        arrays(indptr=np.array([0, 3, 3], np.int32)),
        ValueError,
        "GroupQuant: indices[2] is 1, expected more than indices[1] = 2 in row 0",
    ),
    (
        arrays(indptr=np.array([0, 4, 3], np.int32)),
        ValueError,
        "GroupQuant: indptr[2] is 3, expected at least indptr[1] = 4",
    ),
    (
        arrays(indptr=np.array([0, 2, 2**31 - 1], np.int32)),
        ValueError,
        "GroupQuant: indices.shape[0] is 3, expected indptr[-1] = 2147483647",
    ),
    (
        arrays(indptr=np.array([0, 2, 3])),
        TypeError,
        "GroupQuant: indptr.dtype is int64, expected int32",
    ),
    (
        arrays(indices=np.array([0, 2, 1], np.int32)),
        TypeError,
        "GroupQuant: indices.dtype is int32, expected uint16",
    ),
    (
        arrays(codes=np.zeros((3, 16), np.uint8)),
        ValueError,
        "GroupQuant: codes.shape[1] is 16, expected group * bits / 8 = 8",
    ),
    (
        arrays(codes=np.zeros((2, 8), np.uint8)),
        ValueError,
        "GroupQuant: codes.shape[0] is 2, expected indices.shape[0] = 3",
    ),
    (
        arrays(codes=np.zeros((3, 16), np.uint8)[:, ::2]),
        ValueError,
        "GroupQuant: codes.strides[-1] is 2, expected 1 (make it contiguous)",
    ),
    (
        arrays(scales=np.ones(3, F32)),
        TypeError,
        "GroupQuant: scales.dtype is float32, expected float16",
    ),
    (
        arrays(scales=one_bad(math.nan)),
        ValueError,
        "GroupQuant: scales[1] is nan, expected a finite number",
    ),
    (
        arrays(scales=one_bad(-math.inf)),
        ValueError,
        "GroupQuant: scales[1] is -inf, expected a finite number",
    ),
    (
        arrays(zeros=np.array([0, 16, 3], np.uint8)),
        ValueError,
        "GroupQuant: zeros[1] is 16, expected at most 15",
    ),
    (
        lambda: GroupQuant.from_dense(W, group=8),
        ValueError,
        "GroupQuant.from_dense: group is 8, expected 16, 32, 64 or 128",
    ),
    (
        lambda: GroupQuant.from_dense(W, bits=5),
        ValueError,
        "GroupQuant.from_dense: bits is 5, expected 4 or 8",
    ),
    (
        lambda: GroupQuant.from_dense(W, sparsity=0.5, mask=W > 0),
        ValueError,
        "GroupQuant.from_dense: got sparsity and mask, expected at most one of them",
    ),
    (
        lambda: GroupQuant.from_dense(W[0]),
        ValueError,
        "GroupQuant.from_dense: w.ndim is 1, expected 2",
    ),
    (
        lambda: GroupQuant.from_dense(W.astype(np.int32)),
        TypeError,
        "GroupQuant.from_dense: w.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    (
        lambda: GroupQuant.from_dense(W, mask=np.ones((2, 3), bool)),
        ValueError,
        "GroupQuant.from_dense: mask.shape[1] is 3, expected w.shape[1] = 20 or its groups, 2",
    ),
    (  # not pruned in silence
        lambda: GroupQuant.from_dense(
            np.where(np.arange(40).reshape(2, 20) == 20, math.nan, 1), sparsity=0.5
        ),
        ValueError,
        "GroupQuant.from_dense: w[1, 0] is nan, "
        "expected a finite number whose group has a float16 scale",
    ),
    (
        lambda: GroupQuant.from_dense(W * np.inf),
        ValueError,
        "GroupQuant.from_dense: w[0, 0] is inf, "
        "expected a finite number whose group has a float16 scale",
    ),
    (
        lambda: GroupQuant.from_dense(W * 2e6),
        ValueError,
        "GroupQuant.from_dense: w[0, 0] is 2000000.0, "
        "expected a finite number whose group has a float16 scale",
    ),
    (
        lambda: gossamer.linear(np.ones((3, 21), F32), GroupQuant.from_dense(W)),
        ValueError,
        "linear: x.shape[1] is 21, expected w.shape[1] = 20",
    ),
    (
        lambda: gossamer.spmm(GroupQuant.from_dense(W), np.ones(20)),
        TypeError,
        "spmm: b.dtype is float64, expected a.dtype = float32",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_bad_calls(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_a_result_does_not_overlap_the_matrix() -> None:
    a = GroupQuant.from_dense(W)
    codes = np.zeros(64, np.uint8)
    overlapping = GroupQuant(
        a.indptr, a.indices, codes[:32].reshape(4, 8), a.scales, a.zeros, shape=(2, 20)
    )
    with pytest.raises(ValueError, match=r"out shares memory with w\.codes|overlap|w\.codes"):
        gossamer.linear(np.ones((1, 20), F32), overlapping, out=codes.view(F32)[None, :2])


@pytest.mark.parametrize("bits", [4, 8])
def test_error_shrinks_with_groups_of_their_own_scale(bits: int) -> None:
    """Accuracy on weights whose size differs between groups (GQSA, section 3)."""
    rng = np.random.default_rng(1)
    sizes = np.repeat(np.exp(rng.standard_normal((64, 16))), 16, axis=1)
    w = (rng.standard_normal((64, 256)) * sizes).astype(F32)
    fine, coarse = (
        np.linalg.norm(GroupQuant.from_dense(w, group=group, bits=bits).to_dense() - w)
        for group in (16, 128)
    )
    assert fine < 0.7 * coarse


def test_bfloat16_needs_no_more_than_its_rounding() -> None:
    a = GroupQuant.from_dense(weights((20, 64), ml_dtypes.bfloat16), bits=8)
    assert a.dtype == "bfloat16"
    assert a.to_dense().dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("n", [1, 9, 40])
def test_what_no_group_touches_does_not_matter(n: int) -> None:
    w = weights((40, 96), F32)
    w[:, 32:48] = 0
    a = GroupQuant.from_dense(w)
    b = oracle.random_dense((96, n), F32, seed=2)
    want = gossamer.spmm(a, b)
    b[40] = np.inf
    got = gossamer.spmm(a, b)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# The element type is of no array of the matrix, so NumPy may not have met it yet.
UNMET = """
import sys
import numpy as np
from gossamer import GroupQuant

made = GroupQuant.from_dense(np.ones((4, 32), np.float32))
arrays = (made.indptr, made.indices, made.codes, made.scales, made.zeros)
a = GroupQuant(*arrays, shape=made.shape, group=16, bits=4, dtype="bfloat16")
assert "ml_dtypes" not in sys.modules
if sys.argv[1:]:
    sys.modules["ml_dtypes"] = None
print(a.to_dense().dtype)
"""


@pytest.mark.once
def test_bfloat16_of_numpy_is_found_where_it_is_installed() -> None:
    command = [sys.executable, "-c", UNMET]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "bfloat16\n"
    done = subprocess.run([*command, "hidden"], capture_output=True, text=True, check=False)
    assert "TypeError: dtype is bfloat16, which NumPy has from a package alone" in done.stderr
