"""Conversions on a GPU, real or emulated: dense to CSR and back, transposes, index types."""

from __future__ import annotations

import gossamer
import numpy as np
import pytest
from conversions import DTYPES, dense, expected, non_zeros, same_bits
from device import Device

# Around the width of a warp and of a tile, and rows that a block shares.
SHAPES = [
    *((0, 0), (0, 5), (5, 0), (1, 1), (3, 8), (7, 31), (5, 32), (9, 33)),
    *((3, 511), (3, 513), (41, 70), (2, 4096), (3, 4097), (1, 9000)),
]


def assert_csr(gpu: Device, a: gossamer.CSR, w: np.ndarray, kept: np.ndarray) -> None:
    assert a.shape == w.shape
    assert a.index_dtype == "int32"
    for got, want in zip((a.indptr, a.indices, a.values), expected(w, kept), strict=True):
        assert same_bits(gpu.get(got), want)


def on(gpu: Device, w: np.ndarray) -> gossamer.CSR:
    """Return the entries of `w` that are not zero, put together on the host."""
    indptr, indices, values = expected(w, non_zeros(w))
    return gossamer.CSR(gpu.put(indptr), gpu.put(indices), gpu.put(values), w.shape)


@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_from_dense_keeps_what_is_not_zero(gpu: Device, dtype: np.dtype, density: float) -> None:
    for shape in SHAPES:
        w = dense(shape, density, dtype)
        assert_csr(gpu, gossamer.CSR.from_dense(gpu.put(w)), w, non_zeros(w))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_from_dense_keeps_exactly_what_the_mask_says(gpu: Device, dtype: np.dtype) -> None:
    for mask_dtype in (np.bool_, np.uint8):
        for shape in SHAPES:
            w = dense(shape, 0.5, dtype)
            rng = np.random.default_rng(7)
            mask = (rng.integers(0, 4, shape) * 85).astype(mask_dtype)
            a = gossamer.CSR.from_dense(gpu.put(w), gpu.put(mask))
            assert_csr(gpu, a, w, mask != 0)


def test_from_dense_takes_rows_that_are_apart(gpu: Device) -> None:
    wide = dense((9, 80), 0.5, np.dtype(np.float32))
    mask = np.random.default_rng(8).random((9, 77)) < 0.5
    a = gossamer.CSR.from_dense(gpu.put(wide)[:, 3:73], gpu.put(mask)[:, :70])
    assert_csr(gpu, a, wide[:, 3:73], mask[:, :70])


@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_to_dense_writes_entries_and_zeros(gpu: Device, dtype: np.dtype, density: float) -> None:
    for shape in SHAPES:
        w = dense(shape, density, dtype)
        w[w == 0] = 0  # -0 is not an entry
        assert same_bits(gpu.get(on(gpu, w).to_dense()), w)


def test_to_dense_leaves_what_lies_between_rows(gpu: Device) -> None:
    w = dense((9, 70), 0.3, np.dtype(np.float16))
    w[w == 0] = 0
    buffer = gpu.put(np.full((9, 80), 7, np.float16))
    on(gpu, w).to_dense(out=buffer[:, :70])
    assert same_bits(gpu.get(buffer)[:, :70], w)
    assert (gpu.get(buffer)[:, 70:] == 7).all()


@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_transpose_is_that_of_the_dense_matrix(
    gpu: Device, dtype: np.dtype, density: float
) -> None:
    for shape in [*SHAPES, (300, 5)]:
        w = dense(shape, density, dtype)
        a = on(gpu, w)
        t, permutation = a.transpose()
        assert_csr(gpu, t, np.ascontiguousarray(w.T), non_zeros(w).T)
        moved = gpu.get(a.values)[gpu.get(permutation)]
        assert same_bits(moved, gpu.get(t.values))


def test_int64_indices_are_narrowed(gpu: Device) -> None:
    w = dense((40, 300), 0.3, np.dtype(np.float32))
    indptr, indices, values = expected(w, non_zeros(w))
    wide = [gpu.put(x.astype(np.int64)) for x in (indptr, indices)]
    a = gossamer.CSR(*wide, gpu.put(values), w.shape)
    assert_csr(gpu, a, w, non_zeros(w))


def test_results_do_not_depend_on_the_order_of_threads(
    emulated: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = dense((50, 300), 0.3, np.dtype(np.float32))
    w[w == 0] = 0
    for seed in "0123456":
        monkeypatch.setenv("GOSSAMER_EMULATION_SEED", seed)
        a = gossamer.CSR.from_dense(emulated.put(w))
        assert_csr(emulated, a, w, non_zeros(w))
        assert_csr(emulated, a.T, np.ascontiguousarray(w.T), non_zeros(w).T)
        assert same_bits(emulated.get(a.to_dense()), w)


def test_a_kernel_that_fails_raises_with_its_name(emulated: Device) -> None:
    # An index that the caller changed after the check: the kernel leaves its tile.
    w = dense((3, 40), 1.0, np.dtype(np.float32))
    a = on(emulated, w)
    a.indices.view[5] = -1_000_000
    with pytest.raises(gossamer.CudaError, match=r"csr_to_dense_rows.*cudaErrorIllegalAddress"):
        a.to_dense()
