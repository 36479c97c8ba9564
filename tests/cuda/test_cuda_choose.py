"""Choosing blocks of keys on GPUs: the CPU's pooled keys and choices, where scores are exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from device import BF16, Device, EmulatedArray
from gossamer import block_pool, block_topk

pytestmark = pytest.mark.gpu

F32, F16, I32 = np.dtype("f4"), np.dtype("f2"), np.dtype("i4")
DTYPES = [F32, F16, BF16]


def name(dtype: Any) -> str:
    return np.dtype(dtype).name


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize(("length", "block"), [(1, 1), (70, 8), (64, 64), (50, 40), (0, 4)])
def test_pooled_keys_have_the_cpus_bits(gpu: Device, length: int, block: int, dtype: Any) -> None:
    x = np.random.default_rng(2).standard_normal((2, length, 3, 20)).astype(dtype)
    if length > 60:
        x[0, 3:5, 1] = np.nan  # not the first of its block
        x[1, 40, 2] = np.inf
        x[1, 8:16, 1] = 6e4 if dtype == F16 else 3e38  # their sum may be beyond float32
    for mode in ("mean", "max", "min"):
        got = gpu.get(block_pool(gpu.put(x), block, mode=mode))
        want = block_pool(x, block, mode=mode)
        assert got.dtype == F32
        np.testing.assert_array_equal(got, want)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"causal": True, "rows": 4, "block": 8},
    {"causal": True, "block": 3, "q_offset": 40, "keep_first": 2, "keep_local": 3},
    {"causal": True, "block": 5, "q_offset": -20, "keep_local": 1},
    {"block": 2, "keep_first": 9, "keep_local": 2},
]


@pytest.mark.parametrize(
    ("options", "dtype"), [*zip(OPTIONS, [*DTYPES, F32, F16], strict=True)], ids=str
)
def test_choices_are_the_cpus(gpu: Device, options: dict[str, Any], dtype: Any) -> None:
    """Small integers: scores without rounding, and many of them equal."""
    rng = np.random.default_rng(3)
    q = rng.integers(-2, 3, (2, 19, 4, 40)).astype(dtype)
    pooled = rng.integers(-2, 3, (2, 150, 2, 40)).astype(F32)
    pooled[0, 5] = np.nan
    pooled[0, 7:9, :, 0] = np.inf, -np.inf
    for k in (1, 7, 160):
        got = gpu.get(block_topk(gpu.put(q), gpu.put(pooled), k, **options))
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(got, block_topk(q, pooled, k, **options))


def test_choices_by_bounds_are_the_cpus(gpu: Device) -> None:
    rng = np.random.default_rng(4)
    q = rng.integers(-2, 3, (1, 20, 4, 33)).astype(F16)
    low = rng.integers(-3, 1, (1, 30, 2, 33)).astype(BF16)
    high = low.astype(F32) + rng.integers(0, 4, low.shape).astype(F32)
    got = block_topk(gpu.put(q), gpu.put(high), 5, pooled_min=gpu.put(low))
    np.testing.assert_array_equal(gpu.get(got), block_topk(q, high, 5, pooled_min=low))


def test_scores_that_shared_memory_has_no_room_for(gpu: Device) -> None:
    rng = np.random.default_rng(5)
    q = rng.integers(-2, 3, (1, 18, 1, 8)).astype(F32)
    pooled = rng.integers(-2, 3, (1, 1400, 1, 8)).astype(F32)
    got = block_topk(gpu.put(q), gpu.put(pooled), 20, causal=True, block=1, q_offset=1380)
    want = block_topk(q, pooled, 20, causal=True, block=1, q_offset=1380)
    np.testing.assert_array_equal(gpu.get(got), want)


def test_thread_blocks_that_take_several_tiles(gpu: Device) -> None:
    """280 tiles, and scores that shared memory has no room for: 264 thread blocks."""
    rng = np.random.default_rng(8)
    q = rng.integers(-2, 3, (1, 1, 280, 1)).astype(F32)
    pooled = rng.integers(-2, 3, (1, 1300, 280, 1)).astype(F32)
    options: Any = {"causal": True, "q_offset": 99}  # of the 1300, the first 100 may be chosen
    got = block_topk(gpu.put(q), gpu.put(pooled), 20, **options)
    np.testing.assert_array_equal(gpu.get(got), block_topk(q, pooled, 20, **options))


def test_real_numbers_choose_what_float64_does(gpu: Device) -> None:
    rng = np.random.default_rng(6)
    q = rng.standard_normal((1, 16, 2, 64)).astype(F32)
    keys = rng.standard_normal((1, 400, 1, 64)).astype(F32)
    pooled = block_pool(gpu.put(keys), 4)
    got = gpu.get(block_topk(gpu.put(q), pooled, 9))
    means = keys.astype(np.float64).reshape(100, 4, 64).mean(1)
    scores = q[0].astype(np.float64).sum(1) @ means.T
    ranks = np.sort(np.argsort(-scores, 1)[:, :9], 1)
    np.testing.assert_array_equal(got[0, :, 0], ranks)


def test_strided_operands_and_results(gpu: Device) -> None:
    if not gpu.emulated:
        pytest.skip("slices of emulated arrays")
    rng = np.random.default_rng(7)
    x = rng.integers(-4, 5, (2, 30, 6, 24)).astype(F16)
    there, out = gpu.put(x), gpu.put(np.full((2, 8, 4, 16), 7, F32))
    cut = (slice(None), slice(1, 29), slice(1, 5, 2), slice(3, 19))
    assert isinstance(there, EmulatedArray)
    part = out[:, :, ::2]
    assert block_pool(there[cut], 4, out=out[:, :7, ::2]) is not None
    want = block_pool(np.ascontiguousarray(x[cut]), 4)
    np.testing.assert_array_equal(gpu.get(part)[:, :7], want)
    assert (gpu.get(out)[:, 7] == 7).all()
    assert (gpu.get(out)[:, :, 1::2] == 7).all()
    chosen = block_topk(there[cut], gpu.put(want), 3, causal=True, block=4)
    same = block_topk(np.ascontiguousarray(x[cut]), want, 3, causal=True, block=4)
    np.testing.assert_array_equal(gpu.get(chosen), same)


def test_nothing_to_choose(gpu: Device) -> None:
    q, none = gpu.put(np.ones((1, 3, 2, 8), F32)), gpu.put(np.ones((1, 0, 2, 8), F32))
    assert (gpu.get(block_topk(q, none, 2)) == -1).all()
    assert gpu.get(block_topk(q, q, 0)).shape == (1, 3, 2, 0)


X = np.zeros((1, 4, 2, 8), F32)
BAD: list[tuple[Callable[[Any], object], type[Exception], str]] = [
    (
        lambda put: block_pool(put(X), 0),
        ValueError,
        "block_pool: block is 0, expected 1 to 2147483647",
    ),
    (
        lambda put: block_pool(put(X), 2, mode="sum"),
        ValueError,
        "block_pool: mode is 'sum', expected 'mean', 'max' or 'min'",
    ),
    (
        lambda put: block_pool(put(X), 2, out=X[:, :2]),
        ValueError,
        "block_pool: out is on cpu, expected x's device cuda:0",
    ),
    (
        lambda put: block_topk(put(X), put(X[..., :4]), 1),
        ValueError,
        "block_topk: pooled.shape[3] is 4, expected q.shape[3] = 8",
    ),
    (
        lambda put: block_topk(put(X), put(X), -1),
        ValueError,
        "block_topk: k is -1, expected 0 to 2147483647",
    ),
    (
        lambda put: block_topk(put(X), X, 1),
        ValueError,
        "block_topk: pooled is on cpu, expected q's device cuda:0",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(
    gpu: Device, call: Callable[[Any], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        call(gpu.put)
    assert str(caught.value) == message
