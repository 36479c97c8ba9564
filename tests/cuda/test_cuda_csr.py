"""CSR kernels on GPUs: every path, as chosen by width, alignment and length of rows."""

from __future__ import annotations

import math
from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from device import Device

WIDTHS = [0, 1, 2, 3, 4, 5, 8, 16, 17, 31, 32, 33, 64, 65, 128, 130]


def name(dtype: type) -> str:
    return np.dtype(dtype).name


def products(
    gpu: Device, a: gossamer.CSR, b: np.ndarray, c: np.ndarray
) -> dict[str, np.ndarray[Any, Any]]:
    """Return what each operation makes of a [M, K], b [K, N] and c [M, N]."""
    x = gpu.put(np.ascontiguousarray(b.T))
    b, c = gpu.put(b), gpu.put(c)
    return {
        "spmm": gpu.get(gossamer.spmm(a, b)),
        "linear": gpu.get(gossamer.linear(x, a)).T,
        "transposed": gpu.get(gossamer.spmm(a, c, transpose_a=True)),
        "sddmm": gpu.get(gossamer.sddmm(c, b, a)),
    }


def wanted(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> dict[str, np.ndarray[Any, Any]]:
    """Return the same by NumPy, rounded to a's type."""
    wide_a, wide_b, wide_c = (x.astype(np.float64) for x in (a, b, c))
    product = wide_a @ wide_b
    exact = {
        "spmm": product,
        "linear": product,
        "transposed": wide_a.T @ wide_c,
        "sddmm": (wide_c @ wide_b.T)[wide_a != 0],
    }
    return {key: value.astype(a.dtype) for key, value in exact.items()}


def assert_exact(gpu: Device, dense: np.ndarray, a: gossamer.CSR, n: int) -> None:
    b = oracle.random_dense((dense.shape[1], n), dense.dtype, seed=n, integers=True)
    c = oracle.random_dense((dense.shape[0], n), dense.dtype, seed=n + 1, integers=True)
    want = wanted(dense, b, c)
    for op, got in products(gpu, a, b, c).items():
        np.testing.assert_array_equal(got, want[op], err_msg=f"{op}, n = {n}")


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize(("shape", "density"), [((1, 1), 1.0), ((17, 33), 0.3), ((40, 70), 0.1)])
def test_every_width(gpu: Device, dtype: type, shape: tuple[int, int], density: float) -> None:
    dense = oracle.random_sparse(shape, density, dtype, seed=1, integers=True)
    a = gpu.csr(dense)
    for n in WIDTHS:
        assert_exact(gpu, dense, a, n)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("pad", [0, 1, 2, 4, 8])
def test_rows_that_begin_anywhere(gpu: Device, dtype: type, pad: int) -> None:
    """Vectors are as wide as the alignment allows; neighbouring columns are not written."""
    dense = oracle.random_sparse((20, 50), 0.3, dtype, seed=2, integers=True)
    a = gpu.csr(dense)
    for n in (1, 4, 8, 32, 65):
        wide = oracle.random_dense((50, n + 2 * pad), dtype, seed=3, integers=True)
        out = gpu.put(np.full((20, n + 2 * pad), 99, dtype))
        inner = slice(pad, pad + n)
        gossamer.spmm(a, gpu.put(wide)[:, inner], out=out[:, inner])
        got, want = gpu.get(out), dense.astype(float) @ wide[:, inner].astype(float)
        np.testing.assert_array_equal(got[:, inner], want.astype(dtype))
        assert (np.delete(got, np.arange(pad, pad + n), axis=1) == 99).all()

        x = oracle.random_dense((n, 50 + pad), dtype, seed=4, integers=True)
        out = gpu.put(np.full((n, 20 + 2 * pad), 99, dtype))
        gossamer.linear(gpu.put(x)[:, pad:], a, out=out[:, pad : pad + 20])
        got, want = gpu.get(out), x[:, pad:].astype(float) @ dense.astype(float).T
        np.testing.assert_array_equal(got[:, pad : pad + 20], want.astype(dtype))
        assert (np.delete(got, np.arange(pad, pad + 20), axis=1) == 99).all()


@pytest.mark.parametrize("offset", [1, 2, 3, 4])
def test_entries_that_begin_anywhere(gpu: Device, offset: int) -> None:
    dense = oracle.random_sparse((20, 50), 0.3, np.float16, seed=5, integers=True)
    host = gossamer.CSR.from_dense(dense)
    indices, values = (
        gpu.put(np.concatenate([np.zeros(offset, part.dtype), part]))[offset:]
        for part in (np.asarray(host.indices), np.asarray(host.values))
    )
    a = gossamer.CSR(gpu.put(np.asarray(host.indptr)), indices, values, host.shape)
    for n in (1, 3, 8, 40):
        assert_exact(gpu, dense, a, n)


@pytest.mark.parametrize("depth", [1, 7, 8, 31, 64, 100, 300])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_sddmm_of_any_depth(gpu: Device, dtype: type, depth: int) -> None:
    pattern = oracle.random_sparse((30, 60), 0.2, dtype, seed=6)
    a = oracle.random_dense((30, depth), dtype, seed=7)
    b = oracle.random_dense((60, depth), dtype, seed=8)
    kept = pattern != 0
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    want, magnitude = (wide_a @ wide_b.T)[kept], (np.abs(wide_a) @ np.abs(wide_b).T)[kept]
    got = gossamer.sddmm(gpu.put(a), gpu.put(b), gpu.csr(pattern))
    oracle.assert_close(gpu.get(got), want, magnitude, depth)


def skewed(dtype: type) -> np.ndarray:
    """Draw rows about as long as the chunks that long rows are cut into, and longer ones."""
    dense = np.zeros((100, 3500), dtype)
    rng = np.random.default_rng(9)
    for row, length in {3: 3500, 4: 1500, 10: 1025, 11: 1024, 12: 1023, 99: 2048}.items():
        dense[row, rng.choice(3500, length, replace=False)] = rng.integers(1, 3, length)
    dense[20:30, 7] = 2
    return dense


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=name)
@pytest.mark.parametrize("n", [1, 3, 8, 20])
def test_long_rows(gpu: Device, dtype: type, n: int) -> None:
    dense = skewed(dtype)
    assert_exact(gpu, dense, gpu.csr(dense), n)


