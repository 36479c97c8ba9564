"""Layers with sparse activations on GPUs, against dense float64 NumPy and the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
from device import Device
from gossamer import (
    DeltaState,
    delta_linear,
    gated_mlp,
    gather_decode,
    gather_decode_backward,
    sparse_linear,
    topk_rows_backward,
)

pytestmark = pytest.mark.gpu

F32 = np.float32
#: (K, M): one, widths ± 1, more channels than one round of the thread block, aligned rows.
SHAPES = [(40, 64), (1, 1), (1100, 33), (17, 130), (300, 8)]


def name(dtype: type) -> str:
    return np.dtype(dtype).name


def wide(a: Any) -> np.ndarray:
    return np.asarray(a).astype(np.float64)


def passing(v: np.ndarray, threshold: Any) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (~(np.abs(v) < threshold)).any(0)


def call(gpu: Device, op: Callable[..., Any], *operands: np.ndarray, **options: Any) -> np.ndarray:
    moved = {k: gpu.put(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    return gpu.get(op(*map(gpu.put, operands), **moved))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("per_channel", [False, True])
def test_sparse_linear_of_integers_is_exact(gpu: Device, dtype: type, per_channel: bool) -> None:
    for k, m in gpu.few(SHAPES, 4):
        wt = oracle.random_dense((k, m), dtype, 1, integers=True)
        limit: Any = np.arange(k, dtype=F32) % 5 if per_channel else 2
        for tokens in (1, 3, 6):
            x = oracle.random_dense((tokens, k), dtype, tokens, integers=True)
            poisoned = np.where(passing(wide(x), limit)[:, None], wt, np.array(np.nan, dtype))
            want = (wide(x) * passing(wide(x), limit)) @ wide(wt)
            got = call(gpu, sparse_linear, x, poisoned, threshold=limit)
            np.testing.assert_array_equal(got, want.astype(dtype))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_thresholds_may_have_the_operands_type(gpu: Device, dtype: type) -> None:
    x, wt = np.array([[1, 2, 3, -4]], dtype), np.eye(4, dtype=dtype)
    got = call(gpu, sparse_linear, x, wt, threshold=np.array([1, 3, 4, 4], dtype))
    assert wide(got).tolist() == [[1, 0, 0, -4]]


@pytest.mark.parametrize("activation", oracle.ACTIVATIONS, ids=str)
def test_sparse_linear_ends_with_bias_and_activation(gpu: Device, activation: Any) -> None:
    x, wt, bias = (oracle.random_dense(s, F32, 1) for s in ((2, 30), (30, 70), (70,)))
    before = oracle.random_dense((2, 70), F32, 2)
    sums = (wide(x) * passing(wide(x), 0.5)) @ wide(wt) + wide(bias) + wide(before)
    out = gpu.put(before)
    options: dict[str, Any] = {"bias": gpu.put(bias), "activation": activation}
    sparse_linear(gpu.put(x), gpu.put(wt), threshold=0.5, accumulate=True, out=out, **options)
    np.testing.assert_allclose(gpu.get(out), oracle.ACTIVATIONS[activation](sums), atol=1e-4)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("per_channel", [False, True])
def test_gated_mlp_of_integers_is_exact(gpu: Device, dtype: type, per_channel: bool) -> None:
    for h, d in gpu.few([(40, 64), (1, 1), (70, 33), (1030, 8)], 4):
        rng = np.random.default_rng(h)
        gate, up, down = (rng.integers(-1, 2, (h, d)).astype(dtype) for _ in range(3))
        limit: Any = np.arange(h, dtype=F32) % 3 if per_channel else 2
        for tokens in (1, 3):
            x = (rng.integers(-1, 2, (tokens, d)) * (rng.random((tokens, d)) < 0.3)).astype(dtype)
            a = np.maximum(wide(x) @ wide(gate).T, 0)
            kept = passing(a, limit)
            want = (a * kept * (wide(x) @ wide(up).T)) @ wide(down)
            if np.abs(want).max(initial=0) >= 2 / oracle.unit_roundoff(dtype):
                continue  # larger than the type holds exactly
            nan = np.array(np.nan, dtype)
            poisoned = [np.where(kept[:, None], w, nan) for w in (up, down)]
            options = {"threshold": limit, "activation": "relu"}
            got = call(gpu, gated_mlp, x, gate, *poisoned, **options)
            np.testing.assert_array_equal(got, want.astype(dtype))


@pytest.mark.parametrize("dtype", [F32, np.float16], ids=name)
def test_gated_mlp_is_near_the_cpus(gpu: Device, dtype: type) -> None:
    x, gate, up, down = (
        (oracle.random_dense(s, np.float64, i) / 4).astype(dtype)
        for i, s in enumerate([(2, 24), (50, 24), (50, 24), (50, 24)])
    )
    got = call(gpu, gated_mlp, x, gate, up, down, threshold=0.1)
    want = gated_mlp(x, gate, up, down, threshold=0.1)
    np.testing.assert_allclose(wide(got), wide(want), atol=2e-3 if dtype == np.float16 else 1e-5)


def test_nan_passes(gpu: Device) -> None:
    x, w = np.array([[1, np.nan]], F32), np.ones((2, 3), F32)
    assert np.isnan(call(gpu, sparse_linear, x, w, threshold=np.inf)).all()
    w = np.ones((3, 2), F32)
    assert np.isnan(call(gpu, gated_mlp, x, w, w, w, threshold=np.inf)).all()


def test_strided_rows_that_are_not_aligned(gpu: Device) -> None:
    if not gpu.emulated:
        pytest.skip("slices of emulated arrays")
    whole = oracle.random_dense((20, 45), np.float16, 1, integers=True)
    x = oracle.random_dense((2, 20), np.float16, 2, integers=True)
    wt = gpu.put(whole)[:, 3:40]
    got = gpu.get(sparse_linear(gpu.put(x), wt, threshold=2))
    want = (wide(x) * passing(wide(x), 2)) @ wide(whole[:, 3:40])
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty_operands(gpu: Device, shape: tuple[int, int, int]) -> None:
    tokens, k, m = shape
    x, w = np.ones((tokens, k), F32), np.ones((k, m), F32)
    np.testing.assert_array_equal(
        call(gpu, sparse_linear, x, w, threshold=0), np.full((tokens, m), k)
    )
    w = np.ones((m, k), F32)
    got = call(gpu, gated_mlp, x, w, w, w, threshold=0, activation="relu")
    np.testing.assert_array_equal(got, np.full((tokens, k), m * k * k))


def test_layers_check_their_operands_as_on_the_cpu(gpu: Device) -> None:
    x, wt = gpu.put(np.ones((2, 3), F32)), gpu.put(np.ones((4, 4), F32))
    message = r"^sparse_linear: x.shape\[1\] is 3, expected wt.shape\[0\] = 4$"
    with pytest.raises(ValueError, match=message):
        sparse_linear(x, wt, threshold=1)
    with pytest.raises(
        ValueError, match=r"^sparse_linear: threshold is on cpu, expected x's device"
    ):
        sparse_linear(x, wt, threshold=np.ones(4, F32))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("per_channel", [False, True])
def test_streams_of_integers_are_exact(gpu: Device, dtype: type, per_channel: bool) -> None:
    for tokens, k, m in gpu.few([(1, 33, 5), (3, 1030, 70), (2, 1, 1)], 2):
        rng = np.random.default_rng(k)
        wt = oracle.random_dense((k, m), dtype, 1, integers=True)
        limit: Any = np.arange(k, dtype=F32) % 3 if per_channel else 2
        state, x, last = DeltaState(), np.zeros((tokens, k)), np.zeros((tokens, k))
        there = gpu.put(wt)
        for _ in range(3):
            x = x + rng.integers(-2, 3, x.shape) * (rng.random(x.shape) < 0.1)
            sent = passing(x - last, limit)
            last = np.where(sent, x, last)
            moved = gpu.put(limit) if per_channel else limit
            got = delta_linear(gpu.put(x.astype(dtype)), there, state, threshold=moved)
            np.testing.assert_array_equal(gpu.get(got), (last @ wide(wt)).astype(dtype))
            np.testing.assert_array_equal(gpu.get(state.last), last)
            np.testing.assert_array_equal(gpu.get(state.sums), last @ wide(wt))
            assert int(gpu.get(state.sent)) == sent.sum()


def test_a_stream_refreshes_when_asked_and_after_what_is_not_finite(gpu: Device) -> None:
    x, wt = oracle.random_dense((2, 40), F32, 1), oracle.random_dense((40, 30), F32, 2)
    bias = gpu.put(oracle.random_dense((30,), F32, 3))
    state, there = DeltaState(), gpu.put(wt)
    options: Any = {"bias": bias, "activation": "gelu"}
    first = gpu.get(delta_linear(gpu.put(x), there, state, threshold=0.5, **options))
    want = gpu.get(sparse_linear(gpu.put(x), there, threshold=0.5, **options))
    np.testing.assert_array_equal(first, want)
    for bad in (np.nan, np.inf):
        odd = x.copy()
        odd[0, 3] = bad
        got = gpu.get(delta_linear(gpu.put(odd), there, state, threshold=0))
        assert not np.isfinite(got[0]).any()
        assert np.isfinite(got[1]).all()
        got = gpu.get(delta_linear(gpu.put(x), there, state, threshold=0))
        np.testing.assert_array_equal(got, gpu.get(sparse_linear(gpu.put(x), there, threshold=0)))
    delta_linear(gpu.put(x + F32(0.3)), there, state, threshold=0)
    again = gpu.get(delta_linear(gpu.put(x), there, state, threshold=0, refresh=True))
    np.testing.assert_array_equal(again, gpu.get(sparse_linear(gpu.put(x), there, threshold=0)))


def test_streams_of_nothing_and_of_another_device(gpu: Device) -> None:
    for tokens, k, m in ((0, 3, 2), (2, 0, 3), (2, 3, 0)):
        state, x = DeltaState(), np.ones((tokens, k), F32)
        got = delta_linear(gpu.put(x), gpu.put(np.ones((k, m), F32)), state, threshold=0)
        np.testing.assert_array_equal(gpu.get(got), np.full((tokens, m), k))
        np.testing.assert_array_equal(gpu.get(state.last), x)
    state = DeltaState()
    delta_linear(np.ones((1, 3), F32), np.ones((3, 2), F32), state, threshold=0)
    message = "^delta_linear: state.last is on cpu, expected x's device cuda:0$"
    with pytest.raises(ValueError, match=message):
        delta_linear(
            gpu.put(np.ones((1, 3), F32)), gpu.put(np.ones((3, 2), F32)), state, threshold=0
        )
    assert state.sums.tolist() == [[3, 3]]


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_decoding_integers_is_exact(gpu: Device, dtype: type, index: type) -> None:
    shapes = [(3, 40, 70, 33), (1, 7, 9, 520), (1, 1, 1, 1), (20, 5, 4, 16)]
    for tokens, k, h, d in gpu.few(shapes, 4):
        rng = np.random.default_rng(tokens)
        indices = rng.integers(0, h, (tokens, k)).astype(index)
        values, table, dy, bias = (
            rng.integers(-1, 2, s).astype(dtype) for s in ((tokens, k), (h, d), (tokens, d), (d,))
        )
        want = np.einsum("tk,tkd->td", wide(values), wide(table)[indices])
        got = call(gpu, gather_decode, indices, values, table, bias=bias)
        np.testing.assert_array_equal(got, (want + wide(bias)).astype(dtype))
        dvalues = np.einsum("td,tkd->tk", wide(dy), wide(table)[indices])
        dtable = np.zeros((h, d))
        np.add.at(dtable, indices, wide(values)[..., None] * wide(dy)[:, None])
        parts = gather_decode_backward(*map(gpu.put, (dy, indices, values, table)))
        for part, expected in zip(parts, (dvalues, dtable), strict=True):
            np.testing.assert_array_equal(gpu.get(part), expected.astype(dtype))


def test_indices_out_of_range_are_nan_on_a_gpu(gpu: Device) -> None:
    indices, values = np.array([[0, 2], [1, 3], [-1, 0]], np.int64), np.ones((3, 2), F32)
    table, dy = np.ones((3, 5), F32), np.ones((3, 5), F32)
    got = call(gpu, gather_decode, indices, values, table)
    np.testing.assert_array_equal(got, [[2] * 5, [np.nan] * 5, [np.nan] * 5])
    dvalues, dtable = gather_decode_backward(*map(gpu.put, (dy, indices, values, table)))
    np.testing.assert_array_equal(gpu.get(dvalues), [[5, 5], [5, np.nan], [np.nan, 5]])
    np.testing.assert_array_equal(gpu.get(dtable), [[2] * 5, [1] * 5, [1] * 5])
    got = gpu.get(topk_rows_backward(gpu.put(values), gpu.put(indices), 3))
    np.testing.assert_array_equal(got, [[1, 0, 1], [np.nan] * 3, [np.nan] * 3])
    assert np.isnan(call(gpu, gather_decode, indices[:1], values[:1], table[:0])).all()


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_gradients_of_lists_are_scattered(gpu: Device, dtype: type) -> None:
    values = oracle.random_dense((3, 300), dtype, 1)
    indices = np.stack([np.random.default_rng(t).permutation(600)[:300] for t in range(3)])
    want = np.zeros((3, 600), dtype)
    np.put_along_axis(want, indices, values, 1)
    got = gpu.get(topk_rows_backward(gpu.put(values), gpu.put(indices), 600))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 0, 0, 4), (2, 2, 3, 0)])
def test_decoding_nothing(gpu: Device, shape: tuple[int, int, int, int]) -> None:
    tokens, k, h, d = shape
    indices, values = np.zeros((tokens, k), np.int32), np.ones((tokens, k), F32)
    table, dy = np.ones((h, d), F32), np.ones((tokens, d), F32)
    got = call(gpu, gather_decode, indices, values, table)
    np.testing.assert_array_equal(got, np.full((tokens, d), k))
    parts = gather_decode_backward(*map(gpu.put, (dy, indices, values, table)))
    np.testing.assert_array_equal(gpu.get(parts[0]), np.full((tokens, k), d))
    assert gpu.get(parts[1]).sum() == tokens * k * d
    assert not gpu.get(topk_rows_backward(gpu.put(values), gpu.put(indices), h)).any() or k > 0
