"""Operands that are out of line: each alone at an odd address, or with rows beyond 32 bits."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import gossamer
import numpy as np
import oracle
import pytest
from device import BF16, Device, EmulatedArray, emulated_empty

pytestmark = pytest.mark.gpu

F16, F32, F64 = np.float16, np.float32, np.float64
Arrays = dict[str, np.ndarray]


class Op(NamedTuple):
    """A call: its dense operands, the matrix's values, the call itself and what it should give."""

    dense: Arrays
    call: Callable[..., Any]
    want: np.ndarray


def integers(shape: tuple[int, ...], dtype: Any, seed: int) -> np.ndarray:
    return oracle.random_dense(shape, dtype, seed, integers=True)


def matrix(gpu: Device, form: str, dense: np.ndarray, shift: bool = False) -> Any:
    """Return a matrix on the device, its values at an odd address where `shift` says so."""

    def move(values: Any) -> Any:
        values = np.asarray(values)
        return flat(gpu, values) if shift else gpu.put(values)

    if ":" in form:
        n, m = map(int, form.split(":"))
        a = gossamer.NM.from_dense(dense, n, m)
        return gossamer.NM(move(a.values), gpu.put(np.asarray(a.indices)), a.shape, n, m)
    if not form.isdigit():
        c = gossamer.CSR.from_dense(dense)
        made = gossamer.CSR(gpu.put(c.indptr), gpu.put(c.indices), move(c.values), c.shape)
        return made if form == "csr" else gossamer.pack(made, n=72 if form == "lanes" else None)
    b = gossamer.BSR.from_dense(dense, int(form))
    return gossamer.BSR(gpu.put(b.indptr), gpu.put(b.indices), move(b.blocks), b.shape)


def flat(gpu: Device, array: np.ndarray) -> Any:
    """Return a contiguous array that begins one element behind an aligned address."""
    whole = np.zeros(array.size + 1, array.dtype)
    whole[1:] = array.reshape(-1)
    made = gpu.put(whole)
    if gpu.emulated:
        return EmulatedArray(made.view[1:].reshape(array.shape), made.owner)
    return made[1:].view(array.shape)


