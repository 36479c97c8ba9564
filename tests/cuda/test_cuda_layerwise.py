"""Statistics of columns, SparseGPT and DSnoT on GPUs, against the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from device import Device
from gossamer import prune

pytestmark = pytest.mark.gpu

F32, F16, F64 = np.float32, np.float16, np.float64
FIELDS = ("sum", "sumsq", "mean", "var")


def name(dtype: type) -> str:
    return np.dtype(dtype).name


# Statistics of columns.


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("shape", [(1, 1), (65, 33), (2100, 3), (2, 40, 31)], ids=str)
def test_statistics_are_the_cpus(gpu: Device, shape: tuple[int, ...], dtype: type) -> None:
    # Integers, whose sums are exact: any row that is missed or read twice shows.
    x = np.random.default_rng(0).integers(-9, 10, shape).astype(dtype)
    want, got = prune.ColumnStats().add(x), prune.ColumnStats().add(gpu.put(x))
    assert got.n == want.n
    for field in FIELDS:
        result = gpu.get(getattr(got, field))
        assert result.dtype == getattr(want, field).dtype
        exact = field in {"sum", "sumsq"}
        np.testing.assert_allclose(result, getattr(want, field), rtol=0 if exact else 1e-6)


def test_statistics_of_strided_rows_and_far_means(gpu: Device) -> None:
    x = (4096 + np.random.default_rng(1).integers(-2, 3, (1200, 40))).astype(F32)
    got = prune.ColumnStats()
    there = gpu.put(x)
    for first, last in ((0, 1), (1, 1), (1, 700), (700, 1200)):
        got.add(there[first:last, 3:36])
    exact = x[:, 3:36].astype(F64)
    np.testing.assert_array_equal(gpu.get(got.sum), exact.sum(0))
    np.testing.assert_allclose(gpu.get(got.var), exact.var(0), rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_squares_beyond_float32_are_summed_in_float64(gpu: Device, size: float) -> None:
    x = (np.random.default_rng(2).standard_normal((100, 3)) * size).astype(F32)
    want, got = prune.ColumnStats().add(x), prune.ColumnStats().add(gpu.put(x))
    there = prune.dsnot_rows_(gpu.put(np.eye(2, 3) > 0), gpu.put(np.ones((2, 3), F32)), got)
    here = prune.dsnot_rows_(np.eye(2, 3) > 0, np.ones((2, 3), F32), want)
    np.testing.assert_array_equal(gpu.get(there), here)
    np.testing.assert_allclose(gpu.get(got.sum), want.sum, rtol=1e-5)


def test_statistics_are_merged(gpu: Device) -> None:
    x = np.random.default_rng(3).integers(-9, 10, (500, 7)).astype(F32)
    parts = prune.ColumnStats()
    for batch in np.array_split(x, [1, 1, 130, 400]):
        parts.merge(prune.ColumnStats().add(gpu.put(batch)))
    first = prune.ColumnStats().merge(parts)
    parts.merge(parts)
    assert (first.n, parts.n) == (500, 1000)
    np.testing.assert_array_equal(gpu.get(first.sum), x.sum(0))
    np.testing.assert_array_equal(gpu.get(parts.sum), 2 * x.sum(0))
    np.testing.assert_allclose(gpu.get(parts.var), x.astype(F64).var(0), rtol=1e-6)


def test_bad_rows_are_refused(gpu: Device) -> None:
    stats = prune.ColumnStats().add(gpu.put(np.ones((3, 4), F32)))
    message = r"^column_stats_: stats\.shape\[0\] is 4, expected x\.shape\[-1\] = 5$"
    with pytest.raises(ValueError, match=message):
        stats.add(gpu.put(np.ones((2, 5), F32)))
    message = "^column_stats_: x is on cpu, expected stats's device cuda:0$"
    with pytest.raises(ValueError, match=message):
        stats.add(np.ones((2, 4), F32))
    with pytest.raises(ValueError, match=r"^merge: other is on cuda:0, expected cpu$"):
        prune.ColumnStats().add(np.ones((2, 4), F32)).merge(stats)
    message = "^dsnot_rows_: stats is on cuda:0, expected mask's device cpu$"
    with pytest.raises(ValueError, match=message):
        prune.dsnot_rows_(np.ones((1, 4), bool), np.ones((1, 4), F32), stats)
    assert stats.n == 3


# SparseGPT.


def integers(rows: int, cols: int, dtype: type, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and a factor with which every sum is exact."""
    rng = np.random.default_rng(seed)
    w = rng.integers(-4, 5, (rows, cols)).astype(dtype)
    some = np.where(rng.random((cols, cols)) < 0.1, rng.choice([-1.0, 1.0], (cols, cols)), 0.0)
    u = np.triu(some, 1) + np.diag(2.0 ** rng.integers(0, 2, cols))
    return w, u.astype(F64 if dtype == F64 else F32)


