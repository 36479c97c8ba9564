"""Packed matrices on GPUs against float64 NumPy: products, new values, what they refuse."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import cuda_trace
import gossamer
import numpy as np
import oracle
import pytest
from device import BF16, Device, EmulatedArray
from numpy.lib.stride_tricks import as_strided

pytestmark = pytest.mark.gpu

F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.float64
#: One of each layout: from a quarter of stored elements on, bitmaps; of float32, always.
DENSITIES = {"bitmap": 0.5, "lanes": 0.5, "deltas": 0.08}
#: For so many columns half precision has lanes, where a sixteenth of the elements is stored.
MANY = 65


def name(value: Any) -> str:
    return str(value)


def integers(shape: tuple[int, ...], dtype: Any, seed: int = 2) -> np.ndarray:
    return np.asarray(oracle.random_dense(shape, dtype, seed, integers=True))


def draw(shape: tuple[int, int], density: float, dtype: Any) -> np.ndarray:
    """Draw integers, with a full row, an empty one and, of few entries, a wide gap."""
    dense = oracle.random_sparse(shape, density, dtype, seed=shape[1], integers=True)
    if density < 0.25:
        dense[2:, 64:128] = 0
        dense[15:16, 127:128] = 2  # the last of its tile
    return np.asarray(dense)


def packed(gpu: Device, dense: np.ndarray, n: int | None = None) -> gossamer.Packed:
    return gossamer.pack(gpu.csr(dense), n=n)


def laid(gpu: Device, dense: np.ndarray, layout: str) -> gossamer.Packed:
    """Pack for few or many columns, so that it has the layout, or of float32 a bitmap."""
    made = packed(gpu, dense, MANY if layout == "lanes" else None)
    assert made.layouts == ("bitmap" if dense.dtype == F32 else layout)
    return made


def rounded(x: np.ndarray, dtype: Any) -> np.ndarray:
    return x.astype(dtype).astype(F64)


def linear(gpu: Device, x: np.ndarray, w: Any, **options: Any) -> np.ndarray:
    return gpu.get(gossamer.linear(gpu.put(np.ascontiguousarray(x)), w, **options)).astype(F64)


@pytest.fixture(params=["mma", "wgmma"])
def instruction(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Say by which instruction more than 64 columns are multiplied."""
    monkeypatch.setenv("GOSSAMER_CUDA_WGMMA", "1" if request.param == "wgmma" else "0")
    return str(request.param)


@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=name)
@pytest.mark.parametrize("layout", DENSITIES)
def test_products_of_integers_are_exact(gpu: Device, layout: str, dtype: Any) -> None:
    """Of whole tiles, whose columns are read where they are, and of others; of every width."""
    for shape, widths in (((37, 192), (1, 2, 9, 65)), ((40, 130), (1, 7, 33))):
        dense = draw(shape, DENSITIES[layout], dtype)
        a, wide = laid(gpu, dense, layout), dense.astype(F64)
        for n in widths:
            b = integers((shape[1], n), dtype)
            want = rounded(wide @ b.astype(F64), dtype)
            got = gpu.get(gossamer.spmm(a, gpu.put(b))).astype(F64)
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(linear(gpu, b.T, a), want.T)
        vector = integers((shape[1],), dtype)
        got = gpu.get(gossamer.spmm(a, gpu.put(vector))).astype(F64)
        np.testing.assert_array_equal(got, rounded(wide @ vector.astype(F64), dtype))


@pytest.mark.parametrize("dtype", [F16, BF16], ids=name)
@pytest.mark.parametrize("layout", DENSITIES)
@pytest.mark.usefixtures("instruction")
def test_many_columns_are_exact(gpu: Device, layout: str, dtype: Any) -> None:
    """Of tiles of 128 by 256 that are full, and end within strips; of B that is read as it lies."""
    for shape, widths in (((150, 192), (72, 264)), ((17, 130), (104, 65))):
        dense = draw(shape, DENSITIES[layout], dtype)
        a, wide = laid(gpu, dense, layout), dense.astype(F64)
        for n in widths:
            b = integers((shape[1], n), dtype)
            want = rounded(wide @ b.astype(F64), dtype)
            got = gpu.get(gossamer.spmm(a, gpu.put(b))).astype(F64)
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(linear(gpu, b.T, a), want.T)


