"""Proximal steps and soft masks against their equations."""

from __future__ import annotations

from collections.abc import Callable
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
SIZES = [0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 33, 1000]
GROUPS: list[Any] = ["row", "column", 1, 4]


@pytest.fixture(autouse=True)
def _restored_threads() -> Any:
    before = gossamer.get_num_threads()
    yield
    gossamer.set_num_threads(before)


def draw(shape: Any, dtype: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(got: np.ndarray, want: np.ndarray, terms: int = 4) -> None:
    eps = float(ml_dtypes.finfo(got.dtype).eps)
    slack = terms * eps * (1 + np.abs(want).max(initial=0))
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=terms * eps, atol=slack)


# The cases by hand.


def test_cases_by_hand() -> None:
    np.testing.assert_array_equal(prune.soft_threshold_(np.array([2.0, -0.5]), 1), [1, 0])
    np.testing.assert_allclose(prune.group_soft_threshold_(np.array([3.0, 4.0]), 1), [2.4, 3.2])
    w = np.array([3.0, -1.0, 2.0, -2.0])
    np.testing.assert_array_equal(prune.l0_project_(w, 2)[1], [True, False, True, False])
    np.testing.assert_array_equal(w, [3, 0, 2, 0])
    kept = np.array([True, False])
    np.testing.assert_allclose(prune.shrink_(np.array([1.0, -2.0]), kept, factor=0.9), [1, -1.8])
    g = np.array([0.1, 0.1])
    np.testing.assert_allclose(
        prune.srste_grad_(g, np.array([1.0, -2.0]), kept, decay=0.5), [0.1, -0.9]
    )
    assert prune.polarization(np.array([0.0, 1.0, 2.0]), t=1.0, alpha=1.0)[0] == 1


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_group_of_zeros_stays_zero(threshold: float) -> None:
    # One library computes 0/0 here.
    w = prune.group_soft_threshold_(np.zeros((2, 2)), threshold)
    np.testing.assert_array_equal(w, np.zeros((2, 2)))


# Against the equations.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_soft_threshold(n: int, dtype: Any) -> None:
    w = draw(n, dtype)
    exact = w.astype(np.float64)
    assert prune.soft_threshold_(w, 0.5) is w
    close(w, np.sign(exact) * np.maximum(np.abs(exact) - 0.5, 0))


def test_soft_threshold_of_special_numbers() -> None:
    w = np.array([np.nan, np.inf, -np.inf, -0.0, 1.0, -1.0] * 3, F32)
    prune.soft_threshold_(w, 1.0)
    np.testing.assert_array_equal(w, np.array([np.nan, np.inf, -np.inf, 0, 0, 0] * 3, F32))