def same_block(gpu: Device, w: np.ndarray, u: np.ndarray, **options: Any) -> None:
    """Prune a block on both devices: weights, masks and errors have the same bits."""
    moved = {k: gpu.put(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    got = prune.obs_block_(gpu.put(w), gpu.put(u), **moved)
    want = prune.obs_block_(w.copy(), u, **options)
    for g, expected in zip(got, want, strict=True):
        np.testing.assert_array_equal(gpu.get(g), expected)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (9, 32), (70, 40), (3, 100)])
def test_blocks_are_pruned_as_on_the_cpu(gpu: Device, rows: int, cols: int, dtype: type) -> None:
    w, u = integers(rows, cols, dtype)
    u[np.triu_indices(cols, 1)] *= np.arange(cols)[np.triu_indices(cols, 1)[0]] % 5 == 0
    mask = np.random.default_rng(1).random(w.shape) < 0.6
    same_block(gpu, w, u, mask=mask)
    for k in {0, w.size // 2, w.size}:
        same_block(gpu, w, u, k=k)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 1), (3, 5), (0, 8), (7, 40), (33, 64)])
def test_patterns_are_chosen_group_by_group(gpu: Device, n: int, m: int) -> None:
    w, u = integers(5, -(-70 // m) * m, F32, m)
    u[:, 10:] *= np.eye(len(u), dtype=F32)[:, 10:]  # errors go to ten columns, and stay exact
    w[1, 3], w[2] = np.nan, 0
    same_block(gpu, w, u, nm=(n, m))


def test_what_is_kept_of_each_block_is_its_share(gpu: Device) -> None:
    w, _ = integers(6, 90, F32)
    hessian = np.diag(4.0 ** np.random.default_rng(0).integers(0, 3, 90)).astype(F32)
    for options in ({"k": 301}, {"k": 301, "block": 40}, {"nm": (1, 3), "block": 7}):
        want = prune.obs_prune_(w.copy(), hessian, **options)
        got = prune.obs_prune_(gpu.put(w), gpu.put(hessian), **options)
        for g, expected in zip(got, want, strict=True):
            np.testing.assert_array_equal(gpu.get(g), expected)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("cols", [1, 33, 100])
def test_a_layer_is_pruned_with_its_hessian(gpu: Device, cols: int, dtype: type) -> None:
    rng = np.random.default_rng(cols)
    x = rng.standard_normal((2 * cols, cols))
    hessian = (x.T @ x * 2.0**40).astype(F64 if dtype == F64 else F32)
    w = rng.standard_normal((4, cols)).astype(dtype)
    mask = rng.random(w.shape) < 0.5
    want, _ = prune.obs_prune_(w.copy(), hessian, mask=mask, damping=0.01)
    there = gpu.put(mask)
    got, kept = prune.obs_prune_(gpu.put(w), gpu.put(hessian), mask=there, damping=0.01)
    assert kept is there
    tolerance = 1e-10 if dtype == F64 else 2e-4 if dtype == F32 else 2e-2
    np.testing.assert_allclose(
        *(np.asarray(a, F64) for a in (gpu.get(got), want)), rtol=0, atol=tolerance
    )


def test_strided_weights_and_a_factor_that_is_none(gpu: Device) -> None:
    w, u = integers(6, 20, F32)
    u *= np.eye(20, dtype=F32)
    there = gpu.put(np.ones((6, 30), F32))
    part = there[:, 4:24]
    prune.obs_block_(part, gpu.put(u), nm=(1, 2))
    assert (gpu.get(part) != 0).sum() == 60
    assert (gpu.get(there)[:, :4] == 1).all()
    u[3, 3] = 0
    mask = np.ones(w.shape, bool)
    mask[2, 3] = False
    got = gpu.get(prune.obs_block_(gpu.put(w), gpu.put(u), mask=gpu.put(mask))[0])
    assert np.isnan(got).any(1).tolist() == [False, False, True, False, False, False]


def test_bad_hessians_are_refused(gpu: Device) -> None:
    w = gpu.put(np.ones((2, 40), F32))
    eye = np.eye(40, dtype=F32)
    holed, indefinite = eye.copy(), eye.copy()
    holed[3, 5], indefinite[35, 35] = np.nan, -1
    more = "expected more rows of activations or a larger damping than 0.0"
    cases: list[tuple[np.ndarray, type[Exception], str]] = [
        (holed, ValueError, "hessian holds NaN or infinity, expected neither"),
        (indefinite, ValueError, f"hessian is not positive definite, {more}"),
        (eye[:8, :8].copy(), ValueError, r"hessian.shape is \(8, 8\), expected \(40, 40\)"),
        (eye[:8], ValueError, r"hessian.shape is \(8, 40\), expected \(8, 8\)"),
        (
            eye.astype(F16),
            TypeError,
            "hessian has element type float16, expected float32 or float64",
        ),
    ]
    for hessian, error, message in cases:
        with pytest.raises(error, match=f"^obs_prune_: {message}"):
            prune.obs_prune_(w, gpu.put(hessian), nm=(2, 4))
    np.testing.assert_array_equal(gpu.get(w), 1)
    message = "^obs_prune_: hessian is on cuda:0, expected w's device cpu$"
    with pytest.raises(ValueError, match=message):
        prune.obs_prune_(np.ones((2, 40), F32), gpu.put(eye), nm=(2, 4))


# DSnoT.


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize(("rows", "cols"), [(3, 1), (5, 40), (2, 700)])
def test_rows_are_swapped_as_on_the_cpu(gpu: Device, rows: int, cols: int, dtype: type) -> None:
    rng = np.random.default_rng(cols)
    x = rng.integers(-3, 5, (64, cols)).astype(F32)  # statistics are exact
    here, there = prune.ColumnStats().add(x), prune.ColumnStats().add(gpu.put(x))
    w = rng.standard_normal((rows, cols)).astype(dtype)
    w[0, ::3] = 0
    mask = rng.random(w.shape) < 0.5
    cases: list[dict[str, Any]] = [
        {"tolerance": 0.0},
        {"tolerance": 0.0, "max_iter": 3, "power": 0.0},
        {"tolerance": 0.0, "same_sign": False},
    ]
    if cols % 4 == 0:
        cases.append({"tolerance": 0.0, "per": 4})
    for options in cases:
        want = prune.dsnot_rows_(mask.copy(), w, here, **options)
        got = prune.dsnot_rows_(gpu.put(mask), gpu.put(w), there, **options)
        np.testing.assert_array_equal(gpu.get(got), want)
        if cols > 1:
            assert (want != mask).any()


def test_keys_of_long_rows_lie_in_the_workspace(gpu: Device) -> None:
    cols = 10400
    rng = np.random.default_rng(0)
    x, w = rng.integers(-3, 5, (8, cols)).astype(F32), rng.standard_normal((2, cols)).astype(F32)
    mask = rng.random(w.shape) < 0.5
    here, there = prune.ColumnStats().add(x), prune.ColumnStats().add(gpu.put(x))
    want = prune.dsnot_rows_(mask.copy(), w, here, max_iter=2)
    got = prune.dsnot_rows_(gpu.put(mask), gpu.put(w), there, max_iter=2)
    np.testing.assert_array_equal(gpu.get(got), want)
