"""sddmm and spmm of several sets of operands on GPUs, against dense float64 NumPy."""

from __future__ import annotations

from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from device import Device

pytestmark = pytest.mark.gpu

F32 = np.float32


def name(dtype: type) -> str:
    return np.dtype(dtype).name


def wide(a: Any) -> np.ndarray:
    return np.asarray(a).astype(np.float64)


def integers(shape: tuple[int, ...], dtype: Any, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(dtype)


def pattern_of(rows: int, cols: int, seed: int) -> np.ndarray:
    """Draw a mask with an empty row and, where it fits, one of every column."""
    mask = np.random.default_rng(seed).random((rows, cols)) < 0.2
    mask[0], mask[-1] = False, True
    return mask


def csr(gpu: Device, mask: np.ndarray, values: np.ndarray | None) -> gossamer.CSR:
    a = gossamer.CSR.from_dense(mask.astype(F32))
    put = gpu.put(values) if values is not None else None
    return gossamer.CSR(gpu.put(a.indptr), gpu.put(a.indices), put, a.shape)


def dense(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the matrices of values [..., nnz]."""
    made = np.zeros((*values.shape[:-1], *mask.shape))
    made[..., mask] = wide(values)
    return made


def moved(gpu: Device, array: np.ndarray, turned: bool) -> Any:
    """Put [B, H, S, D] on the device, where asked for as a view of [B, S, H, D]."""
    if not turned or not gpu.emulated:
        return gpu.put(array)
    there = gpu.put(np.ascontiguousarray(array.swapaxes(1, 2)))
    there.view = there.view.swapaxes(1, 2)
    return there[:]


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
def test_sddmm_of_integers_is_exact(gpu: Device, dtype: type, turned: bool, stacked: bool) -> None:
    batch, heads, rows, cols, depth = 2, 3, 5, 37, 24
    mask = pattern_of(heads * rows if stacked else rows, cols, 1)
    a, b = (integers((batch, heads, n, depth), dtype, n) for n in (rows, cols))
    full = np.einsum("bhid,bhjd->bhij", wide(a), wide(b))
    want = full.reshape(batch, -1, cols)[:, mask] if stacked else full[..., mask]
    pattern = csr(gpu, mask, None)
    x, y = (moved(gpu, operand, turned) for operand in (a, b))
    got = gpu.get(gossamer.sddmm(x, y, pattern))
    np.testing.assert_array_equal(got, want.astype(dtype))
    if np.dtype(dtype).itemsize == 2:
        got = gpu.get(gossamer.sddmm(x, y, pattern, scale=0.5, dtype="float32"))
        assert got.dtype == F32
        np.testing.assert_array_equal(got, want / 2)
    out = gpu.put(np.ones(want.shape, dtype))
    gossamer.sddmm(x, y, pattern, scale=2.0, accumulate=True, out=out)
    np.testing.assert_array_equal(gpu.get(out), (1 + 2 * want).astype(dtype))


@pytest.mark.parametrize("axes", [(), (4,)])
def test_sddmm_of_one_pattern_for_all_sets_or_none(gpu: Device, axes: tuple[int, ...]) -> None:
    mask = pattern_of(8, 9, 3)
    a, b = integers((*axes, 8 // (4 if axes else 1), 7), F32, 1), integers((*axes, 9, 7), F32, 2)
    full = (wide(a) @ wide(b).swapaxes(-1, -2)).reshape(8, 9)
    got = gossamer.sddmm(gpu.put(a), gpu.put(b), csr(gpu, mask, None), scale=3.0)
    np.testing.assert_array_equal(gpu.get(got), 3 * full[mask])


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("values_for", ["one", "each", "stack", "stacks"])
def test_spmm_of_integers_is_exact(
    gpu: Device, dtype: type, turned: bool, transpose_a: bool, values_for: str
) -> None:
    batch, heads, rows, cols = 2, 3, 5, 37
    stacked = values_for.startswith("stack")
    sets = {"one": 1, "each": 1, "stack": batch * heads, "stacks": heads}[values_for]
    mask = pattern_of(sets * rows, cols, 1)
    of_values = {"one": (), "each": (batch, heads), "stack": (), "stacks": (batch,)}[values_for]
    values = integers((*of_values, int(mask.sum())), dtype, 2)
    matrices = np.broadcast_to(
        dense(mask, values).reshape(*of_values, -1, rows, cols) if stacked else dense(mask, values),
        (batch, heads, rows, cols) if values_for != "stack" else (batch * heads, rows, cols),
    ).reshape(batch, heads, rows, cols)
    if transpose_a:
        matrices = matrices.swapaxes(-1, -2)
    a = csr(gpu, mask, values)
    for n in (16, 3, 1):
        b = integers((batch, heads, matrices.shape[-1], n), dtype, n)
        want = matrices @ wide(b)
        got = gossamer.spmm(a, moved(gpu, b, turned), transpose_a=transpose_a, stacked=stacked)
        np.testing.assert_array_equal(gpu.get(got), want.astype(dtype))
    bias = integers((matrices.shape[-2],), dtype, 5)
    options: Any = {"bias": gpu.put(bias), "activation": "relu", "stacked": stacked}
    out = gpu.put(np.ones(want.shape, dtype))
    there = moved(gpu, b, turned)
    gossamer.spmm(a, there, transpose_a=transpose_a, accumulate=True, out=out, **options)
    want = np.maximum(want + wide(bias)[:, None] + 1, 0)
    np.testing.assert_array_equal(gpu.get(out), want.astype(dtype))


def test_spmm_of_one_b(gpu: Device) -> None:
    mask = pattern_of(6, 20, 4)
    values, b = integers((3, int(mask.sum())), F32, 1), integers((20, 4), F32, 2)
    got = gossamer.spmm(csr(gpu, mask, values), gpu.put(b))
    np.testing.assert_array_equal(gpu.get(got), dense(mask, values) @ wide(b))


@pytest.mark.parametrize("stacked", [False, True])
def test_long_rows_of_sets_are_cut_and_joined(gpu: Device, stacked: bool) -> None:
    rows, cols, sets = 3, 3000, 2
    mask = np.random.default_rng(0).random((rows * (sets if stacked else 1), cols)) < 0.002
    mask[1] = True
    mask[-1, :2500] = True
    values = integers((int(mask.sum()),), F32, 1)
    b = integers((sets, cols, 4), F32, 2)
    matrices = dense(mask, values).reshape(-1, rows, cols)
    got = gossamer.spmm(csr(gpu, mask, values), gpu.put(b), stacked=stacked)
    np.testing.assert_array_equal(gpu.get(got), matrices @ wide(b))


@pytest.mark.parametrize("shape", [(0, 3, 4, 2), (2, 0, 4, 2), (2, 3, 0, 2), (2, 3, 4, 0)])
@pytest.mark.parametrize("transpose_a", [False, True])
def test_empty_sets(gpu: Device, shape: tuple[int, int, int, int], transpose_a: bool) -> None:
    sets, rows, cols, n = shape
    a = csr(gpu, np.ones((rows, cols), bool), np.ones(rows * cols, F32))
    k, m = (rows, cols) if transpose_a else (cols, rows)
    got = gossamer.spmm(a, gpu.put(np.ones((sets, k, n), F32)), transpose_a=transpose_a)
    np.testing.assert_array_equal(gpu.get(got), np.full((sets, m, n), k))
    x, y = (gpu.put(np.ones((sets, extent, n), F32)) for extent in (rows, cols))
    got = gossamer.sddmm(x, y, a)
    np.testing.assert_array_equal(gpu.get(got), np.full((sets, rows * cols), n))


def test_leading_axes_that_form_more_than_two_are_refused(gpu: Device) -> None:
    if not gpu.emulated:
        pytest.skip("slices of emulated arrays")
    whole = gpu.put(np.ones((4, 4, 4, 2, 6), F32))
    a = csr(gpu, np.ones((2, 2), bool), None)
    message = r"^sddmm: a.strides has more than two axes of matrices, expected leading axes"
    with pytest.raises(ValueError, match=message):
        gossamer.sddmm(whole[:2, :2, :2], whole[:2, :2, :2], a)
