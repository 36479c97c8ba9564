"""BSR kernels on GPUs: tensor cores and plain ones, every width, alignment and epilogue."""

from __future__ import annotations

from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import oracle
import pytest
from device import Device

HALVES = [np.float16, ml_dtypes.bfloat16]
WIDTHS = [1, 7, 8, 31, 32, 33, 40, 128, 130]


def name(dtype: Any) -> str:
    return np.dtype(dtype).name


def random_blocks(grid: tuple[int, int], block: tuple[int, int], dtype: Any) -> np.ndarray:
    """Draw a dense matrix whose blocks are full or empty: row 0 of blocks full, 1 empty."""
    kept = oracle.random_sparse(grid, 0.4, np.float64, 1, integers=True) != 0
    values = oracle.random_dense(
        (grid[0] * block[0], grid[1] * block[1]), np.float64, 2, integers=True
    )
    return (values * np.kron(kept, np.ones(block))).astype(dtype)


def put(gpu: Device, dense: np.ndarray, block: tuple[int, int]) -> gossamer.BSR:
    a = gossamer.BSR.from_dense(dense, block)
    return gossamer.BSR(gpu.put(a.indptr), gpu.put(a.indices), gpu.put(a.blocks), a.shape)


def assert_exact(gpu: Device, dense: np.ndarray, a: gossamer.BSR, n: int) -> None:
    b = oracle.random_dense((dense.shape[1], n), dense.dtype, seed=n, integers=True)
    want = (dense.astype(np.float64) @ b.astype(np.float64)).astype(dense.dtype)
    np.testing.assert_array_equal(gpu.get(gossamer.spmm(a, gpu.put(b))), want)
    x = gpu.put(np.ascontiguousarray(b.T))
    np.testing.assert_array_equal(gpu.get(gossamer.linear(x, a)), want.T)
    assert_transposed(gpu, dense, a, (n,))


def assert_transposed(
    gpu: Device, dense: np.ndarray, a: gossamer.BSR, columns: tuple[int, ...]
) -> None:
    b = oracle.random_dense((dense.shape[0], *columns), dense.dtype, seed=8, integers=True)
    want = (dense.T.astype(np.float64) @ b.astype(np.float64)).astype(dense.dtype)
    got = gossamer.spmm(a, gpu.put(b), transpose_a=True)
    np.testing.assert_array_equal(gpu.get(got), want)


@pytest.mark.parametrize("dtype", HALVES, ids=name)
@pytest.mark.parametrize("block", [(16, 16), (32, 32), (16, 32), (48, 16), (64, 32)], ids=str)
def test_tensor_cores_at_every_width(gpu: Device, dtype: Any, block: tuple[int, int]) -> None:
    dense = random_blocks((3, 6), block, dtype)
    a = put(gpu, dense, block)
    for n in gpu.few(WIDTHS, 4) if block[0] > 32 else WIDTHS:
        assert_exact(gpu, dense, a, n)


@pytest.mark.parametrize("dtype", HALVES, ids=name)
@pytest.mark.parametrize("block", [(64, 32), (128, 64)], ids=str)
def test_many_columns_of_tall_blocks(gpu: Device, dtype: Any, block: tuple[int, int]) -> None:
    """Tiles of 64 by 256, more slices than stages; operands stored along and across."""
    dense = random_blocks((2, 10 if block[0] == 64 else 5), block, dtype)
    a = put(gpu, dense, block)
    for n in (136, 264) if block[0] == 64 else (200,):
        assert_exact(gpu, dense, a, n)


