"""N:M and group-quantised matrices on GPUs against float64 NumPy and the CPU's conversions."""

from __future__ import annotations

import re
from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from device import BF16, Device
from gossamer import NM, GroupQuant

pytestmark = pytest.mark.gpu

F16, F32, F64 = np.float16, np.float32, np.float64
#: Groups that fill a slice of 64 and that do not, n that divides eight and that does not.
PATTERNS = [(2, 4), (1, 1), (3, 7), (7, 32)]
DTYPES = [*oracle.DTYPES]


def name(dtype: Any) -> str:
    return np.dtype(dtype).name


def draw(shape: tuple[int, int], n: int, m: int, axis: int, dtype: Any) -> np.ndarray:
    """Draw integers with at most n in each group of m; the first line is empty."""
    lines, length = shape if axis == 1 else shape[::-1]
    rng = np.random.default_rng(n * 37 + m)
    order = rng.random((lines, length // m, m)).argsort(axis=2)
    kept = (order < rng.integers(0, n + 1, (lines, length // m, 1))).reshape(lines, length)
    kept[:1] = False
    values = oracle.random_dense((lines, length), dtype, seed=1, integers=True)
    dense = np.where(kept, values, np.zeros((), dtype))
    return dense if axis == 1 else np.ascontiguousarray(dense.T)


def nm_there(gpu: Device, a: NM) -> NM:
    arrays = (gpu.put(np.asarray(x)) for x in (a.values, a.indices))
    return NM(*arrays, a.shape, a.n, a.m, axis=a.axis)


def quant_there(gpu: Device, a: GroupQuant) -> GroupQuant:
    names = ("indptr", "indices", "codes", "scales", "zeros")
    arrays = (gpu.put(np.asarray(getattr(a, x))) for x in names)
    return GroupQuant(*arrays, shape=a.shape, group=a.group, bits=a.bits, dtype=a.dtype)


def integers(shape: tuple[int, ...], dtype: Any, seed: int = 2) -> np.ndarray:
    return oracle.random_dense(shape, dtype, seed, integers=True)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_nm_products_of_integers_are_exact(
    gpu: Device, n: int, m: int, dtype: Any, axis: int
) -> None:
    groups = -(-70 // m)
    shape = (37, groups * m) if axis == 1 else (groups * m, 37)
    dense = draw(shape, n, m, axis, dtype)
    a = nm_there(gpu, NM.from_dense(dense, n, m, axis=axis))
    wide = dense.astype(F64)
    for columns in gpu.few([1, 3, 9, 70, 8, 130], 3 if dtype != F64 else 1):
        b = integers((shape[1], columns), dtype)
        want = wide @ b.astype(F64)
        got = gpu.get(gossamer.spmm(a, gpu.put(b)))
        np.testing.assert_array_equal(got.astype(F64), want.astype(dtype).astype(F64))
        x = gpu.put(np.ascontiguousarray(b.T))
        got = gpu.get(gossamer.linear(x, a))
        np.testing.assert_array_equal(got.astype(F64), want.T.astype(dtype).astype(F64))
    c = integers((shape[0], 5), dtype, 3)
    got = gpu.get(gossamer.spmm(a, gpu.put(c), transpose_a=True))
    np.testing.assert_array_equal(got.astype(F64), (wide.T @ c.astype(F64)).astype(dtype))
    vector = gpu.put(np.ascontiguousarray(integers((shape[1],), dtype)))
    got = gpu.get(gossamer.spmm(a, vector))
    np.testing.assert_array_equal(got.astype(F64), wide @ gpu.get(vector).astype(F64))


@pytest.mark.parametrize("dtype", [F16, BF16], ids=name)
@pytest.mark.parametrize("columns", [1, 5])
def test_two_of_four_picks_by_vectors(gpu: Device, dtype: Any, columns: int) -> None:
    dense = draw((40, 528), 2, 4, 1, dtype)
    a = nm_there(gpu, NM.from_dense(dense, 2, 4))
    want = dense.astype(F64) @ integers((528, columns), dtype).astype(F64)
    x = np.ascontiguousarray(integers((528, columns), dtype).T)
    np.testing.assert_array_equal(gpu.get(gossamer.linear(gpu.put(x), a)).astype(F64), want.T)
    # The same from an address and with a stride that allow no vectors.
    shifted = np.zeros((columns, 531), dtype)
    shifted[:, 1:529] = x
    view = gpu.put(shifted)[:, 1:529]
    np.testing.assert_array_equal(gpu.get(gossamer.linear(view, a)).astype(F64), want.T)


def exact_with_epilogue(
    gpu: Device, pattern: tuple[int, int], shape: tuple[int, int], columns: int, dtype: Any
) -> None:
    """Multiply integers by `spmm` and by `linear`, with bias, activation and accumulation."""
    dense = draw(shape, *pattern, 1, dtype)
    a = nm_there(gpu, NM.from_dense(dense, *pattern))
    b, out = integers((shape[1], columns), dtype), integers((shape[0], columns), dtype, 3)
    bias = integers((shape[0],), dtype, 4)
    sums = dense.astype(F64) @ b.astype(F64) + bias.astype(F64)[:, None] + out.astype(F64)
    want = np.maximum(sums, 0).astype(dtype)
    options: Any = {"bias": gpu.put(bias), "activation": "relu", "accumulate": True}
    got = gossamer.spmm(a, gpu.put(b), out=gpu.put(out), **options)
    np.testing.assert_array_equal(gpu.get(got), want)
    x, out_t = (gpu.put(np.ascontiguousarray(y.T)) for y in (b, out))
    np.testing.assert_array_equal(gpu.get(gossamer.linear(x, a, out=out_t, **options)), want.T)


@pytest.mark.parametrize("dtype", [F16, BF16], ids=name)
@pytest.mark.parametrize(
    ("shape", "columns"), [((130, 192), 136), ((37, 68), 24), ((8, 1024), 20), ((5, 4), 9)]
)
def test_two_of_four_on_sparse_tensor_cores(
    gpu: Device, shape: tuple[int, int], columns: int, dtype: Any
) -> None:
    """More tiles than one, no whole slice, slices that several blocks share, and the least."""
    exact_with_epilogue(gpu, (2, 4), shape, columns, dtype)


#: Patterns of which at most two of each four neighbours are stored, besides 2:4.
SPREAD = [(1, 2), (1, 4), (2, 8), (1, 8), (2, 16), (1, 16), (2, 32), (1, 32)]


@pytest.mark.parametrize(("n", "m"), SPREAD)
def test_other_patterns_on_sparse_tensor_cores(gpu: Device, n: int, m: int) -> None:
    """Whole slices, by pairs; lines that end within a slice or half of one; shared slices."""
    shapes = [((130, 192), 136), ((37, 64 + m), 24), ((5, m), 9), ((9, 3 * m), 17), ((8, 1024), 20)]
    for case, (shape, columns) in enumerate(shapes):
        dtype: Any = (F16, BF16)[(case + m.bit_length()) % 2]
        exact_with_epilogue(gpu, (n, m), shape, columns, dtype)


@pytest.mark.parametrize(("n", "m"), SPREAD)
def test_all_positions_of_a_pattern_reach_sparse_tensor_cores(gpu: Device, n: int, m: int) -> None:
    """Every position, or pair of positions, of a group, in each half of a slice and twice."""
    kept = (
        [(p, q) for p in range(m) for q in range(p + 1, m)] if n == 2 else [(p,) for p in range(m)]
    )
    rng = np.random.default_rng(m)
    groups = 128 // m
    lines = -(-len(kept) // groups)
    dense = np.zeros((2 * lines, groups, m), F16)
    for i, chosen in enumerate([*kept, *kept[::-1]]):
        dense[i % (2 * lines), i // (2 * lines), list(chosen)] = rng.integers(1, 9, len(chosen))
    dense = dense.reshape(2 * lines, groups * m)
    a = nm_there(gpu, NM.from_dense(dense, n, m))
    b = rng.integers(-8, 9, (groups * m, 9)).astype(F16)
    want = dense.astype(F64) @ b.astype(F64)
    np.testing.assert_array_equal(gpu.get(gossamer.spmm(a, gpu.put(b))).astype(F64), want)


@pytest.mark.parametrize(("n", "m"), SPREAD)
def test_spread_patterns_meet_no_infinity(gpu: Device, n: int, m: int) -> None:
    """Only what is stored does, also where several thread blocks share the slices."""
    rng = np.random.default_rng(m + n)
    length, lines = 1024, 3
    order = rng.random((lines, length // m, m)).argsort(axis=2)
    mask = (order < n).reshape(lines, length)
    dense = np.where(mask, rng.integers(1, 3, (lines, length)), 0).astype(F16)
    a = nm_there(gpu, NM.from_dense(dense, n, m, mask=mask))
    b = rng.integers(-1, 2, (length, 12)).astype(F16)
    b[rng.integers(0, length, 40), rng.integers(0, 12, 40)] = np.inf
    b[rng.integers(0, length, 40), rng.integers(0, 12, 40)] = np.nan
    with np.errstate(invalid="ignore"):
        products = np.where(mask[:, :, None], dense[:, :, None].astype(F64) * b[None], 0)
    want = products.sum(1)
    assert np.isfinite(want).any()
    assert not np.isfinite(want).all()
    np.testing.assert_array_equal(gpu.get(gossamer.spmm(a, gpu.put(b))).astype(F64), want)
    x = gpu.put(np.ascontiguousarray(b.T))
    np.testing.assert_array_equal(gpu.get(gossamer.linear(x, a)).astype(F64), want.T)


@pytest.mark.parametrize("dtype", [F16, BF16], ids=name)
def test_sparse_tensor_cores_skip_what_is_not_stored(gpu: Device, dtype: Any) -> None:
    dense = np.zeros((3, 64), dtype)
    dense[0, 0], dense[1, 8], dense[2, 63] = 2, 3, 4
    mask = dense != 0
    mask[2, 34] = True  # a zero that is stored; others fill places 0 and 1 of a group
    a = nm_there(gpu, NM.from_dense(dense, 2, 4, mask=mask))
    b = np.ones((64, 12), dtype)
    b[2], b[3], b[34] = np.inf, np.nan, np.inf
    want = np.repeat([[2.0], [3.0], [np.nan]], 12, axis=1)
    np.testing.assert_array_equal(gpu.get(gossamer.spmm(a, gpu.put(b))).astype(F64), want)
    x = gpu.put(np.ascontiguousarray(b.T))
    np.testing.assert_array_equal(gpu.get(gossamer.linear(x, a)).astype(F64), want.T)


@pytest.mark.parametrize("dtype", [F32, F16], ids=name)
def test_sums_of_many_slices_are_split_and_added_in_order(gpu: Device, dtype: Any) -> None:
    dense = draw((8, 1024), 1, 4, 1, dtype)
    a = nm_there(gpu, NM.from_dense(dense, 1, 4))
    b = oracle.random_dense((1024, 20), dtype, 5)
    bias, out = integers((8,), dtype), integers((8, 20), dtype)
    wide = dense.astype(F64)
    want = wide @ b.astype(F64) + bias.astype(F64)[:, None] + out.astype(F64)
    there = gpu.put(out)
    again = [
        gpu.get(
            gossamer.spmm(
                *(a, gpu.put(b)),
                bias=gpu.put(bias),
                activation="relu",
                accumulate=True,
                out=gpu.put(out),
            )
        )
        for _ in range(2)
    ]
    assert again[0].tobytes() == again[1].tobytes()
    magnitude = np.abs(wide) @ np.abs(b.astype(F64)) + np.abs(want)
    oracle.assert_close(again[0], np.maximum(want, 0), magnitude, 1024)
    assert gpu.get(there).tobytes() == out.tobytes()


@pytest.mark.parametrize("dtype", [F32, F16, F64], ids=name)
@pytest.mark.parametrize("columns", [1, 12])
def test_what_is_not_stored_meets_no_infinity(gpu: Device, dtype: Any, columns: int) -> None:
    dense = np.zeros((3, 64), dtype)
    dense[0, 0], dense[1, 8], dense[2, 63] = 2, 3, 4
    mask = dense != 0
    mask[2, 33] = True  # a zero that is stored
    a = nm_there(gpu, NM.from_dense(dense, 1, 4, mask=mask))
    b = np.ones((64, columns), dtype)
    b[1], b[2], b[33] = np.inf, np.nan, np.inf
    kept = gpu.get(a.with_values(gpu.put(np.ones((3, 16), dtype))).to_dense()) != 0
    with np.errstate(invalid="ignore"):
        products = np.where(kept[:, :, None], dense[:, :, None] * b[None], 0)
    want = products.sum(1)
    got = gpu.get(gossamer.spmm(a, gpu.put(b)))
    np.testing.assert_array_equal(got, want)
    assert np.isnan(want[2]).all()
    assert np.isfinite(want[1]).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize(("n", "m"), [*PATTERNS, (4, 8)])
def test_nm_conversions_give_the_bits_that_the_cpu_gives(
    gpu: Device, n: int, m: int, dtype: Any, axis: int
) -> None:
    for lines, groups in ((3, 19), (40, 1), (0, 2), (2, 0)):
        shape = (lines, groups * m) if axis == 1 else (groups * m, lines)
        dense = draw(shape, n, m, axis, dtype)
        want = NM.from_dense(dense, n, m, axis=axis)
        got = NM.from_dense(gpu.put(dense), n, m, axis=axis)
        for part in ("values", "indices"):
            ours, theirs = gpu.get(getattr(got, part)), np.asarray(getattr(want, part))
            assert ours.shape == theirs.shape
            assert ours.tobytes() == theirs.tobytes()
        np.testing.assert_array_equal(gpu.get(got.to_dense()), dense)
        np.testing.assert_array_equal(gpu.get(got.T.to_dense()), dense.T)
    mask = gossamer.prune.nm_mask(np.abs(oracle.random_dense((6, 2 * m), F32, 7)), n, m)
    w = oracle.random_dense((6, 2 * m), dtype, 8)
    masked = NM.from_dense(gpu.put(w), n, m, mask=gpu.put(mask))
    np.testing.assert_array_equal(gpu.get(masked.to_dense()), np.where(mask, w, dtype(0)))


def test_a_group_with_too_many_elements_is_named(gpu: Device) -> None:
    w = np.zeros((3, 12), F32)
    w[1, 4:7] = w[2, :4] = 1
    message = "w has more elements other than 0 in the group from [1, 4] along axis 1"
    with pytest.raises(ValueError, match=re.escape(message)):
        NM.from_dense(gpu.put(w), 2, 4)


def corrupt(gpu: Device) -> list[tuple[Any, str]]:
    values, byte = gpu.put(np.ones((1, 2), F32)), gpu.put(np.array([[0b0101]], np.uint8))
    quant = GroupQuant.from_dense(np.ones((2, 16), F32))
    parts = {x: np.array(getattr(quant, x)) for x in ("indptr", "indices", "codes", "zeros")}
    scales = np.array(quant.scales)
    scales[1] = np.inf
    arrays = [gpu.put(x) for x in (*list(parts.values())[:3], scales, parts["zeros"])]
    return [
        (lambda **k: NM(values, byte, (1, 4), 2, 4, **k), "NM: indices[0]: position 1 is 1"),
        (lambda **k: GroupQuant(*arrays, shape=(2, 16), **k), "GroupQuant: scales[1] is inf"),
    ]


@pytest.mark.parametrize("case", [0, 1])
def test_structure_is_trusted_on_a_gpu_and_checked_on_request(gpu: Device, case: int) -> None:
    make, message = corrupt(gpu)[case]
    assert make().device == "cuda:0"
    with pytest.raises(ValueError, match=re.escape(message)):
        make(check=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize(("group", "bits"), [(16, 4), (128, 8), (32, 4)])
def test_quantised_products_are_those_of_the_dequantised_matrix(
    gpu: Device, dtype: Any, group: int, bits: int
) -> None:
    shape = (21, 301)
    made = GroupQuant.from_dense(
        oracle.random_dense(shape, dtype, 1), group=group, bits=bits, sparsity=0.4
    )
    codes = np.asarray(made.codes)
    exact = GroupQuant(
        *(made.indptr, made.indices, codes, made.scales, made.zeros),
        shape=shape,
        group=group,
        bits=bits,
        dtype="float64",
    ).to_dense()
    a = quant_there(gpu, made)
    np.testing.assert_array_equal(gpu.get(a.to_dense()), made.to_dense())
    for columns in gpu.few([1, 9, 3, 70], 2):
        b = oracle.random_dense((shape[1], columns), dtype, 2)
        want, magnitude = exact @ b.astype(F64), np.abs(exact) @ np.abs(b.astype(F64))
        oracle.assert_close(gpu.get(gossamer.spmm(a, gpu.put(b))), want, magnitude, shape[1])
        x = gpu.put(np.ascontiguousarray(b.T))
        oracle.assert_close(gpu.get(gossamer.linear(x, a)), want.T, magnitude.T, shape[1])
    c = oracle.random_dense((shape[0], 3), dtype, 3)
    got = gpu.get(gossamer.spmm(a, gpu.put(c), transpose_a=True))
    wide = np.abs(c.astype(F64))
    oracle.assert_close(got, exact.T @ c.astype(F64), np.abs(exact.T) @ wide, shape[0])


def test_quantising_is_the_cpus(gpu: Device) -> None:
    message = "GroupQuant.from_dense: w is on cuda:0, which this backend has no kernels for"
    with pytest.raises(NotImplementedError, match=f"^{re.escape(message)}$"):
        GroupQuant.from_dense(gpu.put(np.ones((2, 16), F32)))


def test_a_matrix_elsewhere_is_refused(gpu: Device) -> None:
    host = NM.from_dense(np.eye(4, dtype=F32), 1, 4)
    with pytest.raises(ValueError, match=r"^spmm: b is on cuda:0, expected a's device cpu$"):
        gossamer.spmm(host, gpu.put(np.ones((4, 2), F32)))
    there = nm_there(gpu, host)
    with pytest.raises(ValueError, match=r"^linear: x is on cpu, expected w's device cuda:0$"):
        gossamer.linear(np.ones((2, 4), F32), there)
    with pytest.raises(ValueError, match=r"^NM: indices is on cpu, expected values's device"):
        NM(there.values, host.indices, (4, 4), 1, 4)
