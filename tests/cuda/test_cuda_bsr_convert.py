"""Conversions of BSR on a GPU, real or emulated: from dense and back, transposes."""

from __future__ import annotations

from typing import Any

import gossamer
import numpy as np
import pytest
from conversions import DTYPES, dense, non_zeros, same_bits
from device import Device

# (grid, block): units of every width, a row of blocks that is no multiple of a step, a block wider
# than a thread block reads at once, and one larger than a tile of the transpose.
CASES: list[tuple[tuple[int, int], tuple[int, int]]] = [
    *(((0, 3), (2, 2)), ((3, 0), (2, 2)), ((1, 1), (1, 1)), ((4, 9), (1, 1)), ((3, 70), (4, 1))),
    *(((5, 7), (2, 3)), ((3, 9), (5, 8)), ((4, 6), (16, 16)), ((3, 33), (32, 4))),
    *(((2, 3), (3, 70)), ((3, 2), (70, 66)), ((2, 2), (1, 600))),
]


def sparse(grid: tuple[int, int], block: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Draw a matrix whose blocks have no element, negative zeros, NaN, few elements or many."""
    w = dense((grid[0] * block[0], grid[1] * block[1]), 0.3, dtype)
    kept = np.random.default_rng(len(block)).random(grid) < 0.5
    kept[:1] = True
    kept[1:2] = False
    w[np.kron(kept, np.ones(block)) == 0] = 0
    if w.size:
        w[-1, -1] = -0.0
    return w


def tiles(w: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """Return [rows of blocks, columns of blocks, br, bc]."""
    grid = (w.shape[0] // block[0], w.shape[1] // block[1])
    return w.reshape(grid[0], block[0], grid[1], block[1]).swapaxes(1, 2)


def assert_bsr(
    gpu: Device, a: gossamer.BSR, w: np.ndarray, block: tuple[int, int], kept: np.ndarray
) -> None:
    """Check that `a` holds the blocks of `w` with an entry of `kept`, and zeros elsewhere."""
    assert (a.shape, a.block, a.index_dtype) == (w.shape, block, "int32")
    marks = tiles(kept, block).any((2, 3))
    values = tiles(np.where(kept, w, np.zeros((), w.dtype)), block)[marks]
    indptr = np.concatenate([[0], np.cumsum(marks.sum(1))]).astype(np.int32)
    indices = marks.nonzero()[1].astype(np.int32)
    for got, want in zip((a.indptr, a.indices, a.blocks), (indptr, indices, values), strict=True):
        assert same_bits(gpu.get(got), want)


def on(gpu: Device, w: np.ndarray, block: tuple[int, int]) -> gossamer.BSR:
    """Return the blocks of `w` that are not zero, put together on the host."""
    a = gossamer.BSR.from_dense(w, block)
    return gossamer.BSR(gpu.put(a.indptr), gpu.put(a.indices), gpu.put(a.blocks), a.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_from_dense_keeps_blocks_that_are_not_zero(gpu: Device, dtype: np.dtype) -> None:
    for grid, block in CASES:
        w = sparse(grid, block, dtype)
        a = gossamer.BSR.from_dense(gpu.put(w), block)
        marks = tiles(non_zeros(w), block).any((2, 3))
        assert_bsr(gpu, a, w, block, np.kron(marks, np.ones(block)).astype(bool))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask_type", [np.bool_, np.uint8], ids=str)
def test_from_dense_keeps_exactly_what_the_mask_says(
    gpu: Device, dtype: np.dtype, mask_type: Any
) -> None:
    for grid, block in CASES:
        w = sparse(grid, block, dtype)
        rng = np.random.default_rng(7)
        mask = (rng.integers(1, 4, w.shape) * (rng.random(w.shape) < 0.04)).astype(mask_type)
        a = gossamer.BSR.from_dense(gpu.put(w), block, gpu.put(mask))
        assert_bsr(gpu, a, w, block, mask != 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_to_dense_writes_blocks_and_zeros(gpu: Device, dtype: np.dtype) -> None:
    for grid, block in CASES:
        w = sparse(grid, block, dtype)
        marks = tiles(non_zeros(w), block).any((2, 3))
        want = np.where(np.kron(marks, np.ones(block)) != 0, w, np.zeros((), dtype))
        assert same_bits(gpu.get(on(gpu, w, block).to_dense()), want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_transpose_turns_each_block(gpu: Device, dtype: np.dtype) -> None:
    for grid, block in [*CASES, ((300, 2), (4, 2))]:
        a = on(gpu, sparse(grid, block, dtype), block)
        t, permutation = a.transpose()
        host = gossamer.BSR(gpu.get(a.indptr), gpu.get(a.indices), gpu.get(a.blocks), a.shape)
        want, order = host.transpose()
        assert (t.shape, t.block, t.index_dtype) == (a.shape[::-1], block[::-1], "int32")
        pairs = [(t.indptr, want.indptr), (t.indices, want.indices), (t.blocks, want.blocks)]
        for got, expected in [*pairs, (permutation, order)]:
            assert same_bits(gpu.get(got), np.asarray(expected))


@pytest.mark.parametrize("pad", [1, 2, 4, 8])
def test_rows_that_begin_anywhere(gpu: Device, pad: int) -> None:
    """Accesses are as wide as the alignment allows; neighbouring elements are not written."""
    w = sparse((3, 4), (8, 8), np.dtype(np.float16))
    w[w == 0] = 0
    wide = np.full((24, 32 + 2 * pad), np.nan, np.float16)
    wide[:, pad : pad + 32] = w
    mask = np.zeros(wide.shape, np.bool_)
    mask[:, pad : pad + 32] = np.random.default_rng(3).random(w.shape) < 0.1
    inner = slice(pad, pad + 32)
    a = gossamer.BSR.from_dense(gpu.put(wide)[:, inner], 8)
    marks = np.kron(tiles(w != 0, (8, 8)).any((2, 3)), np.ones((8, 8))) != 0
    assert_bsr(gpu, a, w, (8, 8), marks)
    kept = gpu.put(mask)[:, inner]
    assert_bsr(gpu, gossamer.BSR.from_dense(gpu.put(w), 8, kept), w, (8, 8), mask[:, inner])
    out = gpu.put(np.full(wide.shape, 7, np.float16))
    a.to_dense(out=out[:, inner])
    got = gpu.get(out)
    assert same_bits(got[:, inner], w)
    assert (np.delete(got, np.arange(pad, pad + 32), axis=1) == 7).all()


def test_long_rows_of_small_blocks(gpu: Device) -> None:
    """More blocks than a thread block writes, or finds, at a time."""
    w = np.zeros((4, 6000), np.float32)
    w[:, np.random.default_rng(4).integers(0, 6000, 900)] = 1
    w[2:, 5000:] = 3
    for block in [(1, 1), (2, 4)]:
        a = gossamer.BSR.from_dense(gpu.put(w), block)
        marks = np.kron(tiles(w != 0, block).any((2, 3)), np.ones(block)) != 0
        assert_bsr(gpu, a, w, block, marks)
        assert same_bits(gpu.get(a.to_dense()), w)


def test_bad_calls_say_what_the_cpu_says(gpu: Device) -> None:
    def message(call: Any, *arrays: Any) -> str:
        with pytest.raises((ValueError, TypeError)) as error:
            call(*arrays)
        return f"{error.type.__name__} {error.value}"

    w, mask = np.ones((4, 6), np.float32), np.ones((4, 5), bool)
    a = gossamer.BSR.from_dense(w, 2)
    b = on(gpu, w, (2, 2))
    pairs: list[tuple[Any, Any]] = [
        *((lambda x, s=s: gossamer.BSR.from_dense(x, s), (w,)) for s in ((3, 2), 4, (0, 2))),
        (lambda x: gossamer.BSR.from_dense(x, 2), (np.ones(4, np.float32),)),
        (lambda x: gossamer.BSR.from_dense(x, 2), (w.astype(np.int32),)),
        (lambda x, m: gossamer.BSR.from_dense(x, 2, m), (w, mask)),
        (lambda x, m: gossamer.BSR.from_dense(x, 2, m), (w, w)),
    ]
    for call, arrays in pairs:
        assert message(call, *map(gpu.put, arrays)) == message(call, *arrays)
    for out in (w[:, :5], w.astype(np.float16)):
        on_cpu = message(lambda x: a.to_dense(out=x), out)
        assert message(lambda x: b.to_dense(out=x), gpu.put(out)) == on_cpu


def test_results_do_not_depend_on_the_order_of_threads(
    emulated: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = sparse((6, 20), (8, 3), np.dtype(np.float32))
    marks = np.kron(tiles(non_zeros(w), (8, 3)).any((2, 3)), np.ones((8, 3))) != 0
    want = np.where(marks, w, np.float32(0))
    for seed in "01234":
        monkeypatch.setenv("GOSSAMER_EMULATION_SEED", seed)
        a = gossamer.BSR.from_dense(emulated.put(w), (8, 3))
        assert_bsr(emulated, a, w, (8, 3), marks)
        assert same_bits(emulated.get(a.T.to_dense()), np.ascontiguousarray(want.T))