@pytest.mark.parametrize(("block", "n"), [(16, 1), (16, 40), (32, 9), (64, 136)], ids=str)
def test_slices_of_a_row_are_shared(gpu: Device, block: int, n: int) -> None:
    """Thread blocks share rows of blocks, full, empty and short ones, in an order that is fixed."""
    dense = random_blocks((3, 48 if block == 16 else 24), (block, block), np.float64)
    dense = dense * np.random.default_rng(1).standard_normal(dense.shape)
    dense[2 * block :, 3 * block :] = 0
    dense = dense.astype(np.float16)
    a, wide = put(gpu, dense, (block, block)), dense.astype(float)
    b = oracle.random_dense((dense.shape[1], n), np.float16, seed=2)
    bias = oracle.random_dense((dense.shape[0],), np.float16, seed=5)
    want = np.maximum(wide @ b.astype(float) + bias.astype(float)[:, None], 0)
    magnitude = np.abs(wide) @ np.abs(b.astype(float)) + np.abs(bias.astype(float))[:, None]
    for _ in range(2):
        got = gpu.get(gossamer.spmm(a, gpu.put(b), bias=gpu.put(bias), activation="relu"))
        oracle.assert_close(got, want, magnitude, dense.shape[1])
        x = gpu.put(np.ascontiguousarray(b.T))
        other = gossamer.linear(x, a, bias=gpu.put(bias), activation="relu")
        np.testing.assert_array_equal(gpu.get(other).T, got)
    leading = gossamer.linear(apart(gpu, b.T), a, bias=gpu.put(bias), activation="relu")
    got = gpu.get(leading).reshape(2 * n, -1)
    oracle.assert_close(got[:n].T, want, magnitude, dense.shape[1])


def apart(gpu: Device, x: np.ndarray) -> Any:
    """Return two matrices that do not follow each other in memory."""
    whole = np.zeros((2, x.shape[0] + 1, x.shape[1]), x.dtype)
    whole[:, :-1] = x
    return gpu.put(whole)[:, :-1]


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("block", [(1, 1), (4, 1), (1, 16), (5, 3), (16, 16)], ids=str)
def test_any_block(gpu: Device, dtype: Any, block: tuple[int, int]) -> None:
    dense = random_blocks((4, 5), block, dtype)
    a = put(gpu, dense, block)
    for n in (1, 31, 130):
        assert_exact(gpu, dense, a, n)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_vectors(gpu: Device, dtype: Any) -> None:
    for block in [(4, 1), (16, 16), (32, 64)]:
        dense = random_blocks((3, 4), block, dtype)
        a = put(gpu, dense, block)
        v = oracle.random_dense((dense.shape[1],), dtype, seed=3, integers=True)
        want = (dense.astype(float) @ v.astype(float)).astype(dtype)
        np.testing.assert_array_equal(gpu.get(gossamer.spmm(a, gpu.put(v))), want)
        assert_transposed(gpu, dense, a, ())


