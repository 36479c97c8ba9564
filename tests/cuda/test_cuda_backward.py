"""Gradients of the products on GPUs against float64 NumPy."""

from __future__ import annotations

import re
from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from device import BF16, Device

pytestmark = pytest.mark.gpu

F16, F32, F64 = np.float16, np.float32, np.float64
SHAPE = (48, 96)
CASES = [
    *(("csr", t) for t in (F32, F16, F64)),
    *(("bsr-16x16", t) for t in (F16, BF16, F32)),
    ("bsr-3x4", F32),
    *(("nm-0", t) for t in (F16, F32)),
    ("nm-1", BF16),
]


def draw(form: str, dtype: Any) -> np.ndarray:
    values = oracle.random_dense(SHAPE, dtype, 2, integers=True)
    rng = np.random.default_rng(3)
    if form.startswith("nm"):
        kept = gossamer.prune.nm_mask(rng.random(SHAPE), 2, 4, axis=int(form[-1]))
        return np.where(kept, values, np.zeros((), dtype))
    block = tuple(int(x) for x in form[4:].split("x")) if form != "csr" else (1, 1)
    kept = rng.random((SHAPE[0] // block[0], SHAPE[1] // block[1])) < 0.3
    kept[0] = False
    return np.where(np.kron(kept, np.ones(block)) != 0, values, np.zeros((), dtype))


def make(gpu: Device, form: str, dense: np.ndarray) -> Any:
    if form.startswith("nm"):
        a = gossamer.NM.from_dense(dense, 2, 4, axis=int(form[-1]))
        parts = (gpu.put(np.asarray(x)) for x in (a.values, a.indices))
        return gossamer.NM(*parts, a.shape, 2, 4, axis=a.axis)
    if form == "csr":
        return gpu.csr(dense)
    block = tuple(int(x) for x in form[4:].split("x"))
    b = gossamer.BSR.from_dense(dense, (block[0], block[1]))
    return gossamer.BSR(gpu.put(b.indptr), gpu.put(b.indices), gpu.put(b.blocks), b.shape)


def at_values(gpu: Device, a: Any, dense: np.ndarray) -> np.ndarray:
    """Return the elements of a dense matrix at the values of `a`, in their shape."""
    given = a.blocks if isinstance(a, gossamer.BSR) else a.values
    shape = gpu.get(given).shape
    numbers = np.arange(1, np.prod(shape) + 1, dtype=F64).reshape(shape)
    where = gpu.get(a.with_values(gpu.put(numbers)).to_dense()).astype(int)
    found = np.zeros(numbers.size, dense.dtype)
    rows, cols = np.nonzero(where)
    found[where[rows, cols] - 1] = dense[rows, cols]
    return found.reshape(shape)


def integers(shape: tuple[int, ...], dtype: Any, seed: int) -> np.ndarray:
    return oracle.random_dense(shape, dtype, seed, integers=True)


def same(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_array_equal(got.astype(F64), want.astype(got.dtype).astype(F64))


@pytest.mark.parametrize(("form", "dtype"), CASES, ids=str)
def test_gradients_of_linear(gpu: Device, form: str, dtype: Any) -> None:
    dense = draw(form, dtype)
    w, wide = make(gpu, form, dense), dense.astype(F64)
    for tokens in gpu.few([1, 19, 40, 128], 2):
        dy, x = integers((tokens, 48), dtype, 4), integers((tokens, 96), dtype, 5)
        dx, dvalues, dbias = gossamer.linear_backward(gpu.put(dy), gpu.put(x), w)
        y = dy.astype(F64)
        values = at_values(gpu, w, y.T @ x.astype(F64))
        same(gpu.get(dx), y @ wide)
        same(gpu.get(dvalues), values)
        same(gpu.get(dbias), y.sum(0))
        out = [gpu.put(np.ones(gpu.get(g).shape, dtype)) for g in (dx, dvalues, dbias)]
        again = gossamer.linear_backward(
            gpu.put(dy), gpu.put(x), w, accumulate=True, out=tuple(out)
        )
        assert all(a is b for a, b in zip(again, out, strict=True))
        same(gpu.get(out[0]), y @ wide + 1)
        same(gpu.get(out[1]), values + 1)
        same(gpu.get(out[2]), y.sum(0) + 1)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("form", "dtype"), CASES, ids=str)
def test_gradients_of_spmm(gpu: Device, form: str, dtype: Any, transposed: bool) -> None:
    dense = draw(form, dtype)
    a, wide = make(gpu, form, dense), dense.astype(F64)
    m, k = SHAPE[::-1] if transposed else SHAPE
    for columns in gpu.few([1, 21, 130], 2):
        dy, b = integers((m, columns), dtype, 6), integers((k, columns), dtype, 7)
        y = dy.astype(F64)
        outer = y @ b.astype(F64).T
        dvalues, db, dbias = gossamer.spmm_backward(
            gpu.put(dy), a, gpu.put(b), transpose_a=transposed
        )
        same(gpu.get(dvalues), at_values(gpu, a, outer.T if transposed else outer))
        same(gpu.get(db), (wide if transposed else wide.T) @ y)
        same(gpu.get(dbias), y.sum(1))
    vector = gossamer.spmm_backward(
        gpu.put(np.ascontiguousarray(y[:, 0].astype(dtype))),
        a,
        None,
        transpose_a=transposed,
        needs=(False, True, True),
    )
    assert vector[0] is None
    same(gpu.get(vector[1]), (wide if transposed else wide.T) @ y[:, 0])
    same(gpu.get(vector[2]), y[:, 0])


def test_nothing_has_gradients_of_nothing(gpu: Device) -> None:
    w = make(gpu, "csr", draw("csr", F32))
    dy, x = gpu.put(np.zeros((0, 48), F32)), gpu.put(np.zeros((0, 96), F32))
    dx, dvalues, dbias = gossamer.linear_backward(dy, x, w)
    assert gpu.get(dx).shape == (0, 96)
    assert not gpu.get(dvalues).any()
    assert not gpu.get(dbias).any()


def test_checks_are_the_cpus(gpu: Device) -> None:
    w = make(gpu, "csr", draw("csr", F32))
    dy = gpu.put(np.ones((2, 48), F32))
    for x, message in (
        (np.ones((2, 96), F32), "linear_backward: x is on cpu, expected w's device cuda:0"),
        (gpu.put(np.ones((2, 95), F32)), "linear_backward: x.shape is (2, 95), expected (2, 96)"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            gossamer.linear_backward(dy, x, w)