def filled(shape: tuple[int, int], density: float, dtype: Any) -> np.ndarray:
    """Draw integers of which none but those that are left out is zero."""
    rng = np.random.default_rng(3)
    dense = integers(shape, dtype)
    dense[dense == 0] = 3  # all of a tile, where the density is 1
    return np.where(rng.random(shape) < density, dense, np.zeros((), dtype))


@pytest.mark.parametrize("dtype", [BF16, F32], ids=name)
@pytest.mark.parametrize("density", [0.0, 0.002, 0.24, 0.26, 1.0], ids=name)
@pytest.mark.usefixtures("instruction")
def test_every_density_is_exact(gpu: Device, density: float, dtype: Any) -> None:
    dense = filled((33, 128), density, dtype)
    a = packed(gpu, dense)
    for n in (3, 66):
        x = integers((n, 128), dtype, 4)
        want = rounded(x.astype(F64) @ dense.astype(F64).T, dtype)
        np.testing.assert_array_equal(linear(gpu, x, a), want)


@pytest.mark.parametrize("density", [0.07, 0.18, 0.2, 0.35, 0.65, 0.8, 0.93, 1.0], ids=name)
@pytest.mark.usefixtures("instruction")
def test_lanes_of_every_density_are_exact(gpu: Device, density: float) -> None:
    """Of every number of eights that all lanes have, and of fours that some have; of tiles apart.

    Lanes without an entry are beside lanes that are full, and a tile is empty.
    """
    dense = filled((33, 64 * 4), density, F16)
    dense[:16, :64] = filled((16, 64), 0.05, F16)
    dense[3, :64] = 2
    dense[:16, 128:192] = 0
    a = packed(gpu, dense, MANY)
    assert a.layouts == "lanes"
    np.testing.assert_array_equal(gpu.get(a.to_dense()), dense)
    for n in (3, 20, 66):
        x = integers((n, dense.shape[1]), F16, 4)
        want = rounded(x.astype(F64) @ dense.astype(F64).T, F16)
        np.testing.assert_array_equal(linear(gpu, x, a), want)


def test_lanes_hold_most_of_their_entries_without_gaps(gpu: Device) -> None:
    """Of a random matrix, at most 8 % of a dense one beyond the values and their bits."""
    for density in (0.1, 0.3, 0.5, 0.7):
        dense = filled((256, 512), density, F16)
        made = packed(gpu, dense, 4096)
        gaps = made.nbytes - 2 * made.nnz - dense.size // 8
        assert 0 < gaps <= 0.08 * 2 * dense.size


@pytest.mark.parametrize("shape", [(0, 70), (5, 0), (1, 1), (16, 64), (17, 65)], ids=name)
def test_every_size(gpu: Device, shape: tuple[int, int]) -> None:
    for dtype, widths in ((F16, (2,)), (F32, (2, 35))):
        dense = integers(shape, dtype, 1)
        a = packed(gpu, dense)
        assert a.shape == shape
        for n in widths:
            bias, x = integers((shape[0],), dtype, 5), integers((n, shape[1]), dtype, 6)
            want = x.astype(F64) @ dense.astype(F64).T + bias.astype(F64)
            got = linear(gpu, x, a, bias=gpu.put(bias))
            np.testing.assert_array_equal(got, rounded(want, dtype))