def weights(form: str, dtype: Any) -> np.ndarray:
    # Rows of 128 elements: those of 2:4 matrices, values and indices, are aligned to 16 bytes.
    values = oracle.random_dense((64, 128), dtype, 1, integers=True)
    rng = np.random.default_rng(2)
    if ":" in form:
        n, m = map(int, form.split(":"))
        return np.where(gossamer.prune.nm_mask(rng.random((64, 128)), n, m), values, 0)
    side = int(form) if form.isdigit() else 1
    kept = rng.random((64 // side, 128 // side)) < (0.1 if form == "deltas" else 0.6)
    return np.where(np.kron(kept, np.ones((side, side))) != 0, values, np.zeros((), dtype))


CASES = [
    *((op, form, dtype) for op in ("spmm", "linear") for form, dtype in (
        ("csr", F32), ("csr", F16), ("16", F16), ("32", BF16),
        ("2:4", F16), ("2:4", F32), ("3:8", F16), ("1:2", F16), ("1:4", BF16),
        ("2:32", F16), ("bitmap", F16), ("bitmap", F32), ("deltas", BF16))),
    *(("spmm-t", form, dtype) for form, dtype in (("csr", F32), ("32", F16), ("16", BF16))),
    *(("sddmm", form, dtype) for form, dtype in (("csr", F32), ("csr", F16), ("32", F16))),
    ("linear-5", "2:4", F16), ("spmm-72", "bitmap", F16), ("linear-72", "deltas", BF16),
    ("linear-72", "bitmap", F32),
    ("spmm-136", "64", F16), ("linear-136", "64", BF16),
]  # fmt: skip


def operation(op: str, dense: np.ndarray) -> Op:
    dtype, (m, k), n = dense.dtype, dense.shape, 24
    wide = dense.astype(F64)
    if op.partition("-")[2].isdigit():
        op, _, width = op.partition("-")
        n = int(width)
    if op == "spmm":
        b = integers((k, n), dtype, 3)
        return Op({"b": b}, gossamer.spmm, wide @ b.astype(F64))
    if op == "spmm-t":
        b = integers((m, n), dtype, 3)
        call = lambda a, b, **o: gossamer.spmm(a, b, transpose_a=True, **o)  # noqa: E731
        return Op({"b": b}, call, wide.T @ b.astype(F64))
    if op == "linear":
        x = integers((n, k), dtype, 3)
        return Op({"x": x}, lambda a, x, **o: gossamer.linear(x, a, **o), x.astype(F64) @ wide.T)
    a, b = integers((m, 40), dtype, 3), integers((k, 40), dtype, 4)
    call = lambda p, a, b, **o: gossamer.sddmm(a, b, p, **o)  # noqa: E731
    return Op({"a": a, "b": b}, call, a.astype(F64) @ b.astype(F64).T)


def at_pattern(gpu: Device, pattern: Any, got: Any) -> np.ndarray:
    """Return the sampled products as a dense matrix."""
    return np.asarray(gpu.get(pattern.with_values(got).to_dense()), F64)


def compare(gpu: Device, op: str, a: Any, got: Any, want: np.ndarray) -> None:
    if op != "sddmm":
        np.testing.assert_array_equal(gpu.get(got).astype(F64), want)
        return
    given = a.blocks if isinstance(a, gossamer.BSR) else a.values
    ones = gpu.put(np.ones(gpu.get(given).shape, gpu.get(given).dtype))
    kept = at_pattern(gpu, a, ones) != 0
    np.testing.assert_array_equal(at_pattern(gpu, a, got), np.where(kept, want, 0))


def crooked(gpu: Device, array: np.ndarray) -> Any:
    """Return a matrix whose rows begin at odd addresses, of which none is aligned."""
    whole = np.zeros((array.shape[0], array.shape[1] + 3), array.dtype)
    whole[:, 1:-2] = array
    return gpu.put(whole)[:, 1:-2]


@pytest.mark.parametrize(("op", "form", "dtype"), CASES, ids=str)
def test_each_operand_alone_may_be_out_of_line(gpu: Device, op: str, form: str, dtype: Any) -> None:
    dense = weights(form, dtype).astype(dtype)
    made = operation(op, dense)
    straight = matrix(gpu, form, dense)
    operands = {name: gpu.put(x) for name, x in made.dense.items()}
    for name, x in made.dense.items():
        got = made.call(straight, **{**operands, name: crooked(gpu, x)})
        compare(gpu, op, straight, got, made.want)
    shifted = matrix(gpu, form, dense, shift=True)
    compare(gpu, op, shifted, made.call(shifted, **operands), made.want)
    if op == "sddmm":
        return
    out = crooked(gpu, np.zeros(made.want.shape, dtype))
    made.call(straight, **operands, out=out)
    np.testing.assert_array_equal(gpu.get(out).astype(F64), made.want)


# AddressSanitizer marks an eighth of what is freed, of 100 GB and more.
not_sanitized = pytest.mark.skipif(
    "GOSSAMER_SANITIZE" in os.environ, reason="needs memory of its own"
)


def far(array: np.ndarray) -> Any:
    """Return a matrix of which the eighth row from any begins 2**31 elements further on."""
    rows, columns = array.shape
    stride = (2**31 // min(rows - 1, 7) + 64) // 8 * 8
    whole = emulated_empty((stride * (rows - 1) + columns,), array.dtype)
    strides = (stride * array.itemsize, array.itemsize)
    view = np.lib.stride_tricks.as_strided(whole.view, array.shape, strides)
    view[...] = array
    return EmulatedArray(view, whole.owner)


@not_sanitized
@pytest.mark.parametrize(("op", "form", "dtype"), CASES, ids=str)
def test_rows_may_lie_beyond_32_bits(emulated: Device, op: str, form: str, dtype: Any) -> None:
    dense = weights(form, dtype).astype(dtype)
    made = operation(op, dense)
    a = matrix(emulated, form, dense)
    operands = {name: emulated.put(x) for name, x in made.dense.items()}
    for name, x in made.dense.items():
        got = made.call(a, **{**operands, name: far(x)})
        compare(emulated, op, a, got, made.want)
    if op == "sddmm":
        return
    out = far(np.zeros(made.want.shape, dtype))
    made.call(a, **operands, out=out)
    np.testing.assert_array_equal(out.view.astype(F64), made.want)


@not_sanitized
@pytest.mark.parametrize("dtype", [F16, F32])
def test_blocks_may_lie_beyond_32_bits(emulated: Device, dtype: Any) -> None:
    """Only the last block belongs to a row: structure on a GPU is trusted."""
    count = 2**31 // 1024 + 3
    blocks = emulated_empty((count, 32, 32), dtype)
    blocks.view[-1] = integers((32, 32), dtype, 1)
    indptr, indices = np.array([count - 1, count], np.int32), np.zeros(count, np.int32)
    a = gossamer.BSR(emulated.put(indptr), emulated.put(indices), blocks, (32, 32))
    b = integers((32, 24), dtype, 2)
    want = blocks.view[-1].astype(F64) @ b.astype(F64)
    np.testing.assert_array_equal(emulated.get(gossamer.spmm(a, emulated.put(b))), want)


@not_sanitized
@pytest.mark.parametrize("form", ["csr", "16", "2:4"])
def test_conversions_reach_beyond_32_bits(emulated: Device, form: str) -> None:
    dense = weights(form, F32).astype(F32)
    a = matrix(emulated, form, dense)
    out = far(np.zeros(dense.shape, F32))
    a.to_dense(out=out)
    np.testing.assert_array_equal(out.view, dense)
    if ":" in form:
        back: Any = gossamer.NM.from_dense(out, 2, 4)
    else:
        csr = form == "csr"
        back = gossamer.CSR.from_dense(out) if csr else gossamer.BSR.from_dense(out, int(form))
    np.testing.assert_array_equal(emulated.get(back.to_dense()), dense)