@pytest.mark.parametrize("shape", [(0, 0), (0, 32), (32, 0), (32, 32)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=name)
def test_empty_matrices_give_the_epilogue_of_zero(
    gpu: Device, dtype: Any, shape: tuple[int, int]
) -> None:
    a = gossamer.BSR.from_dense(gpu.put(np.zeros(shape, dtype)), 16)
    for n in (0, 5):
        for transpose in (False, True):
            depth, rows = shape if transpose else shape[::-1]
            bias = np.arange(rows, dtype=dtype)
            b = gpu.put(np.ones((depth, n), dtype))
            got = gossamer.spmm(a, b, transpose_a=transpose, bias=gpu.put(bias))
            np.testing.assert_array_equal(gpu.get(got), np.repeat(bias[:, None], n, axis=1))


@pytest.mark.parametrize("dtype", HALVES, ids=name)
@pytest.mark.parametrize("pad", [1, 2, 4, 8])
def test_rows_that_begin_anywhere(gpu: Device, dtype: Any, pad: int) -> None:
    """Copies are as wide as the alignment allows; neighbouring columns are not written."""
    dense = random_blocks((2, 3), (32, 32), dtype)
    a = put(gpu, dense, (32, 32))
    for n in (8, 36):
        inner = slice(pad, pad + n)
        wide = oracle.random_dense((96, n + 2 * pad), dtype, seed=3, integers=True)
        out = gpu.put(np.full((64, n + 2 * pad), 99, dtype))
        gossamer.spmm(a, gpu.put(wide)[:, inner], out=out[:, inner])
        got, want = gpu.get(out), dense.astype(float) @ wide[:, inner].astype(float)
        np.testing.assert_array_equal(got[:, inner], want.astype(dtype))
        assert (np.delete(got, np.arange(pad, pad + n), axis=1) == 99).all()
        wide = oracle.random_dense((64, n + 2 * pad), dtype, seed=5, integers=True)
        out = gpu.put(np.full((96, n + 2 * pad), 99, dtype))
        gossamer.spmm(a, gpu.put(wide)[:, inner], transpose_a=True, out=out[:, inner])
        got, want = gpu.get(out), dense.T.astype(float) @ wide[:, inner].astype(float)
        np.testing.assert_array_equal(got[:, inner], want.astype(dtype))
        assert (np.delete(got, np.arange(pad, pad + n), axis=1) == 99).all()
        x = oracle.random_dense((n, 96 + pad), dtype, seed=4, integers=True)
        out = gpu.put(np.full((n, 64 + 2 * pad), 99, dtype))
        gossamer.linear(gpu.put(x)[:, pad:], a, out=out[:, pad : pad + 64])
        got, want = gpu.get(out), x[:, pad:].astype(float) @ dense.astype(float).T
        np.testing.assert_array_equal(got[:, pad : pad + 64], want.astype(dtype))
        assert (np.delete(got, np.arange(pad, pad + 64), axis=1) == 99).all()


@pytest.mark.parametrize("offset", [1, 2, 4])
def test_blocks_that_begin_anywhere(gpu: Device, offset: int) -> None:
    dense = random_blocks((2, 3), (16, 16), np.float16)
    host = gossamer.BSR.from_dense(dense, 16)
    flat = np.concatenate([np.zeros(offset, np.float16), host.blocks.ravel()])
    memory = gpu.put(flat)
    blocks = memory[offset:]
    blocks = (
        type(memory)(blocks.view.reshape(-1, 16, 16), memory.owner)
        if gpu.emulated
        else blocks.view(-1, 16, 16)
    )
    a = gossamer.BSR(gpu.put(host.indptr), gpu.put(host.indices), blocks, host.shape)
    assert_exact(gpu, dense, a, 33)


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=name)
@pytest.mark.parametrize("activation", ["relu", "gelu", ("clamp", -0.5, 1.5)], ids=str)
def test_epilogue(gpu: Device, dtype: Any, activation: Any) -> None:
    dense = random_blocks((3, 3), (16, 16), dtype)
    a = put(gpu, dense, (16, 16))
    bias = oracle.random_dense((48,), dtype, seed=5, integers=True)
    b = oracle.random_dense((48, 40), dtype, seed=6, integers=True)
    before = oracle.random_dense((48, 40), dtype, seed=7, integers=True)
    sums = dense.astype(float) @ b.astype(float) + bias.astype(float)[:, None] + before
    want = oracle.ACTIVATIONS[activation](sums)
    bound = 8 * oracle.unit_roundoff(dtype) * (np.abs(sums) + 1)
    options: dict[str, Any] = {"bias": gpu.put(bias), "activation": activation, "accumulate": True}
    out = gpu.put(before)
    gossamer.spmm(a, gpu.put(b), out=out, **options)
    assert np.all(np.abs(gpu.get(out).astype(float) - want) <= bound)
    sums = dense.T.astype(float) @ b.astype(float) + bias.astype(float)[:, None] + before
    transposed = oracle.ACTIVATIONS[activation](sums)
    out = gpu.put(before)
    gossamer.spmm(a, gpu.put(b), transpose_a=True, out=out, **options)
    bound_t = 8 * oracle.unit_roundoff(dtype) * (np.abs(sums) + 1)
    assert np.all(np.abs(gpu.get(out).astype(float) - transposed) <= bound_t)
    out = gpu.put(np.ascontiguousarray(before.T))
    gossamer.linear(gpu.put(np.ascontiguousarray(b.T)), a, out=out, **options)
    assert np.all(np.abs(gpu.get(out).astype(float) - want.T) <= bound.T)