@pytest.mark.parametrize("n", [1, 6, 40])
def test_epilogue_of_long_rows(gpu: Device, n: int) -> None:
    dense = skewed(np.float32)
    a = gpu.csr(dense)
    b = oracle.random_dense((3500, n), np.float32, seed=10, integers=True)
    before = oracle.random_dense((100, n), np.float32, seed=11, integers=True)
    bias = oracle.random_dense((100,), np.float32, seed=12, integers=True)
    want = np.maximum(dense @ b + bias[:, None] + before, 0)
    options = {"bias": gpu.put(bias), "activation": "relu", "accumulate": True}
    got = gossamer.spmm(a, gpu.put(b), out=gpu.put(before), **options)
    np.testing.assert_array_equal(gpu.get(got), want)
    x, out = (gpu.put(np.ascontiguousarray(part.T)) for part in (b, before))
    np.testing.assert_array_equal(gpu.get(gossamer.linear(x, a, out=out, **options)), want.T)


def test_more_activations_than_a_panel(gpu: Device) -> None:
    dense = oracle.random_sparse((5, 9), 0.5, np.float16, seed=13, integers=True)
    x = oracle.random_dense((1030, 9), np.float16, seed=14, integers=True)
    got = gossamer.linear(gpu.put(x), gpu.csr(dense))
    np.testing.assert_array_equal(gpu.get(got), x @ dense.T)


@pytest.mark.parametrize("shape", [(600, 90), (3, 700), (700, 3)])
def test_transposes_of_many_blocks(gpu: Device, shape: tuple[int, int]) -> None:
    dense = oracle.random_sparse(shape, 0.1, np.float32, seed=15)
    host, on_gpu = gossamer.CSR.from_dense(dense).transpose(), gpu.csr(dense).transpose()
    for want, got in zip(host, on_gpu, strict=True):
        if isinstance(want, gossamer.CSR):
            assert isinstance(got, gossamer.CSR)
            for part in ("indptr", "indices", "values"):
                np.testing.assert_array_equal(gpu.get(getattr(got, part)), getattr(want, part))
        else:
            np.testing.assert_array_equal(gpu.get(got), want)


def test_no_entries_and_no_rows(gpu: Device) -> None:
    for shape in [(0, 0), (0, 5), (5, 0), (5, 6)]:
        dense = np.zeros(shape, np.float32)
        for n in (1, 3, 20):
            assert_exact(gpu, dense, gpu.csr(dense), n)


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=name)
def test_the_order_of_threads_changes_no_bit(
    emulated: Device, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = np.where(skewed(dtype) != 0, oracle.random_dense((100, 3500), dtype, seed=16), 0)
    dense = dense.astype(dtype)
    a = emulated.csr(dense)
    for n in (1, 5, 8, 24):
        b = oracle.random_dense((3500, n), dtype, seed=17)
        c = oracle.random_dense((100, n), dtype, seed=18)
        seen = set()
        for seed in ("1", "2", "3"):
            monkeypatch.setenv("GOSSAMER_EMULATION_SEED", seed)
            seen.add(b"".join(r.tobytes() for r in products(emulated, a, b, c).values()))
        assert len(seen) == 1


def test_results_are_the_same_for_any_row_beside(gpu: Device) -> None:
    """A row's sums do not depend on where in the matrix it stands, for rows of one length."""
    row = oracle.random_dense((1, 200), np.float32, seed=19)
    dense = np.repeat(row, 37, axis=0)
    for n in (1, 4, 20):
        b = gpu.put(oracle.random_dense((200, n), np.float32, seed=20))
        got = gpu.get(gossamer.spmm(gpu.csr(dense), b))
        np.testing.assert_array_equal(got, np.repeat(got[:1], 37, axis=0))


def test_int64_indices_are_refused(gpu: Device) -> None:
    host = gossamer.CSR.from_dense(np.eye(3, dtype=np.float32))
    indptr, indices = (gpu.put(np.asarray(i).astype(np.int64)) for i in (host.indptr, host.indices))
    a = gossamer.CSR(indptr, indices, gpu.put(np.asarray(host.values)), (3, 3), index_dtype="int64")
    with pytest.raises(
        NotImplementedError, match=r"^spmm: a\.index_dtype is int64, expected int32 on a GPU$"
    ):
        gossamer.spmm(a, gpu.put(np.ones((3, 2), np.float32)))


def test_gelu_and_silu_keep_their_relative_accuracy(gpu: Device) -> None:
    a = gpu.csr(np.eye(3, dtype=np.float32))
    for value in (-12.0, -9.0, -1.0, 0.0, 1e-3, 9.0):
        x = gpu.put(np.full((20, 3), value, np.float32))
        for activation in ("gelu", "silu"):
            want = oracle.ACTIVATIONS[activation](np.array([value]))[0]
            got = gpu.get(gossamer.linear(x, a, activation=activation))
            rtol = (8 + value**2) * 2 * oracle.unit_roundoff(np.float32)
            assert np.all(np.abs(got - want) <= rtol * abs(want) + math.ldexp(1, -126))