def group_norms(w: np.ndarray, group: Any) -> np.ndarray:
    """Return the norm of each weight's group, at the weight."""
    w = w.astype(np.float64)
    if group == "column":
        return np.broadcast_to(np.linalg.norm(w, axis=0), w.shape)
    runs = w.reshape(-1, w.shape[-1] if group == "row" else group)
    return np.broadcast_to(np.linalg.norm(runs, axis=1)[:, None], runs.shape).reshape(w.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", [(1, 4), (5, 8), (7, 36), (130, 20), (3, 600)])
def test_group_soft_threshold(shape: tuple[int, int], group: Any, dtype: Any) -> None:
    w = draw(shape, dtype)
    exact, norm = w.astype(np.float64), group_norms(w, group)
    threshold = float(np.median(norm))
    prune.group_soft_threshold_(w, threshold, per=group)
    close(w, exact * np.maximum(0, 1 - threshold / norm), 8)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("lam", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("k", [0, 1, 2.5, 4])
def test_sef_prox_solves_its_problem(group: Any, lam: float, k: float) -> None:
    w = draw((6, 8), np.float64, 3)
    norm, exact = group_norms(w, group), w.copy()
    size = {"row": 8, "column": 6}.get(group, group)
    prune.sef_prox_(w, lam, k, per=group)
    ratio = w / exact
    if k == 0:
        assert not w.any()
        return
    if lam == 0:  # nothing pulls
        np.testing.assert_array_equal(ratio, 1)
        return
    u = lam * ratio / (1 - ratio)
    assert u.sum() / size == pytest.approx(k)
    # u is the norms scaled by one η > 0: where u is in (0, 1), (λ + u)/norm is the same number.
    inside = (u > 1e-9) & (u < 1 - 1e-9)
    slope = (lam + u[inside]) / norm[inside]
    np.testing.assert_allclose(slope, slope.mean() if slope.size else slope, rtol=1e-9)
    if slope.size:
        np.testing.assert_allclose(u, np.clip(norm * slope.mean() - lam, 0, 1), atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sef_prox_types_and_extremes(dtype: Any) -> None:
    w = np.array([8, 4, 2, 0, 0], dtype)
    np.testing.assert_array_equal(prune.sef_prox_(w.copy(), 1, 3, per=1), w / dtype(2))
    np.testing.assert_array_equal(prune.sef_prox_(w.copy(), 1, 5, per=1), w / dtype(2))
    np.testing.assert_array_equal(prune.sef_prox_(w.copy(), 0, 1, per=1), w)
    np.testing.assert_array_equal(prune.sef_prox_(0 * w, 1, 2, per=1), 0 * w)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [0, 1, 13, 35])
def test_l0_projection_keeps_exactly_k(k: int, dtype: Any) -> None:
    w = np.random.default_rng(1).integers(-3, 4, (5, 7)).astype(dtype)
    exact = w.astype(np.float64)
    _, mask = prune.l0_project_(w, k)
    want = np.zeros(35, bool)
    want[np.argsort(-np.abs(exact), axis=None, kind="stable")[:k]] = True
    assert mask.sum() == k
    np.testing.assert_array_equal(mask, want.reshape(5, 7))
    np.testing.assert_array_equal(w.astype(np.float64), np.where(mask, exact, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask_type", [np.bool_, np.uint8])
@pytest.mark.parametrize("n", SIZES)
def test_shrink_and_srste(n: int, mask_type: Any, dtype: Any) -> None:
    w, g = draw((2, n), dtype), draw((2, n), dtype, 1)
    mask = (draw((2, n), F32, 2) > 0).astype(mask_type) * (1 if mask_type is np.bool_ else 255)
    mask = mask.astype(mask_type)
    exact, gradient = w.astype(np.float64), g.astype(np.float64)
    assert prune.srste_grad_(g, w, mask, decay=0.25) is g
    close(g, gradient + 0.25 * exact * (mask == 0))
    assert prune.shrink_(w, mask, factor=0.75) is w
    close(w, np.where(mask, exact, 0.75 * exact))


def test_factor_zero_clears_what_no_number_does() -> None:
    w = np.array([np.nan, np.inf, -1.0, 2.0] * 5, F32)
    mask = np.array([0, 0, 0, 1] * 5, np.uint8)
    np.testing.assert_array_equal(
        prune.shrink_(w, mask, factor=0.0), np.array([0, 0, 0, 2] * 5, F32)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_polarization_and_its_gradient(dtype: Any) -> None:
    gamma = draw(50, dtype, 4)
    t, alpha = 1.2, 0.7

    def value(x: np.ndarray) -> float:
        return t * np.abs(x).sum() - np.abs(x - alpha * x.mean()).sum()

    x = gamma.astype(np.float64)
    got, grad = prune.polarization(gamma, t=t, alpha=alpha)
    assert got == pytest.approx(value(x), rel=1e-6)
    steps = 1e-6 * np.eye(50)
    want = [(value(x + s) - value(x - s)) / 2e-6 for s in steps]
    assert grad.dtype == gamma.dtype
    close(grad, np.array(want), 8 if dtype != np.float64 else 10**8)


NUMBERS = st.floats(-100, 100, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-40])


@settings(max_examples=examples(60), deadline=None)
@given(
    w=hnp.arrays(F32, st.tuples(st.integers(1, 6), st.integers(1, 24)), elements=NUMBERS),
    data=st.data(),
)
def test_steps_of_any_weights(w: np.ndarray, data: st.DataObject) -> None:
    exact, threshold = w.astype(np.float64), data.draw(st.sampled_from([0.0, 0.5, 3.0, 200.0]))
    got = prune.soft_threshold_(w.copy(), threshold)
    close(got, np.sign(exact) * np.maximum(np.abs(exact) - threshold, 0))
    lengths = [d for d in (1, 2, 3, 5) if w.shape[1] % d == 0]
    group = data.draw(st.sampled_from(["row", "column", *lengths]))
    norm = group_norms(w, group)
    got = prune.group_soft_threshold_(w.copy(), threshold, per=group)
    factor = np.maximum(0, 1 - threshold / np.where(norm == 0, 1, norm))
    close(got, exact * factor, 16)
    assert not got[norm <= threshold * (1 - 1e-6)].any()
    k = data.draw(st.integers(0, w.size))
    projected = w.copy()
    _, mask = prune.l0_project_(projected, k)
    best = np.argsort(-np.abs(exact), axis=None, kind="stable")[:k]
    np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(best))
    np.testing.assert_array_equal(projected, np.where(mask, w, 0))
    g = data.draw(hnp.arrays(F32, w.shape, elements=NUMBERS))
    close(prune.srste_grad_(g.copy(), w, mask, decay=0.25), g + 0.25 * exact * ~mask)
    close(prune.shrink_(w.copy(), mask, factor=0.75), np.where(mask, exact, 0.75 * exact))
    # The step increases no magnitude and changes no sign.
    size = norm.size // {"row": w.shape[1], "column": w.shape[0]}.get(group, group)
    sef = prune.sef_prox_(w.copy(), 0.5, data.draw(st.integers(0, size)), per=group)
    assert (np.abs(sef) <= np.abs(w)).all()
    assert (sef * exact >= 0).all()


def test_thresholds_may_be_scalars_of_a_framework() -> None:
    torch = pytest.importorskip("torch")
    w = torch.tensor([2.0, -0.5])
    assert prune.soft_threshold_(w, torch.tensor(1.0)).tolist() == [1, 0]
    assert prune.shrink_(w, torch.tensor([False, True]), factor=np.float32(0.5)).tolist() == [
        0.5,
        0,
    ]


# Arrays.


def updates() -> list[tuple[str, Callable[[Any, Any], Any]]]:
    return [
        ("soft_threshold_", lambda w, _: prune.soft_threshold_(w, 0.3)),
        ("group_soft_threshold_", lambda w, _: prune.group_soft_threshold_(w, 0.3)),
        ("group_soft_threshold_", lambda w, _: prune.group_soft_threshold_(w, 2, per="column")),
        ("sef_prox_", lambda w, _: prune.sef_prox_(w, 0.3, 7, per=10)),
        ("shrink_", lambda w, m: prune.shrink_(w, m, factor=0.5)),
        ("srste_grad_", lambda w, m: prune.srste_grad_(w, 2 * w, m, decay=0.5)),
    ]


@pytest.mark.parametrize(("name", "call"), updates())
def test_rows_may_be_strided(name: str, call: Callable[[Any, Any], Any]) -> None:
    wide = draw((40, 90), F32)
    before, mask = wide.copy(), draw((40, 70), F32, 1) > 0
    packed = np.ascontiguousarray(wide[:, 10:80])
    call(packed, mask)
    wide_mask = np.zeros((40, 90), bool)
    wide_mask[:, 5:75] = mask
    call(wide[:, 10:80], wide_mask[:, 5:75])
    np.testing.assert_array_equal(wide[:, 10:80], packed)
    np.testing.assert_array_equal(wide[:, :10], before[:, :10])
    np.testing.assert_array_equal(wide[:, 80:], before[:, 80:])


@pytest.mark.parametrize(("name", "call"), updates())
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_no_bit(name: str, call: Callable[[Any, Any], Any], dtype: Any) -> None:
    w, mask = draw((300, 170), dtype), draw((300, 170), F32, 1) > 0
    results = set()
    for threads in (1, 2, 3):
        gossamer.set_num_threads(threads)
        results.add(call(w.copy(), mask).tobytes())
    assert len(results) == 1


@pytest.mark.parametrize(("name", "call"), updates())
def test_torch_is_written_and_jax_refused(name: str, call: Callable[[Any, Any], Any]) -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    w, mask = draw((6, 70), F32), draw((6, 70), F32, 1) > 0
    other = torch.from_numpy(w.copy())
    assert call(other, torch.from_numpy(mask)) is other
    call(w, mask)
    np.testing.assert_array_equal(other.numpy(), w)
    with pytest.raises(ValueError, match=f"{name}: ._? ?is a|{name}: [wg] is a"):
        call(jax.numpy.ones((6, 70)), mask)


def test_bfloat16_of_torch() -> None:
    torch = pytest.importorskip("torch")
    w = torch.tensor([2.0, -0.5, -3.0], dtype=torch.bfloat16)
    assert prune.soft_threshold_(w, 1.0).tolist() == [1, 0, -2]
    assert prune.l0_project_(w, 1)[1].tolist() == [False, False, True]
    value, grad = prune.polarization(w)
    assert (value, grad.dtype) == (2 - 2 * 4 / 3, torch.bfloat16) or value == pytest.approx(-2 / 3)


def frozen(n: int) -> np.ndarray:
    w = np.ones(n, F32)
    w.flags.writeable = False
    return w


W = np.ones((2, 4), F32)
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: prune.soft_threshold_(W, -1.0),
        ValueError,
        "soft_threshold_: threshold is -1.0, expected at least 0",
    ),
    (
        lambda: prune.soft_threshold_(W, float("nan")),
        ValueError,
        "soft_threshold_: threshold is nan, expected at least 0",
    ),
    (
        lambda: prune.soft_threshold_(np.ones(3, np.int32), 1.0),
        TypeError,
        "soft_threshold_: w.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    (
        lambda: prune.soft_threshold_(frozen(3), 1.0),
        ValueError,
        "soft_threshold_: w is read-only, expected a writable array",
    ),
    (
        lambda: prune.soft_threshold_(W.T, 1.0),
        ValueError,
        "soft_threshold_: w.strides[-1] is 4, expected 1 (make it contiguous)",
    ),
    (
        lambda: prune.soft_threshold_(np.broadcast_to(W[0], (2, 4)).view(), 1.0),
        ValueError,
        "soft_threshold_: w is read-only, expected a writable array",
    ),
    (
        lambda: prune.group_soft_threshold_(W, 1.0, per="block"),
        ValueError,
        "group_soft_threshold_: per is 'block', expected 'row', 'column' or an int",
    ),
    (
        lambda: prune.group_soft_threshold_(W, 1.0, per=3),
        ValueError,
        "group_soft_threshold_: per is 3, expected a divisor of w.shape[-1] = 4",
    ),
    (
        lambda: prune.group_soft_threshold_(np.ones((2, 2, 2)), 1.0),
        ValueError,
        "group_soft_threshold_: w.ndim is 3, expected 1 or 2",
    ),
    (
        lambda: prune.sef_prox_(W, -0.5, 1),
        ValueError,
        "sef_prox_: lam is -0.5, expected at least 0",
    ),
    (
        lambda: prune.sef_prox_(W, 0.5, 3),
        ValueError,
        "sef_prox_: k is 3.0, expected 0 to the number of groups, 2",
    ),
    (
        lambda: prune.sef_prox_(np.array([1.0, np.nan]), 0.5, 1),
        ValueError,
        "sef_prox_: w holds NaN or infinity, expected neither",
    ),
    (
        lambda: prune.shrink_(W, np.ones((2, 3), bool)),
        ValueError,
        "shrink_: mask.shape is (2, 3), expected w.shape = (2, 4)",
    ),
    (
        lambda: prune.shrink_(W, np.ones((2, 4), np.int32)),
        TypeError,
        "shrink_: mask.dtype is int32, expected bool or uint8",
    ),
    (
        lambda: prune.shrink_(W, np.ones((2, 4), bool), factor=float("inf")),
        ValueError,
        "shrink_: factor is inf, expected a finite number",
    ),
    (
        lambda: prune.srste_grad_(W, np.ones((2, 4)), np.ones((2, 4), bool)),
        TypeError,
        "srste_grad_: w.dtype is float64, expected g.dtype = float32",
    ),
    (
        lambda: prune.srste_grad_(W, np.ones((2, 5), F32), np.ones((2, 4), bool)),
        ValueError,
        "srste_grad_: w.shape is (2, 5), expected g.shape = (2, 4)",
    ),
    (
        lambda: prune.srste_grad_(W, W, np.ones((2, 4), bool)),
        ValueError,
        "srste_grad_: g overlaps w, expected separate memory",
    ),
    (
        lambda: prune.l0_project_(W.copy(), 9),
        ValueError,
        "l0_project_: k is 9, expected 0 to 8",
    ),
    (
        lambda: prune.polarization(W),
        ValueError,
        "polarization: gamma.ndim is 2, expected 1",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
    assert (W == 1).all()


@pytest.mark.parametrize("per", ["row", "column", 2])
@pytest.mark.parametrize("scale", [1e170, 1e-170, 1e-310, 1.0])
def test_norms_of_groups_of_any_scale(scale: float, per: Any) -> None:
    w = np.array([[3.0, 4.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    if per == "column":
        w = w.T.copy()
    got = prune.group_soft_threshold_(w * scale, scale, per=per)
    want = np.zeros((3, 4))
    want[0, :2] = 2.4, 3.2
    np.testing.assert_allclose(got / scale, want.T if per == "column" else want, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_norms_of_columns_of_float32_of_any_scale(scale: float) -> None:
    w = np.array([[3.0, 0.0], [4.0, 0.0]], F32) * F32(scale)
    np.testing.assert_allclose(
        prune.group_soft_threshold_(w.copy(), scale, per="column") / F32(scale),
        [[2.4, 0], [3.2, 0]],
        rtol=1e-5,
    )


def test_infinities_and_nan_spread_over_their_group() -> None:
    w = np.array([[np.inf, 1e-200], [np.nan, 1e200], [3e200, 4e200]])
    got = prune.group_soft_threshold_(w.copy(), 1e200)
    assert got[0, 0] == np.inf and np.isnan(got[1]).all()
    np.testing.assert_allclose(got[2], [2.4e200, 3.2e200])


@pytest.mark.parametrize("scale", [1e200, 1e-320])
def test_sparse_envelope_has_no_scale(scale: float) -> None:
    got = prune.sef_prox_(np.array([4.0, 2.0, 0.0]) * scale, 0.5, 1.0, per=1)
    np.testing.assert_allclose(got / scale, [2.5, 0.5, 0], rtol=1e-3)


def test_masks_and_gradients_are_written_to_out() -> None:
    w, mask = np.array([3.0, -1.0, 2.0]), np.empty(3, np.uint8)
    same, kept = prune.l0_project_(w, 2, out=mask)
    assert (same is w, kept is mask, mask.tolist()) == (True, True, [1, 0, 1])
    grad = np.empty(3)
    assert prune.polarization(np.array([0.0, 1.0, 2.0]), out=grad)[1] is grad
    np.testing.assert_array_equal(grad, [1, 1, 0])
