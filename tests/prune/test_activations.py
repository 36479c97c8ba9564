"""Thresholds of activations: how many stay, and the error of leaving out the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gossamer import prune
from oracle import DTYPES

F32 = np.float32


def draw(shape: Any, dtype: Any = F32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_cats_keeps_k(share: float, dtype: Any) -> None:
    x = np.random.default_rng(0).permutation(2000)[:1000].astype(F32).astype(dtype)
    k = round(share * x.size)
    t = prune.cats_threshold(x, k)
    magnitudes = np.abs(x.astype(np.float64))
    assert t == (-1 if k == x.size else np.sort(magnitudes)[::-1][k])
    assert (magnitudes > t).sum() <= k
    if len(np.unique(magnitudes)) == x.size:
        assert (magnitudes > t).sum() == k


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_never_kept_and_costs_no_number(dtype: Any) -> None:
    x = np.array([[np.nan, 1, 2], [3, np.nan, np.nan]], F32).astype(dtype)
    for k, kept in enumerate([0, 1, 2, 3, 3, 3, 3]):
        magnitudes = np.abs(x.astype(np.float64))
        assert (magnitudes > prune.cats_threshold(x, k)).sum() == kept
        assert (magnitudes > prune.channel_threshold(x, np.ones(3, F32), k)).sum() == kept


@pytest.mark.parametrize("dtype", DTYPES)
def test_chess_keeps_k_by_the_partner_too(dtype: Any) -> None:
    x = draw((40, 30), dtype)
    u_sq = np.random.default_rng(1).uniform(0.1, 4, 30).astype(F32)
    k = 500
    t = prune.channel_threshold(x, u_sq, k)
    assert (t.shape, t.dtype) == ((30,), F32)
    # t_i = √(τ/E[u_i²]) with τ the first of g²·E[u²] that does not stay.
    products = np.sort((x.astype(np.float64) ** 2 * u_sq).reshape(-1))[::-1]
    np.testing.assert_allclose(t, np.sqrt(products[k] / u_sq), rtol=1e-5)
    kept = (np.abs(x.astype(np.float64)) > t * (1 + 1e-6)).sum()
    assert k - 20 <= kept <= k


def test_chess_leaves_out_a_channel_without_a_partner() -> None:
    t = prune.channel_threshold(draw((5, 3)), np.array([1, 0, 2], F32), 4)
    np.testing.assert_array_equal(np.isinf(t), [False, True, False])


@pytest.mark.parametrize(("spread", "better"), [(1.0, True), (0.0, False)])
def test_chess_beats_one_threshold_where_channels_differ(spread: float, better: bool) -> None:
    rng = np.random.default_rng(3)
    scales = np.exp(spread * rng.standard_normal(256))
    gate, up = rng.standard_normal((2, 400, 256))
    up = up * scales
    down = rng.standard_normal((256, 64))
    k = gate.size // 2
    u_sq = (prune.ColumnStats().add(up).sumsq / len(up)).astype(F32)
    exact = (gate * up) @ down

    def error(threshold: Any) -> float:
        kept = np.where(np.abs(gate) > threshold, gate, 0)
        return float(np.linalg.norm((kept * up) @ down - exact) / np.linalg.norm(exact))

    chess = error(prune.channel_threshold(gate, u_sq, k))
    cats = error(prune.cats_threshold(gate, k))
    if better:
        assert chess < 0.75 * cats
    else:
        assert chess == pytest.approx(cats, rel=0.05)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cett(dtype: Any) -> None:
    w = draw((64, 20), dtype)
    w[:, 3] = 0
    t = prune.cett_threshold(w, 0.5)
    norms = np.linalg.norm(w.astype(np.float64), axis=0)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(t, 0.5 / norms, rtol=1e-5)
    assert t[3] == np.inf


def test_cett_leaves_out_more_as_it_rises() -> None:
    w, x = draw((32, 200)), np.maximum(draw((50, 200), seed=1), 0)
    exact = x @ w.T
    errors, shares = [], []
    for t in (0.0, 0.5, 1.0, 2.0, 4.0):
        kept = np.where(np.abs(x) >= prune.cett_threshold(w, t), x, 0)
        shares.append(np.count_nonzero(kept))
        errors.append(np.linalg.norm(kept @ w.T - exact) / np.linalg.norm(exact))
    assert errors[0] == 0
    assert errors == sorted(errors)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    "kind", [np.float32, np.float64, np.float16, lambda x: np.array(x, F32), int]
)
def test_numbers_of_any_type(kind: Callable[[float], Any]) -> None:
    w, x = draw((5, 4)), draw((6, 5))
    np.testing.assert_array_equal(prune.cett_threshold(w, kind(2.0)), prune.cett_threshold(w, 2.0))
    for k in (np.int8(7), np.uint64(7), np.array(7)):
        assert prune.cats_threshold(x, k) == prune.cats_threshold(x, 7)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_frameworks(framework: str) -> None:
    module = pytest.importorskip(framework)
    x, u_sq = draw((6, 9)), np.abs(draw(9, seed=2)) + F32(0.1)
    of = module.from_numpy if framework == "torch" else module.numpy.asarray
    kind = module.Tensor if framework == "torch" else module.Array
    assert prune.cats_threshold(of(x), 20) == prune.cats_threshold(x, 20)
    for got, want in (
        (prune.channel_threshold(of(x), of(u_sq), 20), prune.channel_threshold(x, u_sq, 20)),
        (prune.cett_threshold(of(x), 1.0), prune.cett_threshold(x, 1.0)),
    ):
        assert isinstance(got, kind)
        np.testing.assert_array_equal(np.asarray(got), want)


BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: prune.cats_threshold(draw((2, 3)), 7),
        ValueError,
        "cats_threshold: k is 7, expected 0 to 6",
    ),
    (
        lambda: prune.channel_threshold(draw((2, 3)), np.ones(3, F32), -1),
        ValueError,
        "channel_threshold: k is -1, expected 0 to 6",
    ),
    (
        lambda: prune.cett_threshold(draw((2, 3)), -1.0),
        ValueError,
        "cett_threshold: t is -1.0, expected at least 0",
    ),
    (
        lambda: prune.cett_threshold(draw((2, 3)), float("nan")),
        ValueError,
        "cett_threshold: t is nan, expected at least 0",
    ),
    (
        lambda: prune.cett_threshold(draw((2, 3)), "1"),  # type: ignore[arg-type]
        TypeError,
        "cett_threshold: t is '1', expected a number",
    ),
    (
        lambda: prune.cett_threshold(draw((2, 3)), np.ones(2)),
        TypeError,
        "cett_threshold: t is an array of shape (2,), expected a number",
    ),
    (
        lambda: prune.cats_threshold(draw((2, 3)), 6.0),  # type: ignore[arg-type]
        TypeError,
        "cats_threshold: k is 6.0, expected an integer",
    ),
    (
        lambda: prune.channel_threshold(draw((2, 3)), np.ones(3, F32), "1"),  # type: ignore[arg-type]
        TypeError,
        "channel_threshold: k is '1', expected an integer",
    ),
    # The functions that do the work are not those that the caller knows.
    (
        lambda: prune.cats_threshold(np.ones(3, np.int64), 1),
        TypeError,
        "cats_threshold: x.dtype is int64, expected float32, float64, float16 or bfloat16",
    ),
    (
        lambda: prune.channel_threshold(draw((2, 3)), np.ones(4, F32), 1),
        ValueError,
        "channel_threshold: u_sq.shape[0] is 4, expected x.shape[-1] = 3",
    ),
    (
        lambda: prune.channel_threshold(draw((2, 3)), np.ones(3, np.float16), 1),
        TypeError,
        "channel_threshold: u_sq.dtype is float16, expected float32 or float64",
    ),
    (
        lambda: prune.cett_threshold([[1.0]], 1.0),
        TypeError,
        "cett_threshold: w_out is a list, expected an array with __dlpack__",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(("dtype", "scale"), [(np.float64, 1e170), (np.float32, 1e25)])
def test_thresholds_of_neurons_of_any_scale(dtype: Any, scale: float) -> None:
    w = (np.array([[3.0, 0.0], [4.0, 2.0]]) * scale).astype(dtype)
    out = np.empty(2, np.float32)
    assert prune.cett_threshold(w, scale, out=out) is out
    np.testing.assert_allclose(out, [0.2, 0.5], rtol=1e-6)
