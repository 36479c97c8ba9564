"""Column statistics, SparseGPT and DSnoT against loops over single weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import pytest
from gossamer import prune
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from library import examples
from oracle import DTYPES

F32 = np.float32


def make(framework: str, array: np.ndarray) -> Any:
    if framework == "numpy":
        return array
    module = pytest.importorskip(framework)
    return module.from_numpy(array) if framework == "torch" else module.numpy.asarray(array)


def kind(framework: str) -> type:
    if framework == "numpy":
        return np.ndarray
    module = pytest.importorskip(framework)
    return module.Tensor if framework == "torch" else module.Array


@pytest.fixture(autouse=True)
def _restored_threads() -> Any:
    before = gossamer.get_num_threads()
    yield
    gossamer.set_num_threads(before)


# Column statistics.


def test_statistics_of_batches() -> None:
    stats = prune.ColumnStats().add(np.array([[1.0], [3.0]])).add(np.array([[5.0]]))
    assert stats.n == 3
    assert (stats.sum[0], stats.sumsq[0], stats.mean[0]) == (9, 35, 3)
    assert stats.var[0] == pytest.approx(8 / 3, rel=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (65, 17), (2100, 33), (4, 5, 70)])
def test_statistics_equal_those_of_float64(dtype: Any, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    stats = prune.ColumnStats().add(x)
    exact = x.reshape(-1, shape[-1]).astype(np.float64)
    assert stats.n == len(exact)
    assert stats.sum.dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_allclose(stats.sum, exact.sum(0), atol=1e-5 * np.abs(exact).sum(0).max())
    np.testing.assert_allclose(stats.sumsq, (exact**2).sum(0), rtol=2e-6)
    np.testing.assert_allclose(stats.mean, exact.mean(0), atol=1e-5)
    np.testing.assert_allclose(stats.var, exact.var(0), rtol=2e-5, atol=1e-7)


def test_variance_keeps_its_digits_far_from_zero() -> None:
    x = (4096 + np.random.default_rng(1).integers(-2, 3, (3000, 5))).astype(F32)
    stats = prune.ColumnStats()
    for batch in np.array_split(x, 7):
        stats.add(batch)
    np.testing.assert_allclose(stats.var, x.astype(np.float64).var(0), rtol=1e-6)


def test_column_stats_takes_rows_from_several_threads() -> None:
    x = np.arange(12, dtype=F32).reshape(4, 3)
    stats = prune.ColumnStats()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: stats.add(x), range(1000)))
    assert stats.n == 4000
    np.testing.assert_array_equal(stats.sum, 1000 * x.sum(0))


def test_column_stats_started_on_no_columns_stay_so() -> None:
    stats = prune.ColumnStats().add(np.zeros((3, 0), F32))
    with pytest.raises(ValueError, match=r"stats\.shape\[0\] is 0, expected x\.shape\[-1\] = 5"):
        stats.add(np.ones((2, 5), F32))
    assert (stats.n, stats.sum.shape) == (3, (0,))


def test_merged_statistics_are_those_of_all_rows() -> None:
    x = np.random.default_rng(2).standard_normal((500, 19))
    whole = prune.ColumnStats().add(x)
    parts = prune.ColumnStats()
    for batch in np.array_split(x, [1, 1, 130, 400]):
        parts.merge(prune.ColumnStats().add(batch))
    assert parts.n == whole.n
    for name in ("sum", "sumsq", "mean", "var"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-12)
    doubled = parts.merge(parts)
    assert doubled.n == 1000
    np.testing.assert_allclose(doubled.var, whole.var, atol=1e-12)


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_statistics_follow_the_framework(framework: str) -> None:
    stats = prune.ColumnStats().add(make(framework, np.ones((4, 3), F32)))
    assert isinstance(stats.mean, kind(framework))
    np.testing.assert_array_equal(np.asarray(stats.sum), [4, 4, 4])


def test_strided_rows() -> None:
    x = np.arange(60, dtype=F32).reshape(6, 10)
    np.testing.assert_array_equal(prune.ColumnStats().add(x[::2, 1:4]).sum, x[::2, 1:4].sum(0))


def test_threads_change_no_bit_of_the_statistics() -> None:
    x = np.random.default_rng(3).standard_normal((5000, 300)).astype(F32)
    results = set()
    for threads in (1, 2, 3):
        gossamer.set_num_threads(threads)
        stats = prune.ColumnStats().add(x)
        results.add((stats.sum.tobytes(), stats.sumsq.tobytes(), stats.var.tobytes()))
    assert len(results) == 1


NUMBERS = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=examples(40), deadline=None)
@given(
    x=hnp.arrays(F32, st.tuples(st.integers(1, 20), st.integers(1, 19)), elements=NUMBERS),
    data=st.data(),
)
def test_statistics_of_any_batches_and_merges(x: np.ndarray, data: st.DataObject) -> None:
    stats, exact = prune.ColumnStats(), x.astype(np.float64)
    for batch in np.array_split(x, sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=4)))):
        other = prune.ColumnStats().add(batch.astype(np.float64))
        if data.draw(st.booleans()):
            stats.merge(other)
        else:
            stats = other.merge(stats)
    assert stats.n == len(x)
    np.testing.assert_allclose(stats.sum, exact.sum(0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(stats.sumsq, (exact**2).sum(0), rtol=1e-12)
    np.testing.assert_allclose(stats.mean, exact.mean(0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(stats.var, exact.var(0), rtol=1e-9, atol=1e-7)
    assert (stats.var >= 0).all()


# SparseGPT.


def factor(hessian: np.ndarray) -> np.ndarray:
    """Return the upper U with H⁻¹ = Uᵀ·U, by inverting H."""
    return np.linalg.cholesky(np.linalg.inv(hessian)).T


def obs(
    w: np.ndarray,
    u: np.ndarray,
    *,
    k: int | None = None,
    nm: tuple[int, int] | None = None,
    mask: np.ndarray | None = None,
    block: int = 128,
) -> tuple[np.ndarray, np.ndarray]:
    """Prune as SparseGPT does, in float64 and without its blocking of the updates."""
    w, u = w.astype(np.float64), u.astype(np.float64)
    cols = w.shape[1]
    keep = np.zeros(w.shape, bool) if mask is None else mask.astype(bool)
    for i in range(cols):
        end = min(i + block, cols)
        if k is not None and i % block == 0:
            ratio = (w[:, i:end] / np.diag(u)[i:end]) ** 2
            best = np.argsort(-ratio, axis=None, kind="stable")[: k * end // cols - k * i // cols]
            chosen = np.zeros(ratio.size, bool)
            chosen[best] = True
            keep[:, i:end] = chosen.reshape(ratio.shape)
        if nm is not None and i % nm[1] == 0:
            ratio = (w[:, i : i + nm[1]] / np.diag(u)[i : i + nm[1]]) ** 2
            best = np.argsort(-ratio, axis=1, kind="stable")[:, : nm[0]]
            np.put_along_axis(keep[:, i : i + nm[1]], best, True, 1)
        err = np.where(keep[:, i], 0, w[:, i] / u[i, i])
        w[:, i] = np.where(keep[:, i], w[:, i], 0)
        w[:, i + 1 :] -= err[:, None] * u[i, i + 1 :]
    return w, keep


def layer(rows: int, cols: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3 * cols + 8, cols)) @ rng.standard_normal((cols, cols)) + 0.3
    return rng.standard_normal((rows, cols)), x.T @ x / len(x)


SHAPES = [(1, 1), (1, 8), (5, 16), (13, 64), (97, 72), (20, 200)]


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
@pytest.mark.parametrize("block", [1, 7, 64, 128])
def test_obs_keeps_exactly_k_and_equals_the_definition(rows: int, cols: int, block: int) -> None:
    dense, hessian = layer(rows, cols, rows + cols)
    k = rows * cols // 2 + 1 if rows * cols > 1 else 0
    want, keep = obs(dense, factor(hessian), k=k, block=block)
    w = dense.copy()
    _, mask = prune.obs_prune_(w, hessian, k=k, block=block)
    assert mask.dtype == bool
    assert mask.sum() == k
    np.testing.assert_array_equal(mask, keep)
    np.testing.assert_allclose(w, want, rtol=1e-8, atol=1e-8 * np.abs(want).max())
    assert not w[~mask].any()


@pytest.mark.parametrize("nm", [(2, 4), (1, 2), (0, 4), (4, 4), (4, 8)])
@pytest.mark.parametrize("block", [4, 5, 128])
def test_obs_keeps_n_of_each_m(nm: tuple[int, int], block: int) -> None:
    dense, hessian = layer(11, 72, 1)
    want, keep = obs(dense, factor(hessian), nm=nm)
    w = dense.copy()
    _, mask = prune.obs_prune_(w, hessian, nm=nm, block=block)
    assert (mask.reshape(-1, nm[1]).sum(1) == nm[0]).all()
    np.testing.assert_array_equal(mask, keep)
    np.testing.assert_allclose(w, want, atol=1e-8 * np.abs(want).max())


@settings(max_examples=examples(40), deadline=None)
@given(rows=st.integers(1, 9), cols=st.integers(1, 24), data=st.data())
def test_obs_of_any_shape_and_choice(rows: int, cols: int, data: st.DataObject) -> None:
    dense, hessian = layer(rows, cols, data.draw(st.integers(0, 9)))
    # With few distinct values there are many ties; which one is dropped is part of the definition.
    if data.draw(st.booleans()):
        dense, hessian = np.round(dense), np.eye(cols)
    block, choice = data.draw(st.integers(1, 30)), data.draw(st.sampled_from(["k", "nm", "mask"]))
    options: dict[str, Any]
    if choice == "k":
        options = {"k": data.draw(st.integers(0, rows * cols))}
    elif choice == "nm":
        m = data.draw(st.sampled_from([d for d in range(1, cols + 1) if cols % d == 0]))
        options = {"nm": (data.draw(st.integers(0, m)), m)}
        block = -(-block // m) * m
    else:
        options = {"mask": data.draw(hnp.arrays(bool, (rows, cols)))}
    want, keep = obs(dense, factor(hessian), block=block, **options)
    w = dense.copy()
    _, mask = prune.obs_prune_(w, hessian, block=block, **options)
    np.testing.assert_array_equal(mask, keep)
    np.testing.assert_allclose(w, want, atol=1e-7 * (1 + np.abs(want).max()))
    assert not w[~mask].any()
    part, u = dense.copy(), factor(hessian)
    if options.get("k") == 0 or choice != "k":  # one block: the whole layer
        _, _, err = prune.obs_block_(part, u, **options)
        want, keep = obs(dense, u, block=max(cols, 1), **options)
        np.testing.assert_allclose(part, want, atol=1e-7 * (1 + np.abs(want).max()))
        assert not err[keep].any()


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8])
def test_obs_takes_a_mask(dtype: Any) -> None:
    dense, hessian = layer(9, 40, 2)
    mask = np.random.default_rng(0).random(dense.shape) < 0.4
    want, _ = obs(dense, factor(hessian), mask=mask)
    w = dense.copy()
    given = mask.astype(dtype)
    assert prune.obs_prune_(w, hessian, mask=given, block=16)[1] is given
    np.testing.assert_allclose(w, want, atol=1e-8 * np.abs(want).max())


def test_obs_update_is_the_least_squares_one() -> None:
    # With a mask of the first columns dropped, what is left is the best there is: it solves the
    # normal equations for the kept columns.
    dense, hessian = layer(6, 24, 3)
    mask = np.ones(dense.shape, bool)
    mask[:, :10] = False
    w = dense.copy()
    prune.obs_prune_(w, hessian, mask=mask, block=8)
    best = np.linalg.solve(hessian[10:, 10:], hessian[10:] @ dense.T).T
    np.testing.assert_allclose(w[:, 10:], best, atol=1e-6 * np.abs(best).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_obs_in_float32(dtype: Any) -> None:
    dense, hessian = layer(30, 100, 4)
    w = dense.astype(dtype)
    mask = np.random.default_rng(1).random(dense.shape) < 0.5
    want, _ = obs(w.astype(np.float64), factor(hessian), mask=mask)
    prune.obs_prune_(w, hessian.astype(F32), mask=mask, block=32)
    slack = 4 * float(ml_dtypes.finfo(dtype).eps) + 1e-3
    np.testing.assert_allclose(w.astype(np.float64), want, atol=slack * np.abs(want).max())
    assert not w[~mask].astype(F32).any()


@pytest.mark.parametrize("k", [0, 1, 39, 40])
def test_obs_prunes_neither_more_nor_fewer_where_all_are_equal(k: int) -> None:
    # Comparing with a threshold prunes ties too, and one more than was asked for.
    w = np.ones((5, 8), F32)
    assert prune.obs_prune_(w, np.eye(8), k=k, block=3)[1].sum() == k
    assert np.count_nonzero(w) == k


def test_obs_block_gives_the_errors_for_the_rest() -> None:
    dense, hessian = layer(7, 48, 5)
    u = factor(hessian)
    whole = dense.copy()
    _, mask = prune.obs_prune_(whole, hessian, nm=(2, 4), block=16)
    blocks = dense.copy()
    for i in range(0, 48, 16):
        part = np.ascontiguousarray(blocks[:, i : i + 16])
        _, kept, err = prune.obs_block_(
            part, np.ascontiguousarray(u[i : i + 16, i : i + 16]), nm=(2, 4)
        )
        blocks[:, i : i + 16] = part
        blocks[:, i + 16 :] -= err @ u[i : i + 16, i + 16 :]
        np.testing.assert_array_equal(kept, mask[:, i : i + 16])
    np.testing.assert_allclose(blocks, whole, atol=1e-9 * np.abs(whole).max())


def test_a_hessian_that_is_not_positive_definite_is_an_error_unless_damped() -> None:
    # One library continues with the identity instead, which is magnitude pruning.
    x = np.random.default_rng(6).standard_normal((3, 8))
    w = np.random.default_rng(7).standard_normal((4, 8))
    before = w.copy()
    hessian = x.T @ x
    hessian[0] = hessian[:, 0] = 0
    message = (
        "obs_prune_: hessian is not positive definite, expected more rows of activations or a "
        "larger damping than 0.0"
    )
    with pytest.raises(ValueError) as error:
        prune.obs_prune_(w, hessian, k=16)
    assert str(error.value) == message
    np.testing.assert_array_equal(w, before)
    assert prune.obs_prune_(w, hessian, k=16, damping=0.01)[1].sum() == 16
    assert np.isfinite(w).all()
    with pytest.raises(TypeError, match="obs_prune_: hessian has element type complex128"):
        prune.obs_prune_(w, hessian * 1j, k=16)


@pytest.mark.parametrize("factor", [2.0**-980, 1e-200, 1e-40, 1e40, 1e200, 2.0**1010])
@pytest.mark.parametrize("dtype", [F32, np.float64])
def test_obs_does_not_depend_on_the_scale_of_the_hessian(dtype: type, factor: float) -> None:
    dense, hessian = layer(6, 16, 8)
    made = []
    for h in (hessian, factor * hessian):
        w = dense.astype(dtype)
        _, mask = prune.obs_prune_(w, h, k=40, block=8, damping=0.01)
        made.append((w, mask))
    np.testing.assert_array_equal(made[0][1], made[1][1])
    np.testing.assert_allclose(made[0][0], made[1][0], rtol=1e-3 if dtype == F32 else 1e-9)


def test_a_block_as_wide_as_numbers_go_is_the_whole_matrix() -> None:
    dense, hessian = layer(6, 16, 8)
    made = [
        prune.obs_prune_(dense.copy(), hessian, k=40, block=b)[0]
        for b in (16, 2**32, 2**40, 2**62, 2**63 - 1)
    ]
    for w in made[1:]:
        np.testing.assert_array_equal(w, made[0])


def test_a_hessian_of_bfloat16_is_refused_by_its_name() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"^obs_prune_: hessian has element type bfloat16"):
        prune.obs_prune_(torch.ones(4, 4), torch.eye(4, dtype=torch.bfloat16), k=3)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_obs_follows_the_framework(framework: str) -> None:
    dense, hessian = layer(6, 16, 8)
    w = make(framework, dense.astype(F32))
    _, mask = prune.obs_prune_(w, make(framework, hessian.astype(F32)), nm=(2, 4))
    assert isinstance(mask, kind(framework))
    assert np.count_nonzero(np.asarray(w)) == 6 * 8


def test_obs_leaves_what_lies_between_rows_alone() -> None:
    dense, hessian = layer(10, 24, 9)
    wide = np.full((10, 40), 7.0)
    wide[:, 3:27] = dense
    w = dense.copy()
    prune.obs_prune_(w, hessian, k=100, block=10)
    prune.obs_prune_(wide[:, 3:27], hessian, k=100, block=10)
    np.testing.assert_array_equal(wide[:, 3:27], w)
    assert (np.delete(wide, np.s_[3:27], axis=1) == 7).all()


def test_threads_change_no_bit_of_obs() -> None:
    dense, hessian = layer(211, 300, 10)
    results = set()
    for threads in (1, 2, 3):
        gossamer.set_num_threads(threads)
        w = dense.astype(F32)
        _, mask = prune.obs_prune_(w, hessian, k=30000)
        results.add((w.tobytes(), mask.tobytes()))
    assert len(results) == 1


# DSnoT.


def dsnot(
    mask: np.ndarray,
    w: np.ndarray,
    x: np.ndarray,
    *,
    tolerance: float = 0.1,
    max_iter: int = 50,
    power: float = 1.0,
    same_sign: bool = True,
    group: int | None = None,
) -> np.ndarray:
    """Swap as DSnoT does, a row and a swap at a time."""
    mask, w, x = mask.copy(), w.astype(np.float64), x.astype(np.float64)
    mean, var, norm = x.mean(0), x.var(0), np.sqrt((x**2).sum(0))
    for row, weights in zip(mask, w, strict=True):
        d = weights * mean
        error = d[~row].sum()
        sign = 1 if error > 0 else -1
        growable = [j for j in np.flatnonzero(~row) if sign * d[j] > 0]
        droppable = [j for j in np.flatnonzero(row) if not same_sign or sign * d[j] < 0]
        growable.sort(key=lambda j: -abs(d[j]) / var[j] ** power)
        droppable.sort(key=lambda j: abs(weights[j]) * norm[j])
        for _ in range(max_iter):
            if abs(error) <= tolerance:
                break
            pairs = (
                (i, j) for i in growable for j in droppable if not group or i // group == j // group
            )
            grown, dropped = next(pairs, (None, None))
            if grown is None or dropped is None:
                break
            if sign * (error + d[dropped] - d[grown]) < 0:
                break
            error += d[dropped] - d[grown]
            row[grown], row[dropped] = True, False
            growable = growable[growable.index(grown) + 1 :]
            droppable.remove(dropped)
    return mask


def activations(rows: int, cols: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, cols)) * rng.uniform(0.5, 2, cols) + rng.standard_normal(cols)


def wanda_mask(w: np.ndarray, x: np.ndarray, group: int) -> np.ndarray:
    """Keep half of each group of columns by |w|·‖x‖."""
    scores = (np.abs(w) * np.sqrt((x**2).sum(0))).reshape(-1, group)
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, np.argsort(-scores, axis=1)[:, : group // 2], True, 1)
    return mask.reshape(w.shape)


@pytest.mark.parametrize("group", [None, 4, 8])
@pytest.mark.parametrize("same_sign", [True, False])
@pytest.mark.parametrize("cols", [8, 24, 104])
def test_dsnot_equals_the_definition(cols: int, same_sign: bool, group: int | None) -> None:
    x = activations(200, cols, cols)
    w = np.random.default_rng(cols).standard_normal((23, cols))
    mask = wanda_mask(w, x, group or cols)
    want = dsnot(mask, w, x, same_sign=same_sign, group=group)
    stats = prune.ColumnStats().add(x)
    got = mask.copy()
    assert prune.dsnot_rows_(got, w, stats, same_sign=same_sign, per=group or "row") is got
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got.sum(1), mask.sum(1))
    if group:
        assert (got.reshape(-1, group).sum(1) == group // 2).all()


@settings(max_examples=examples(40), deadline=None)
@given(rows=st.integers(1, 6), cols=st.integers(1, 20), data=st.data())
def test_dsnot_of_any_mask(rows: int, cols: int, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 9))
    x = activations(40, cols, seed)
    w = np.random.default_rng(seed).standard_normal((rows, cols))
    mask = data.draw(hnp.arrays(bool, (rows, cols)))
    options: dict[str, Any] = {
        "tolerance": data.draw(st.sampled_from([0.0, 0.1, 2.0])),
        "max_iter": data.draw(st.integers(0, 6)),
        "power": data.draw(st.sampled_from([0.0, 1.0, 0.5])),
        "same_sign": data.draw(st.booleans()),
        "group": data.draw(st.sampled_from([None, *(d for d in (2, 4, 5) if cols % d == 0)])),
    }
    want = dsnot(mask, w, x, **options)
    got = mask.copy()
    options["per"] = options.pop("group") or "row"
    prune.dsnot_rows_(got, w, prune.ColumnStats().add(x), **options)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got.sum(1), mask.sum(1))


@pytest.mark.parametrize(("tolerance", "max_iter", "power"), [(0.0, 3, 0.5), (1.0, 50, 0.0)])
def test_dsnot_options(tolerance: float, max_iter: int, power: float) -> None:
    x = activations(150, 64, 1)
    w = np.random.default_rng(3).standard_normal((17, 64))
    mask = wanda_mask(w, x, 64)
    options: dict[str, Any] = {"tolerance": tolerance, "max_iter": max_iter, "power": power}
    want = dsnot(mask, w, x, **options)
    prune.dsnot_rows_(mask, w, prune.ColumnStats().add(x), **options)
    np.testing.assert_array_equal(mask, want)


def test_dsnot_brings_the_expected_output_back() -> None:
    x = activations(300, 96, 5)
    w = np.random.default_rng(5).standard_normal((40, 96))
    mask = wanda_mask(w, x, 96)
    before = np.abs((w * ~mask) @ x.mean(0))
    prune.dsnot_rows_(mask, w, prune.ColumnStats().add(x))
    after = np.abs((w * ~mask) @ x.mean(0))
    assert (after <= before + 1e-9).all()
    assert after.mean() < 0.6 * before.mean()


def test_dsnot_stops_where_no_weight_of_the_needed_sign_is_left() -> None:
    # The original code drops the largest weight of the wrong sign here and so moves away from zero.
    x = np.array([[1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
    w = np.array([[1.0, 2.0, 3.0, 4.0]])
    mask = np.array([[False, False, True, True]])
    prune.dsnot_rows_(mask, w, prune.ColumnStats().add(x))
    np.testing.assert_array_equal(mask, [[False, False, True, True]])


def test_dsnot_undoes_nothing_at_zero_variance() -> None:
    x = np.ones((5, 4))
    mask = np.array([[False, True, False, True]])
    prune.dsnot_rows_(mask, np.array([[5.0, -1.0, 3.0, -4.0]]), prune.ColumnStats().add(x))
    np.testing.assert_array_equal(mask, [[True, False, False, True]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask_type", [np.bool_, np.uint8])
def test_dsnot_types(dtype: Any, mask_type: Any) -> None:
    # Small integers and powers of two: all sums are exact.
    rng = np.random.default_rng(8)
    x = rng.integers(-2, 5, (64, 40)).astype(dtype)
    w = rng.integers(-4, 5, (9, 40)).astype(dtype)
    mask = rng.random((9, 40)) < 0.5
    want = dsnot(mask, w, x, power=0.0)
    got = mask.astype(mask_type)
    prune.dsnot_rows_(got, w, prune.ColumnStats().add(x), power=0.0)
    np.testing.assert_array_equal(got.sum(1), want.sum(1))
    np.testing.assert_array_equal(got.astype(bool), want)


def test_threads_change_no_bit_of_dsnot() -> None:
    x = activations(100, 300, 2)
    w = np.random.default_rng(2).standard_normal((200, 300)).astype(F32)
    results = set()
    for threads in (1, 2, 3):
        gossamer.set_num_threads(threads)
        mask = wanda_mask(w, x, 300)
        prune.dsnot_rows_(mask, w, prune.ColumnStats().add(x.astype(F32)))
        results.add(mask.tobytes())
    assert len(results) == 1


def test_dsnot_writes_a_mask_of_torch() -> None:
    torch = pytest.importorskip("torch")
    x = activations(60, 32, 6).astype(F32)
    w = np.random.default_rng(6).standard_normal((5, 32)).astype(F32)
    mask = wanda_mask(w, x, 32)
    other = torch.from_numpy(mask.copy())
    stats = prune.ColumnStats().add(torch.from_numpy(x))
    prune.dsnot_rows_(other, torch.from_numpy(w), stats)
    prune.dsnot_rows_(mask, w, prune.ColumnStats().add(x))
    np.testing.assert_array_equal(other.numpy(), mask)


@pytest.mark.parametrize("dtype", [F32, np.float16, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("cols", [1, 7, 80])
def test_statistics_of_activations_of_any_scale(dtype: Any, cols: int) -> None:
    """Squares beyond the range of float32 count: swaps do not depend on the scale of the inputs."""
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 9, (200, cols)).astype(dtype)
    w = rng.standard_normal((9, cols)).astype(F32)
    scales = [2.0**-12, 1.0, 2.0**10] if dtype is np.float16 else [2.0**-110, 1.0, 2.0**100]
    masks, ratios = [], []
    for scale in scales:
        scaled = (x.astype(float) * scale).astype(dtype)
        stats = prune.ColumnStats().add(scaled)
        mask = w > 0
        prune.dsnot_rows_(mask, w, stats, tolerance=0.1 * scale, max_iter=9)
        masks.append(mask)
        wide = prune.ColumnStats().add(scaled.astype(np.float64))
        ratios.append(np.asarray(wide.var) / scale**2)
    for mask, ratio in zip(masks, ratios, strict=True):
        np.testing.assert_array_equal(mask, masks[1])
        np.testing.assert_array_equal(ratio, ratios[1])


def test_statistics_beyond_float64_are_infinite() -> None:
    stats = prune.ColumnStats().add(np.array([[1e200], [-1e200], [3.0]]))
    assert (stats.sumsq[0], stats.var[0]) == (np.inf, np.inf)


STATS = prune.ColumnStats().add(np.ones((2, 4), F32))


def ones(*shape: int, dtype: Any = F32) -> np.ndarray:
    return np.ones(shape, dtype)


def frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: prune.ColumnStats().add(np.ones(())),
        ValueError,
        "column_stats_: x.ndim is 0, expected at least 1",
    ),
    (
        lambda: prune.ColumnStats().add(ones(2, 3)).add(ones(2, 4)),
        ValueError,
        "column_stats_: stats.shape[0] is 3, expected x.shape[-1] = 4",
    ),
    (
        lambda: prune.ColumnStats().add(ones(2, 3, dtype=np.int32)),
        TypeError,
        "column_stats_: x.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    (
        lambda: prune.ColumnStats().add(ones(4, 6, 2)[:, ::2, :][:, :, :1].swapaxes(0, 1)),
        ValueError,
        "column_stats_: x.strides[0] is 4, expected leading axes that form one "
        "(make it contiguous)",
    ),
    (lambda: prune.ColumnStats().sum, ValueError, "ColumnStats: nothing was added yet"),
    (
        lambda: prune.ColumnStats().add(ones(2, 3)).merge(STATS),
        ValueError,
        "merge: other has 4 columns, expected 3",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 4), np.eye(4)),
        ValueError,
        "obs_prune_: none of k, nm and mask is given, expected one of them",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 4), np.eye(4), k=2, nm=(2, 4)),
        ValueError,
        "obs_prune_: k and nm are given, expected one of them",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 4), np.eye(4), k=2, mask=ones(2, 4, dtype=np.uint8)),
        ValueError,
        "obs_prune_: mask is given beside k or nm, expected one of them",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 4), np.eye(4), k=9),
        ValueError,
        "obs_prune_: k is 9, expected 0 to 8",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 4), np.eye(4), nm=(5, 4)),
        ValueError,
        "obs_prune_: nm is (5, 4), expected 0 <= n <= m and m >= 1",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 4), np.eye(4), nm=(2, 0)),
        ValueError,
        "obs_prune_: nm is (2, 0), expected 0 <= n <= m and m >= 1",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 6), np.eye(6), nm=(2, 4)),
        ValueError,
        "obs_prune_: w.shape[1] is 6, expected a multiple of m = 4",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 4), np.eye(3), k=2),
        ValueError,
        "obs_prune_: hessian.shape is (3, 3), expected (4, 4)",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 4), ones(4, 3), k=2),
        ValueError,
        "obs_prune_: hessian.shape is (4, 3), expected a square matrix",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 2), np.array([[1.0, np.nan], [np.nan, 1.0]]), k=2),
        ValueError,
        "obs_prune_: hessian holds NaN or infinity, expected neither",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 4), [1.0], k=2),
        TypeError,
        "obs_prune_: hessian is a list, expected an array with __dlpack__",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 4), np.eye(4), k=2, damping=-1),
        ValueError,
        "obs_prune_: damping is -1, expected at least 0",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 4), np.eye(4), k=2, block=0),
        ValueError,
        "obs_prune_: block is 0, expected at least 1",
    ),
    (
        lambda: prune.obs_prune_(ones(4), np.eye(4), k=2),
        ValueError,
        "obs_prune_: w.ndim is 1, expected 2",
    ),
    (
        lambda: prune.obs_prune_(frozen(ones(2, 4)), np.eye(4), k=2),
        ValueError,
        "obs_prune_: w is read-only, expected a writable array",
    ),
    (
        lambda: prune.obs_prune_(ones(2, 4), np.eye(4), mask=ones(2, 4)),
        TypeError,
        "obs_prune_: mask.dtype is float32, expected bool or uint8",
    ),
    (
        lambda: prune.obs_block_(ones(2, 4), np.zeros((4, 4), F32), k=2),
        ValueError,
        "obs_block_: u[0, 0] is 0.0, expected a positive number",
    ),
    (
        lambda: prune.obs_block_(ones(2, 4), np.eye(4), k=2),
        TypeError,
        "obs_block_: u.dtype is float64, expected float32 for w.dtype = float32",
    ),
    (
        lambda: prune.dsnot_rows_(ones(2, 4, dtype=bool), ones(2, 4), ones(4)),
        TypeError,
        "dsnot_rows_: stats is a ndarray, expected a ColumnStats",
    ),
    (
        lambda: prune.dsnot_rows_(ones(2, 3, dtype=bool), ones(2, 4), STATS),
        ValueError,
        "dsnot_rows_: mask.shape is (2, 3), expected w.shape = (2, 4)",
    ),
    (
        lambda: prune.dsnot_rows_(frozen(ones(2, 4, dtype=bool)), ones(2, 4), STATS),
        ValueError,
        "dsnot_rows_: mask is read-only, expected a writable array",
    ),
    (
        lambda: prune.dsnot_rows_(ones(2, 3, dtype=bool), ones(2, 3), STATS),
        ValueError,
        "dsnot_rows_: stats.shape[0] is 4, expected w.shape[1] = 3",
    ),
    (
        lambda: prune.dsnot_rows_(ones(2, 4, dtype=bool), ones(2, 4), prune.ColumnStats()),
        ValueError,
        "dsnot_rows_: stats.n is 0, expected at least one row of activations",
    ),
    (
        lambda: prune.dsnot_rows_(ones(2, 4, dtype=bool), ones(2, 4), STATS, per=3),
        ValueError,
        "dsnot_rows_: per is 3, expected a divisor of w.shape[1] = 4",
    ),
    (
        lambda: prune.dsnot_rows_(ones(2, 4, dtype=bool), ones(2, 4), STATS, tolerance=-1.0),
        ValueError,
        "dsnot_rows_: tolerance is -1.0, expected at least 0",
    ),
    (
        lambda: prune.dsnot_rows_(ones(2, 4, dtype=bool), ones(2, 4), STATS, power=math.inf),
        ValueError,
        "dsnot_rows_: power is inf, expected a finite number",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_jax_weights_are_refused() -> None:
    jax = pytest.importorskip("jax")
    with pytest.raises(ValueError, match="obs_prune_: w is a"):
        prune.obs_prune_(jax.numpy.ones((2, 4)), np.eye(4), k=2)