@pytest.mark.parametrize("dtype", [BF16, F32], ids=name)
@pytest.mark.parametrize("layout", DENSITIES)
@pytest.mark.usefixtures("instruction")
def test_sums_of_many_slices_are_split_and_added_in_order(
    gpu: Device, layout: str, dtype: Any
) -> None:
    dense = draw((17, 64 * 36), DENSITIES[layout], dtype)
    a = laid(gpu, dense, layout)
    for n in (2, 20, 68):
        x = np.asarray(oracle.random_dense((n, dense.shape[1]), dtype, 5))
        bias, out = integers((17,), dtype), integers((n, 17), dtype)
        results = []
        for _ in range(2):
            y = gpu.put(out)
            gossamer.linear(
                gpu.put(x), a, bias=gpu.put(bias), activation="relu", accumulate=True, out=y
            )
            results.append(gpu.get(y))
        assert results[0].tobytes() == results[1].tobytes()
        wide, weights = x.astype(F64), dense.astype(F64)
        want = np.maximum(wide @ weights.T + bias.astype(F64) + out.astype(F64), 0)
        magnitude = np.abs(wide) @ np.abs(weights).T + 10
        oracle.assert_close(results[0], want, magnitude, dense.shape[1])


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", ("clamp", -0.5, 1.5)], ids=str)
@pytest.mark.parametrize(
    ("layout", "dtype", "n"),
    [
        ("bitmap", F16, 72),
        ("lanes", BF16, 72),
        ("lanes", F16, 9),
        *(("bitmap", F32, n) for n in (1, 18, 40)),
    ],
    ids=name,
)
@pytest.mark.usefixtures("instruction")
def test_epilogues(gpu: Device, activation: Any, layout: str, dtype: Any, n: int) -> None:
    dense = draw((34, 64), 0.5, dtype)
    a, wide = laid(gpu, dense, layout), dense.astype(F64)
    b, bias, before = (integers(shape, dtype) for shape in ((64, n), (34,), (34, n)))
    sums = wide @ b.astype(F64) + bias.astype(F64)[:, None] + before
    want = oracle.ACTIVATIONS[activation](sums)
    bound = 8 * oracle.unit_roundoff(dtype) * (np.abs(sums) + 1)
    options: dict[str, Any] = {"bias": gpu.put(bias), "activation": activation, "accumulate": True}
    out = gpu.put(before)
    gossamer.spmm(a, gpu.put(b), out=out, **options)
    assert np.all(np.abs(gpu.get(out).astype(F64) - want) <= bound)
    out = gpu.put(np.ascontiguousarray(before.T))
    gossamer.linear(gpu.put(np.ascontiguousarray(b.T)), a, out=out, **options)
    assert np.all(np.abs(gpu.get(out).astype(F64) - want.T) <= bound.T)


