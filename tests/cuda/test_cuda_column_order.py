"""The search of column orders on GPUs finds what it finds on the CPU, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device import BF16, Device
from gossamer import prune

pytestmark = pytest.mark.gpu

F16, F32, F64 = np.float16, np.float32, np.float64


def compare(gpu: Device, w: np.ndarray, n: int, m: int, **options: Any) -> None:
    order, kept = prune.permutation_search(w, n, m, **options)
    there, also = prune.permutation_search(gpu.put(w), n, m, **options)
    np.testing.assert_array_equal(gpu.get(there), order)
    np.testing.assert_equal(also, kept)


def draw(rows: int, cols: int, dtype: Any = F32, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "keep", "method", "escapes"),
    [
        ((40, 32), (2, 4), "swap", 3),
        ((300, 24), (2, 4), "stripe8", 2),
        ((17, 16), (1, 4), "stripe12", 1),
        ((530, 12), (3, 4), "stripe12", 0),
        ((20, 30), (3, 5), "swap", 2),
        ((9, 18), (1, 2), "swap", 2),
        ((5, 128), (20, 64), "swap", 1),
    ],
    ids=str,
)
def test_orders_are_the_cpus(
    gpu: Device, shape: tuple[int, int], keep: tuple[int, int], method: Any, escapes: int
) -> None:
    """Of fewer rows than are added at once, and of several times these."""
    for seed in gpu.few([1, 2], 1):
        compare(gpu, draw(*shape), *keep, method=method, escapes=escapes, seed=seed)


@pytest.mark.parametrize("dtype", [F16, BF16, F64], ids=str)
def test_weights_of_every_type(gpu: Device, dtype: Any) -> None:
    compare(gpu, draw(37, 16, dtype), 2, 4, method="stripe8", escapes=1)


def test_columns_are_searched_in_parts(gpu: Device) -> None:
    compare(gpu, draw(2, 520), 4, 8, escapes=0)


def test_scores(gpu: Device) -> None:
    w, col = draw(20, 16), np.abs(draw(1, 16)[0])
    order, kept = prune.permutation_search(prune.score(w, kind="wanda", col=col), 2, 4, escapes=1)
    score = prune.score(gpu.put(w), kind="wanda", col=gpu.put(col))
    there, also = prune.permutation_search(score, 2, 4, escapes=1)
    np.testing.assert_array_equal(gpu.get(there), order)
    assert also == kept


@pytest.mark.parametrize("scale", [1e-35, 1e35, 1.0], ids=str)
def test_scores_of_any_size(gpu: Device, scale: float) -> None:
    w = draw(20, 16) * F32(scale)
    w[3, 5], w[4, 6] = np.nan, 0
    compare(gpu, w, 2, 4, escapes=2)
    w[7, 9] = np.inf
    compare(gpu, w, 2, 4, escapes=2)


@pytest.mark.parametrize(
    ("shape", "n", "m"),
    [
        ((0, 8), 2, 4),
        ((3, 0), 2, 4),
        ((3, 8), 0, 4),
        ((3, 8), 4, 4),
        ((3, 8), 1, 1),
        ((1, 4), 2, 4),
    ],
    ids=str,
)
def test_what_leaves_no_choice(gpu: Device, shape: tuple[int, int], n: int, m: int) -> None:
    compare(gpu, draw(*shape), n, m)


def test_bad_calls(gpu: Device) -> None:
    w = gpu.put(draw(4, 6))
    with pytest.raises(
        ValueError, match=r"^permutation_search: w.shape\[1\] is 6, expected a mult"
    ):
        prune.permutation_search(w, 2, 4)
    out = np.zeros(6, np.int32)
    with pytest.raises(
        ValueError, match=r"^permutation_search: out is on cpu, expected w's device"
    ):
        prune.permutation_search(w, 1, 2, out=out)


def test_out_takes_the_order(gpu: Device) -> None:
    w = draw(12, 16)
    out = gpu.put(np.zeros(16, np.int32))
    found, _ = prune.permutation_search(gpu.put(w), 2, 4, escapes=1, out=out)
    assert found is out
    np.testing.assert_array_equal(gpu.get(out), prune.permutation_search(w, 2, 4, escapes=1)[0])
