"""Products of large blocks by Hopper's wgmma, which GOSSAMER_CUDA_WGMMA=1 allows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cuda_trace
import gossamer
import numpy as np
import oracle
import pytest
from device import Device
from test_cuda_bsr import HALVES, assert_exact, name, put, random_blocks


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOSSAMER_CUDA_WGMMA", "1")


#: Widths for tiles of one warpgroup, and of two where there are enough tiles for that: one below
#: the other, or side by side. `spmm` takes multiples of 8 alone, `linear` others too.
WIDTHS = {(64, 64): [72, 600, 64, 130, 1030], (128, 64): [136, 400, 65], (192, 128): [264, 128]}


@pytest.mark.parametrize("block", WIDTHS, ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=name)
def test_every_width(gpu: Device, dtype: Any, block: tuple[int, int]) -> None:
    dense = random_blocks((3, 4) if block == (64, 64) else (2, 3), block, dtype)
    a = put(gpu, dense, block)
    for n in gpu.few(WIDTHS[block], 1 if block[0] == 192 else 2):
        assert_exact(gpu, dense, a, n)


def test_many_slices_and_rows_without_blocks(gpu: Device) -> None:
    dense = np.zeros((256, 1024), np.float16)
    dense[:64] = oracle.random_dense((64, 1024), np.float16, seed=1, integers=True)
    dense[192:, 512:576] = 1
    assert_exact(gpu, dense, put(gpu, dense, (64, 64)), 64)


@pytest.mark.parametrize("activation", ["gelu", ("clamp", -0.5, 1.5)], ids=str)
def test_epilogue(gpu: Device, activation: Any) -> None:
    dense = random_blocks((2, 2), (64, 64), np.float16)
    a = put(gpu, dense, (64, 64))
    bias = oracle.random_dense((128,), np.float16, seed=5, integers=True)
    b = oracle.random_dense((128, 72), np.float16, seed=6, integers=True)
    before = oracle.random_dense((128, 72), np.float16, seed=7, integers=True)
    options: dict[str, Any] = {"bias": gpu.put(bias), "activation": activation, "accumulate": True}
    for left, transpose in ((dense, False), (dense.T, True)):
        sums = left.astype(float) @ b.astype(float) + bias.astype(float)[:, None] + before
        want = oracle.ACTIVATIONS[activation](sums)
        bound = 8 * oracle.unit_roundoff(np.float16) * (np.abs(sums) + 1)
        out = gpu.put(before)
        gossamer.spmm(a, gpu.put(b), transpose_a=transpose, out=out, **options)
        assert np.all(np.abs(gpu.get(out).astype(float) - want) <= bound)
        if transpose:
            continue
        out = gpu.put(np.ascontiguousarray(before.T))
        gossamer.linear(gpu.put(np.ascontiguousarray(b.T)), a, out=out, **options)
        assert np.all(np.abs(gpu.get(out).astype(float) - want.T) <= bound.T)


def test_real_numbers_stay_within_the_bound(gpu: Device) -> None:
    draw = np.random.default_rng(1)
    dense = random_blocks((1, 6), (64, 64), np.float64)
    dense = (dense * draw.standard_normal(dense.shape)).astype(np.float16)
    b = draw.standard_normal((384, 64)).astype(np.float16)
    got = gpu.get(gossamer.spmm(put(gpu, dense, (64, 64)), gpu.put(b)))
    left, right = dense.astype(float), b.astype(float)
    oracle.assert_close(got, left @ right, np.abs(left) @ np.abs(right), left.shape[1])


def test_results_begin_anywhere_and_nothing_beside_them_is_written(gpu: Device) -> None:
    dense = random_blocks((1, 2), (64, 64), np.float16)
    a = put(gpu, dense, (64, 64))
    wide = oracle.random_dense((128, 88), np.float16, seed=3, integers=True)
    for begin in (8, 1):  # operands that a map takes, and others
        out = gpu.put(np.full((64, 75), 99, np.float16))
        inner = slice(begin, begin + 70)
        gossamer.spmm(a, gpu.put(wide)[:, inner], out=out[:, 3:73])
        got, want = gpu.get(out), dense.astype(float) @ wide[:, inner].astype(float)
        np.testing.assert_array_equal(got[:, 3:73], want.astype(np.float16))
        assert (np.delete(got, np.arange(3, 73), axis=1) == 99).all()


def test_order_of_threads_changes_nothing(
    emulated: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = random_blocks((2, 6), (64, 64), np.float32)
    dense = (dense * np.random.default_rng(2).standard_normal(dense.shape)).astype(np.float16)
    a = put(emulated, dense, (64, 64))
    b = emulated.put(oracle.random_dense((384, 64), np.float16, seed=3))
    found = set()
    for seed in "01234":
        monkeypatch.setenv("GOSSAMER_EMULATION_SEED", seed)
        found.add(emulated.get(gossamer.spmm(a, b)).tobytes())
    assert len(found) == 1


def test_a_thread_that_has_called_nothing_of_cuda_yet(gpu: Device) -> None:
    dense = random_blocks((2, 2), (64, 64), np.float16)
    a, b = put(gpu, dense, (64, 64)), gpu.put(np.ones((128, 64), np.float16))
    out = gpu.put(np.zeros((128, 64), np.float16))
    with ThreadPoolExecutor(1) as threads:
        threads.submit(gossamer.spmm, a, b, out=out).result()
    np.testing.assert_array_equal(gpu.get(out), dense.astype(float) @ np.ones((128, 64)))


def test_only_where_it_is_allowed_and_can_run(
    emulated: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uses(a: gossamer.BSR, b: Any) -> bool:
        (kernel,) = cuda_trace.Trace().kernels_of(lambda: gossamer.spmm(a, b))
        return "bsr_spmm_wgmma" in kernel

    a = put(emulated, np.ones((64, 128), np.float16), (64, 64))
    b = np.ones((128, 80), np.float16)
    assert uses(a, emulated.put(b))
    assert not uses(a, emulated.put(b[:, :63].copy())), "few columns"
    assert not uses(a, emulated.put(b[:, :67].copy())), "rows that are not aligned to 16 bytes"
    assert not uses(a, emulated.put(b)[:, 4:]), "a B that is not aligned to 16 bytes"
    wide = put(emulated, np.ones((64, 128), np.float32), (64, 64))
    assert not uses(wide, emulated.put(b.astype(np.float32))), "another type"
    small = put(emulated, np.ones((64, 128), np.float16), (64, 32))
    assert not uses(small, emulated.put(b)), "small blocks"
    for value in ("0", ""):
        monkeypatch.setenv("GOSSAMER_CUDA_WGMMA", value)
        assert not uses(a, emulated.put(b)), "not allowed"
    monkeypatch.delenv("GOSSAMER_CUDA_WGMMA")
    assert not uses(a, emulated.put(b)), "not allowed"
