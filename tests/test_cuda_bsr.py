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


@pytest.mark.parametrize("dtype", HALVES, ids=name)
@pytest.mark.parametrize("block", [(16, 16), (32, 32), (16, 32), (48, 16), (64, 32)], ids=str)
def test_tensor_cores_at_every_width(gpu: Device, dtype: Any, block: tuple[int, int]) -> None:
    dense = random_blocks((3, 6), block, dtype)
    a = put(gpu, dense, block)
    for n in gpu.few(WIDTHS, 4) if block[0] > 32 else WIDTHS:
        assert_exact(gpu, dense, a, n)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("block", [(1, 1), (4, 1), (1, 16), (5, 3), (16, 16)], ids=str)
def test_any_block(gpu: Device, dtype: Any, block: tuple[int, int]) -> None:
    dense = random_blocks((4, 5), block, dtype)
    a = put(gpu, dense, block)
    for n in (1, 31, 130):
        assert_exact(gpu, dense, a, n)


@pytest.mark.parametrize("dtype", HALVES, ids=name)
@pytest.mark.parametrize("pad", [1, 2, 4, 8])
def test_rows_that_begin_anywhere(gpu: Device, dtype: Any, pad: int) -> None:
    """Copies are as wide as addresses allow; columns beside are left alone."""
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
    out = gpu.put(np.ascontiguousarray(before.T))
    gossamer.linear(gpu.put(np.ascontiguousarray(b.T)), a, out=out, **options)
    assert np.all(np.abs(gpu.get(out).astype(float) - want.T) <= bound.T)


def test_random_halves_stay_within_the_bound(gpu: Device) -> None:
    dense = random_blocks((2, 20), (16, 16), np.float64)
    dense = (dense * np.random.default_rng(1).standard_normal(dense.shape)).astype(np.float16)
    b = oracle.random_dense((320, 24), np.float16, seed=2)
    wide_a, wide_b = dense.astype(float), b.astype(float)
    got = gpu.get(gossamer.spmm(put(gpu, dense, (16, 16)), gpu.put(b)))
    oracle.assert_close(got, wide_a @ wide_b, np.abs(wide_a) @ np.abs(wide_b), 320)


def test_what_has_no_kernel_says_so(gpu: Device) -> None:
    a = put(gpu, np.ones((4, 4), np.float32), (2, 2))
    b = gpu.put(np.ones((4, 4), np.float32))
    with pytest.raises(NotImplementedError, match=r"^spmm: transpose_a is True, expected False"):
        gossamer.spmm(a, b, transpose_a=True)
    with pytest.raises(NotImplementedError, match=r"^sddmm: pattern is a BSR on cuda:0, expected"):
        gossamer.sddmm(b, b, a)