def test_random_halves_stay_within_the_bound(gpu: Device) -> None:
    dense = random_blocks((2, 20), (16, 16), np.float64)
    dense = (dense * np.random.default_rng(1).standard_normal(dense.shape)).astype(np.float16)
    a, wide_a = put(gpu, dense, (16, 16)), dense.astype(float)
    for transpose, left in [(False, wide_a), (True, wide_a.T)]:
        b = oracle.random_dense((left.shape[1], 24), np.float16, seed=2)
        wide_b = b.astype(float)
        got = gpu.get(gossamer.spmm(a, gpu.put(b), transpose_a=transpose))
        oracle.assert_close(got, left @ wide_b, np.abs(left) @ np.abs(wide_b), left.shape[1])


def test_results_do_not_depend_on_the_order_of_threads(
    emulated: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = random_blocks((4, 3), (16, 32), np.float32)
    dense = (dense * np.random.default_rng(2).standard_normal(dense.shape)).astype(np.float16)
    a = put(emulated, dense, (16, 32))
    b = emulated.put(oracle.random_dense((64, 40), np.float16, seed=3))
    found = set()
    for seed in "01234":
        monkeypatch.setenv("GOSSAMER_EMULATION_SEED", seed)
        found.add(emulated.get(gossamer.spmm(a, b, transpose_a=True)).tobytes())
    assert len(found) == 1


def assert_sddmm(gpu: Device, pattern: gossamer.BSR, marks: np.ndarray, depth: int) -> None:
    """Check the product at the blocks of `marks`, for operands of which one has padded rows."""
    (br, bc), dtype = pattern.block, np.dtype(pattern.dtype)
    rows, cols = pattern.shape
    a = oracle.random_dense((rows, depth), dtype, seed=depth, integers=True)
    wide = oracle.random_dense((cols, depth + 2), dtype, seed=2, integers=True)
    b = wide[:, 1 : depth + 1]
    full = a.astype(float) @ b.astype(float).T
    want = full.reshape(rows // br, br, cols // bc, bc).swapaxes(1, 2)[marks]
    for right in (gpu.put(wide)[:, 1 : depth + 1], gpu.put(np.ascontiguousarray(b))):
        out = gossamer.sddmm(gpu.put(a), right, pattern)
        np.testing.assert_array_equal(gpu.get(out), want.astype(dtype))
    gossamer.sddmm(gpu.put(a), right, pattern, accumulate=True, out=out)
    twice = (want.astype(dtype).astype(float) + want).astype(dtype)
    np.testing.assert_array_equal(gpu.get(out), twice)


def marks_of(dense: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    grid = (dense.shape[0] // block[0], dense.shape[1] // block[1])
    return (dense.reshape(grid[0], block[0], grid[1], block[1]) != 0).any((1, 3))


@pytest.mark.parametrize("dtype", HALVES, ids=name)
@pytest.mark.parametrize("block", [(16, 16), (32, 32), (16, 8), (48, 24), (64, 160)], ids=str)
def test_sddmm_on_tensor_cores(gpu: Device, dtype: Any, block: tuple[int, int]) -> None:
    # Rows with many blocks, none, few and one: tiles of one warp and of four.
    for grid in [(4, 3), (3, 12)] if block[0] < 48 else [(3, 3)]:
        dense = random_blocks(grid, block, dtype)
        pattern = put(gpu, dense, block)
        for depth in gpu.few([1, 32, 33, 72, 0, 7, 16, 200]):
            assert_sddmm(gpu, pattern, marks_of(dense, block), depth)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("block", [(1, 1), (4, 1), (1, 16), (5, 3), (16, 16)], ids=str)
def test_sddmm_of_any_block(gpu: Device, dtype: Any, block: tuple[int, int]) -> None:
    dense = random_blocks((6, 5), block, dtype)
    pattern = put(gpu, dense, block)
    for depth in (0, 1, 16, 33, 70):
        assert_sddmm(gpu, pattern, marks_of(dense, block), depth)


@pytest.mark.parametrize("offset", [1, 2, 4])
def test_sddmm_into_what_begins_anywhere(gpu: Device, offset: int) -> None:
    pattern = put(gpu, np.ones((16, 32), np.float16), (16, 16))
    a = oracle.random_dense((16, 40), np.float16, seed=1, integers=True)
    b = oracle.random_dense((32, 40), np.float16, seed=2, integers=True)
    memory = gpu.put(np.full(offset + 512, 7, np.float16))
    out = memory[offset:]
    if gpu.emulated:
        out = type(memory)(out.view.reshape(2, 16, 16), memory.owner)
    else:
        out = out.view(2, 16, 16)
    want = (a.astype(float) @ b.astype(float).T).reshape(16, 2, 16).swapaxes(0, 1)
    gossamer.sddmm(gpu.put(a), gpu.put(b), pattern, out=out)
    np.testing.assert_array_equal(gpu.get(out), want.astype(np.float16))
    gossamer.sddmm(gpu.put(a), gpu.put(b), pattern, accumulate=True, out=out)
    np.testing.assert_array_equal(gpu.get(out), (2 * want).astype(np.float16))
    assert (gpu.get(memory)[:offset] == 7).all()


def test_sddmm_does_not_depend_on_the_order_of_threads(
    emulated: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = put(emulated, random_blocks((4, 6), (16, 16), np.float16), (16, 16))
    a = emulated.put(oracle.random_dense((64, 100), np.float16, seed=1))
    b = emulated.put(oracle.random_dense((96, 100), np.float16, seed=2))
    found = set()
    for seed in "01234":
        monkeypatch.setenv("GOSSAMER_EMULATION_SEED", seed)
        found.add(emulated.get(gossamer.sddmm(a, b, pattern)).tobytes())
    assert len(found) == 1
    wide = (np.asarray(emulated.get(x)).astype(float) for x in (a, b))
    left, right = wide
    marks = marks_of(random_blocks((4, 6), (16, 16), np.float16), (16, 16))

    def at_blocks(full: np.ndarray) -> np.ndarray:
        return full.reshape(4, 16, 6, 16).swapaxes(1, 2)[marks]

    got = np.frombuffer(found.pop(), np.float16).reshape(-1, 16, 16)
    magnitude = at_blocks(np.abs(left) @ np.abs(right).T)
    oracle.assert_close(got, at_blocks(left @ right.T), magnitude, 100)


def test_bad_calls_say_what_is_wrong(gpu: Device) -> None:
    a = put(gpu, np.ones((4, 6), np.float32), (2, 2))
    b = gpu.put(np.ones((4, 6), np.float32))
    with pytest.raises(ValueError, match=r"^spmm: b.shape\[0\] is 5, expected a.shape\[0\] = 4"):
        gossamer.spmm(a, gpu.put(np.ones((5, 6), np.float32)), transpose_a=True)
    with pytest.raises(ValueError, match=r"^sddmm: b.shape\[0\] is 4, expected pattern.shape"):
        gossamer.sddmm(b, b, a)
    wide = gossamer.BSR(
        *(gpu.put(x) for x in (np.array([0, 1]), np.array([0]), np.ones((1, 2, 2), np.float32))),
        (2, 2),
        index_dtype="int64",
    )
    two = gpu.put(np.ones((2, 2), np.float32))
    with pytest.raises(NotImplementedError, match=r"^spmm: a.index_dtype is int64, expected int32"):
        gossamer.spmm(wide, two, transpose_a=True)
    with pytest.raises(NotImplementedError, match=r"^sddmm: pattern.index_dtype is int64"):
        gossamer.sddmm(two, two, wide)