@pytest.mark.parametrize("layout", DENSITIES)
def test_many_slices_by_wgmma(gpu: Device, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More slices than stages, odd and even numbers of them, at any order of threads."""
    monkeypatch.setenv("GOSSAMER_CUDA_WGMMA", "1")
    for depth, n in ((64 * 7, 72), (64 * 6, 200)):
        dense = draw((40, depth), DENSITIES[layout], F16)
        a, b = laid(gpu, dense, layout), integers((depth, n), F16)
        want = rounded(dense.astype(F64) @ b.astype(F64), F16)
        for seed in gpu.few([*"0123"], 2):
            monkeypatch.setenv("GOSSAMER_EMULATION_SEED", seed)
            got = gpu.get(gossamer.spmm(a, gpu.put(b))).astype(F64)
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(linear(gpu, b.T, a), want.T)


def test_wgmma_only_where_it_is_allowed_and_can_run(
    emulated: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = packed(emulated, draw((20, 128), 0.5, F16))
    trace, b = cuda_trace.Trace(), np.ones((128, 80), F16)

    def uses(n: int) -> bool:
        there = emulated.put(b[:, :n].copy())
        return any("pack_wgmma" in name for name in trace.kernels_of(lambda: a @ there))

    monkeypatch.setenv("GOSSAMER_CUDA_WGMMA", "1")
    assert uses(80)
    assert uses(65), "columns that are copied"
    assert not uses(64), "few columns"
    row = emulated.put(np.ones((1, 128), F16))
    overlapping = EmulatedArray(as_strided(row.view, (70, 128), (0, 2)), row.owner)
    names = trace.kernels_of(lambda: gossamer.linear(overlapping, a))
    assert [name for name in names if "pack_" in name]
    assert not [name for name in names if "pack_wgmma" in name], "rows that overlap"
    monkeypatch.setenv("GOSSAMER_CUDA_WGMMA", "0")
    assert not uses(80), "not allowed"
    monkeypatch.delenv("GOSSAMER_CUDA_WGMMA")
    assert not uses(80), "not allowed"


@pytest.mark.parametrize("dtype", [F16, F32], ids=name)
@pytest.mark.parametrize("layout", DENSITIES)
def test_columns_begin_anywhere(gpu: Device, layout: str, dtype: Any) -> None:
    """Rows of x at addresses and with strides that allow no vectors, and in two groups."""
    dense = draw((20, 128), DENSITIES[layout], dtype)
    a = laid(gpu, dense, layout)
    x = integers((3, 128), dtype)
    want = x.astype(F64) @ dense.astype(F64).T
    for left, width in ((1, 136), (8, 137), (8, 144)):
        padded = np.zeros((3, width), dtype)
        padded[:, left : left + 128] = x
        got = gossamer.linear(gpu.put(padded)[:, left : left + 128], a)
        np.testing.assert_array_equal(gpu.get(got).astype(F64), want)
    wide = np.zeros((128, 5), dtype)
    wide[:, :3] = x.T
    got = gossamer.spmm(a, gpu.put(wide)[:, :3])
    np.testing.assert_array_equal(gpu.get(got).astype(F64), want.T)
    got = gossamer.spmm(a, gpu.put(wide)[:, 1:2])
    np.testing.assert_array_equal(gpu.get(got).astype(F64), want.T[:, 1:2])


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("dtype", [BF16, F32], ids=name)
@pytest.mark.parametrize("layout", DENSITIES)
@pytest.mark.usefixtures("instruction")
def test_what_is_not_stored_meets_no_infinity(
    gpu: Device, layout: str, dtype: Any, value: float
) -> None:
    dense = draw((20, 192), DENSITIES[layout], dtype)
    dense[:, 70] = 0
    dense[3, 70] = 1
    keep = dense != 0
    keep[4, 70] = True  # a zero that is stored
    a = gossamer.CSR.from_dense(dense, keep)
    there = gossamer.CSR(gpu.put(a.indptr), gpu.put(a.indices), gpu.put(a.values), a.shape)
    made = gossamer.pack(there, n=MANY if layout == "lanes" else None)
    for n in (2, 20, 72):
        x = integers((n, 192), dtype)
        x[1, 70] = value
        y = linear(gpu, x, made)
        by_rows = gpu.put(np.ascontiguousarray(x.T))
        x[1, 70] = 0
        want = rounded(x.astype(F64) @ dense.astype(F64).T, dtype)
        others = np.arange(20) != 3
        others[4] = False
        for got in (y, gpu.get(gossamer.spmm(made, by_rows)).astype(F64).T):
            np.testing.assert_array_equal(got[np.arange(n) != 1], want[np.arange(n) != 1])
            np.testing.assert_array_equal(got[1, others], want[1, others])
            assert np.isnan(got[1, 4])
            np.testing.assert_equal(got[1, 3], value)


@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=name)
@pytest.mark.parametrize("layout", DENSITIES)
def test_update_is_packing_the_other_values(gpu: Device, layout: str, dtype: Any) -> None:
    dense = draw((37, 200), DENSITIES[layout], dtype)
    a = gossamer.CSR.from_dense(dense)
    made = laid(gpu, dense, layout)
    x = integers((2, 200), dtype, 7)
    for seed in (5, 6):
        values = integers((a.nnz,), dtype, seed)  # some of them zeros, which stay entries
        assert made.update(gpu.put(values)) is made
        kept = np.asarray(a.with_values(values).to_dense())
        np.testing.assert_array_equal(gpu.get(made.to_dense()), kept)
        want = x.astype(F64) @ kept.astype(F64).T
        np.testing.assert_array_equal(linear(gpu, x, made), rounded(want, dtype))


@pytest.mark.parametrize(
    ("dtype", "axes"), [(BF16, (5, 3)), (BF16, (6, 11)), (F32, (3, 12))], ids=name
)
@pytest.mark.parametrize("layout", DENSITIES)
def test_leading_axes_may_lie_apart(
    gpu: Device, layout: str, dtype: Any, axes: tuple[int, int]
) -> None:
    """Together they may be more columns than narrow products have, and alone fewer."""
    dense = draw((20, 128), DENSITIES[layout], dtype)
    x = integers((*axes, 128), dtype)
    for width in (128, 131):
        whole = np.zeros((axes[0] + 1, axes[1] + 1, width), dtype)
        whole[1:, 1:, :128] = x
        got = gossamer.linear(gpu.put(whole)[1:, 1:, :128], laid(gpu, dense, layout))
        np.testing.assert_array_equal(gpu.get(got).astype(F64), x.astype(F64) @ dense.T.astype(F64))


@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=name)
@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 0.5, 1.0], ids=name)
@pytest.mark.parametrize("n", [None, MANY], ids=name)
def test_to_dense_gives_the_matrix_back(
    gpu: Device, n: int | None, density: float, dtype: Any
) -> None:
    for shape in ((33, 130), (16, 64), (1, 1), (0, 5), (5, 0)):
        dense = oracle.random_sparse(shape, density, dtype, seed=4)
        made = packed(gpu, dense, n)
        assert gpu.get(made.to_dense()).tobytes() == dense.tobytes()
        whole = gpu.put(np.ones((shape[0], shape[1] + 3), dtype))
        out = whole[:, 1:-2]
        assert made.to_dense(out=out) is out
        wanted = np.ones((shape[0], shape[1] + 3), dtype)
        wanted[:, 1:-2] = dense
        assert gpu.get(whole).tobytes() == wanted.tobytes()


DUPLICATES: dict[str, Callable[[gossamer.Packed], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda a: pickle.loads(pickle.dumps(a)),
}


@pytest.mark.parametrize("how", DUPLICATES)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=name)
@pytest.mark.parametrize("layout", DENSITIES)
def test_copies_are_packed_anew(gpu: Device, layout: str, dtype: Any, how: str) -> None:
    """Of the same entries, stored zeros too, and for the same number of columns."""
    dense = draw((37, 200), DENSITIES[layout], dtype)
    a = gossamer.CSR.from_dense(dense)
    values = integers((a.nnz,), dtype, 5)
    made = laid(gpu, dense, layout).update(gpu.put(values))
    again = DUPLICATES[how](made)
    assert repr(again) == repr(made)
    assert gpu.get(again.to_dense()).tobytes() == gpu.get(made.to_dense()).tobytes()
    other = integers((a.nnz,), dtype, 6)
    for one in (made, again):
        one.update(gpu.put(other))
    kept = np.asarray(a.with_values(other).to_dense())
    for one in (made, again):
        np.testing.assert_array_equal(gpu.get(one.to_dense()), kept)


@pytest.mark.parametrize("shape", [(0, 70), (5, 0), (1, 1)], ids=name)
def test_copies_of_small_matrices(gpu: Device, shape: tuple[int, int]) -> None:
    made = packed(gpu, integers(shape, F16, 1))
    assert gpu.get(copy.deepcopy(made).to_dense()).tobytes() == gpu.get(made.to_dense()).tobytes()


def test_columns_of_lanes_are_dealt(emulated: Device) -> None:
    """From 9 on, columns are copied to where a lane reads its own by 16 bytes at a time."""
    a, trace = laid(emulated, draw((20, 128), 0.5, F16), "lanes"), cuda_trace.Trace()

    def copies(n: int) -> bool:
        x = emulated.put(np.ones((n, 128), F16))
        names = trace.kernels_of(lambda: gossamer.linear(x, a))
        return any("pack_column_tiles" in name for name in names)

    assert [copies(n) for n in (1, 8, 9, 64, 65)] == [False, False, True, True, False]


def test_what_a_packed_matrix_says_of_itself(gpu: Device) -> None:
    dense = draw((64, 256), 0.5, BF16)
    made = packed(gpu, dense, n=8)
    nnz = int(np.count_nonzero(dense))
    assert (made.shape, made.nnz, made.dtype, made.device) == ((64, 256), nnz, "bfloat16", "cuda:0")
    assert 2 * nnz + dense.size // 8 <= made.nbytes <= 2.05 * nnz + dense.size // 8 + 1000
    text = repr(made)
    assert re.search(r"n=8, layouts=bitmap \(tiles of 16 by 64, a bit an element; ", text)
    few = packed(gpu, draw((64, 256), 0.08, BF16))
    assert "layouts=deltas (tiles of 16 by 64, a byte an entry; density 0.0" in repr(few)
    dense_is_faster = "more than 128 columns: a dense product is predicted to be faster"
    assert dense_is_faster in repr(few)
    lanes = repr(packed(gpu, dense, n=100))
    assert "n=100, layouts=lanes (tiles of 16 by 64, a bit an element; " in lanes
    assert "more than 64 columns: expanded in shared memory" in lanes
    assert "columns" not in text
    assert dense_is_faster not in lanes
    assert few.nbytes <= 3.5 * few.nnz + 1000


def test_the_columns_to_come_choose_a_layout(gpu: Device) -> None:
    layouts = {
        (density, n): packed(gpu, filled((64, 512), density, BF16), n).layouts
        for density in (0.04, 0.1, 0.5)
        for n in (None, 64, 65)
    }
    for n in (None, 64):
        assert [layouts[density, n] for density in (0.04, 0.1, 0.5)] == ["deltas"] * 2 + ["bitmap"]
    assert [layouts[density, 65] for density in (0.04, 0.1, 0.5)] == ["deltas"] + ["lanes"] * 2


def test_when_dense_is_predicted_to_be_faster(
    emulated: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From more than 128 columns on, but where lanes are multiplied by wgmma."""

    def says_dense(density: float, n: int | None) -> bool:
        text = repr(packed(emulated, filled((64, 256), density, F16), n))
        return "more than 128 columns: a dense product is predicted to be faster" in text

    monkeypatch.setenv("GOSSAMER_CUDA_WGMMA", "1")
    assert not says_dense(0.1, 4096)
    assert not says_dense(0.5, 4096)
    assert says_dense(0.8, 4096), "too dense"
    assert says_dense(0.5, None), "a bitmap"
    assert says_dense(0.03, 4096), "deltas"
    monkeypatch.setenv("GOSSAMER_CUDA_WGMMA", "0")
    assert says_dense(0.1, 4096), "by mma.sync"


def test_what_a_packed_matrix_of_float32_says_of_itself(gpu: Device) -> None:
    dense = draw((64, 256), 0.08, F32)
    nnz = int(np.count_nonzero(dense))
    texts = {n: repr(packed(gpu, dense, n=n)) for n in (16, 17, 32, 33)}
    assert "layouts=bitmap (tiles of 16 by 64, a bit an element; density 0.0" in texts[16]
    dense_is_faster = "more than 16 columns: a dense product is predicted to be faster"
    shared = "more than 32 columns: expanded in shared memory"
    assert {n: dense_is_faster in text for n, text in texts.items()} == {
        16: False,
        17: True,
        32: True,
        33: True,
    }
    assert {n: shared in text for n, text in texts.items()} == {
        16: False,
        17: False,
        32: False,
        33: True,
    }
    made = packed(gpu, dense)
    assert 4 * nnz + dense.size // 8 <= made.nbytes <= 4.05 * nnz + dense.size // 8 + 3000


def test_sums_of_float32_are_in_float32(gpu: Device) -> None:
    """Products that tf32's 11 bits would round."""
    dense = np.zeros((16, 64), F32)
    dense[:, ::3] = 1 + 2.0**-20
    for n in (1, 5, 20, 40):
        x = np.full((n, 64), 1 + 2.0**-3, F32)
        got = linear(gpu, x, packed(gpu, dense))
        np.testing.assert_allclose(got, x.astype(F64) @ dense.astype(F64).T, rtol=2.0**-22)


DENSE = np.eye(3, 70, dtype=np.float16)
BAD: list[tuple[Callable[[Device, gossamer.Packed], Any], type[Exception], str]] = [
    (
        lambda gpu, a: packed(gpu, DENSE.astype(np.float64)),
        NotImplementedError,
        "pack: a.dtype is float64, expected float32, float16 or bfloat16 on a GPU",
    ),
    (
        lambda gpu, a: packed(gpu, DENSE, n=0),
        ValueError,
        "pack: n is 0, expected at least 1",
    ),
    (
        lambda gpu, a: gossamer.spmm(a, gpu.put(np.ones((3, 2), F16)), transpose_a=True),
        NotImplementedError,
        "spmm: transpose_a is True, expected False for a Packed on a GPU: pack the transpose",
    ),
    (
        lambda gpu, a: gossamer.spmm(a, gpu.put(np.ones((3, 2), F16))),
        ValueError,
        "spmm: b.shape[0] is 3, expected a.shape[1] = 70",
    ),
    (
        lambda gpu, a: a.update(gpu.put(np.ones(4, F16))),
        ValueError,
        "Packed.update: values.shape[0] is 4, expected packed.nnz = 3",
    ),
    (
        lambda gpu, a: a.update(gpu.put(np.ones(3, np.float32))),
        TypeError,
        "Packed.update: values.dtype is float32, expected packed.dtype = float16",
    ),
    (
        lambda gpu, a: a.update(np.ones(3, F16)),
        ValueError,
        "Packed.update: values is on cpu, expected packed's device cuda:0",
    ),
    (
        lambda gpu, a: a.to_dense(out=gpu.put(np.ones((3, 71), F16))),
        ValueError,
        "Packed.to_dense: out.shape[1] is 71, expected a.shape[1] = 70",
    ),
    (
        lambda gpu, a: a.to_dense(out=gpu.put(np.ones((3, 70), np.float32))),
        TypeError,
        "Packed.to_dense: out.dtype is float32, expected a.dtype = float16",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=lambda value: None)
def test_bad_calls(
    gpu: Device,
    call: Callable[[Device, gossamer.Packed], Any],
    error: type[Exception],
    message: str,
) -> None:
    a = packed(gpu, DENSE)
    with pytest.raises(error) as caught:
        call(gpu, a)
    assert str(caught.value) == message


def test_a_packed_matrix_of_the_cpu_does_not_meet_arrays_of_a_gpu(gpu: Device) -> None:
    a = gossamer.pack(gossamer.CSR.from_dense(DENSE))
    with pytest.raises(ValueError, match=r"^spmm: b is on cuda:0, expected a's device cpu$"):
        gossamer.spmm(a, gpu.put(np.ones((70, 2), F16)))
    with pytest.raises(ValueError, match=r"^Packed.update: values is on cuda:0, expected packed's"):
        a.update(gpu.put(np.ones(3, F16)))


def test_a_packed_matrix_keeps_its_arrays(gpu: Device) -> None:
    dense = draw((16, 128), 0.5, F16)
    made = gossamer.pack(gossamer.CSR.from_dense(gpu.put(dense)))
    x = integers((1, 128), F16)
    want = x.astype(F64) @ dense.astype(F64).T
    np.testing.assert_array_equal(linear(gpu, x, made), want)
