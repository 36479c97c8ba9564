"""Norms of groups on GPUs, and what is made of them, against the CPU's."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from device import Device
from gossamer import prune

pytestmark = pytest.mark.gpu

F32, F16, F64 = np.float32, np.float16, np.float64


def name(dtype: type) -> str:
    return np.dtype(dtype).name


def numbers(shape: tuple[int, ...], dtype: type, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def near(got: np.ndarray, want: np.ndarray) -> None:
    """Expect results that differ by the rounding of norms and factors at most."""
    assert got.dtype == want.dtype
    got, exact = got.astype(F64), want.astype(F64)
    step = oracle.unit_roundoff(want.dtype)
    most = np.max(np.abs(exact), where=np.isfinite(exact), initial=0)
    np.testing.assert_allclose(got, exact, rtol=4 * step, atol=32 * step * most)


#: Groups of rows of 48, 300 and 5000: for a thread, for a part of a warp, for a warp, for a block.
GROUPS: list[tuple[tuple[int, ...], Any]] = [
    *(((6, 48), per) for per in ("row", "column", 1, 2, 16)),
    *(((3, 300), per) for per in ("row", "column", 100)),
    ((2, 5000), "row"),
    ((70,), "row"),
    ((70, 40), "column"),
]


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize(("shape", "per"), GROUPS, ids=str)
def test_groups_are_shortened_as_on_the_cpu(
    gpu: Device, dtype: type, shape: tuple[int, ...], per: Any
) -> None:
    w = numbers(shape, dtype)
    w[..., :3] = 0
    size = float(np.sqrt(w.size / max(1, 3 if per == "row" else w.shape[-1])))
    for step in (0.0, 0.5, size):
        x = gpu.put(w)
        assert prune.group_soft_threshold_(x, step, per=per) is x
        near(gpu.get(x), prune.group_soft_threshold_(w.copy(), step, per=per))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize(("shape", "per"), GROUPS, ids=str)
def test_envelopes_are_the_cpus(gpu: Device, dtype: type, shape: tuple[int, ...], per: Any) -> None:
    w = np.abs(numbers(shape, dtype, 1)) + np.asarray(0.25, dtype)
    w[..., :3] = 0
    groups = {"row": w.size // w.shape[-1], "column": w.shape[-1]}.get(per) or w.size // per
    for k in (0.0, 1.0, 0.4 * groups, float(groups)):
        for lam in (0.0, 0.5):
            got = gpu.get(prune.sef_prox_(gpu.put(w), lam, k, per=per))
            near(got, prune.sef_prox_(w.copy(), lam, k, per=per))


def test_rows_may_be_strided_and_lie_anywhere(gpu: Device) -> None:
    whole = numbers((5, 41), F16)
    for first in (0, 1):
        for per in ("row", "column", 4):
            x = gpu.put(whole)
            prune.group_soft_threshold_(x[:, first : first + 32], 1.0, per=per)
            want = whole.copy()
            prune.group_soft_threshold_(want[:, first : first + 32], 1.0, per=per)
            near(gpu.get(x), want)


@pytest.mark.parametrize("size", [1e-300, 1e200])
@pytest.mark.parametrize("per", ["row", "column", 8])
def test_squares_beyond_float64_are_scaled(gpu: Device, size: float, per: Any) -> None:
    w = numbers((40, 24), F64) * size
    w[:, 3], w[:, 4] = 0, 1.5
    got = gpu.get(prune.group_soft_threshold_(gpu.put(w), 3 * size, per=per))
    near(got, prune.group_soft_threshold_(w.copy(), 3 * size, per=per))
    got = gpu.get(prune.sef_prox_(gpu.put(w), 0.5, 2.0, per=per))
    want = prune.sef_prox_(w.copy(), 0.5, 2.0, per=per)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15 * size)


def test_groups_with_infinities_and_nan(gpu: Device) -> None:
    for dtype in (F32, F64):
        w = numbers((4, 9), dtype)
        w[0, 2], w[1, 3], w[2, 4] = np.nan, np.inf, -np.inf
        for per in ("row", "column", 3):
            with np.errstate(all="ignore"):
                got = gpu.get(prune.group_soft_threshold_(gpu.put(w), 0.5, per=per))
                near(got, prune.group_soft_threshold_(w.copy(), 0.5, per=per))
            message = r"^sef_prox_: w holds NaN or infinity, expected neither$"
            x = gpu.put(w)
            with pytest.raises(ValueError, match=message):
                prune.sef_prox_(x, 0.5, 1.0, per=per)
            np.testing.assert_array_equal(gpu.get(x), w)


def test_many_groups_of_an_envelope_add_up_in_a_fixed_order(gpu: Device) -> None:
    for n in gpu.few([3_000, 70_000], 1):
        w, k = np.abs(numbers((n,), F32)) + F32(0.1), n / 3.5
        got = [gpu.get(prune.sef_prox_(gpu.put(w), 0.3, k, per=1)) for _ in range(2)]
        np.testing.assert_array_equal(got[0], got[1])
        want = prune.sef_prox_(w.copy(), 0.3, k, per=1)
        np.testing.assert_allclose(got[0], want, rtol=1e-6, atol=1e-9)


def test_no_groups_at_all(gpu: Device) -> None:
    for shape in ((0, 4), (4, 0), (0,)):
        for per in ("row", "column"):
            x = gpu.put(np.zeros(shape, F32))
            assert prune.group_soft_threshold_(x, 0.5, per=per) is x
            assert prune.sef_prox_(x, 0.5, 0.0, per=per) is x


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_polarization_is_the_cpus(gpu: Device, dtype: type) -> None:
    for n in (1, 33, 300):
        gamma = (np.arange(n) % 7 - 2).astype(dtype)
        want, slope = prune.polarization(gamma, t=1.25, alpha=0.5)
        value, grad = prune.polarization(gpu.put(gamma), t=1.25, alpha=0.5)
        assert value == pytest.approx(want, rel=1e-12)
        near(gpu.get(grad), slope)
    value, grad = prune.polarization(gpu.put(gamma[:0]))
    assert value == 0
    assert gpu.get(grad).shape == (0,)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_thresholds_of_channels_are_the_cpus_bits(gpu: Device, dtype: type) -> None:
    x, up = numbers((50, 37), dtype), numbers((64, 37), dtype, 2)
    up[:, 5] = 0
    u_sq = prune.ColumnStats().add(up).sumsq
    for k in (0, 1, 700, x.size):
        got = gpu.get(prune.channel_threshold(gpu.put(x), gpu.put(u_sq), k))
        want = prune.channel_threshold(x, u_sq, k)
        assert got.dtype == want.dtype == F32
        assert got.tobytes() == want.tobytes()
    out = gpu.put(np.zeros(37, F32))
    assert prune.channel_threshold(gpu.put(x), gpu.put(u_sq), 700, out=out) is out
    np.testing.assert_array_equal(gpu.get(out), prune.channel_threshold(x, u_sq, 700))
    assert prune.cats_threshold(gpu.put(x), 700) == prune.cats_threshold(x, 700)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (1100, 40), (0, 3), (3, 0)], ids=str)
def test_thresholds_of_neurons_are_the_cpus(
    gpu: Device, dtype: type, shape: tuple[int, int]
) -> None:
    # Small integers, whose squares add up exactly: the same bits.
    w = np.random.default_rng(3).integers(-9, 10, shape).astype(dtype)
    w[:, ::7] = 0
    got = gpu.get(prune.cett_threshold(gpu.put(w), 0.3))
    want = prune.cett_threshold(w, 0.3)
    assert got.dtype == want.dtype == F32
    assert got.tobytes() == want.tobytes()
    w = numbers(shape, dtype)
    got, want = gpu.get(prune.cett_threshold(gpu.put(w), 0.3)), prune.cett_threshold(w, 0.3)
    np.testing.assert_allclose(got, want, rtol=3e-7)


@pytest.mark.parametrize(
    ("dtype", "size"), [(F32, 1e-30), (F32, 1e25), (F64, 1e-200), (F64, 1e200), (F16, 1e-7)]
)
def test_thresholds_of_neurons_with_squares_beyond_their_sums(
    gpu: Device, dtype: type, size: float
) -> None:
    w = (numbers((30, 35), F64) * size).astype(dtype)
    w[:, 2], w[:, 3] = 0, 1
    w[4, 5] = np.inf
    w[4, 6] = np.nan
    with np.errstate(all="ignore"):
        got = gpu.get(prune.cett_threshold(gpu.put(w), size))
        np.testing.assert_allclose(got, prune.cett_threshold(w, size), rtol=3e-7)


def test_thresholds_say_what_is_wrong(gpu: Device) -> None:
    w = gpu.put(np.ones((3, 4), F32))
    message = r"^cett_threshold: out\.dtype is float64, expected a threshold"
    with pytest.raises(TypeError, match=message):
        prune.cett_threshold(w, 1.0, out=gpu.put(np.zeros(4)))
    with pytest.raises(ValueError, match=r"^group_soft_threshold_: per is 3, expected a divisor"):
        prune.group_soft_threshold_(w, 1.0, per=3)
    with pytest.raises(ValueError, match=r"^sef_prox_: k is 4\.0+, expected 0 to the number"):
        prune.sef_prox_(w, 1.0, 4.0)
