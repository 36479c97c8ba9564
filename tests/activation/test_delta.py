"""Layers applied to the changes of a stream, against the same steps in float64 NumPy."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import oracle
import pytest
from gossamer import DeltaState, delta_linear, sparse_linear

F32 = np.float32


def name(dtype: type) -> str:
    return np.dtype(dtype).name


def wide(a: Any) -> np.ndarray:
    return np.asarray(a).astype(np.float64)


def sent_after(last: np.ndarray, x: np.ndarray, threshold: Any) -> np.ndarray:
    """Return what the channels have sent after a step."""
    passing = (~(np.abs(x - last) < threshold)).reshape(-1, x.shape[-1]).any(0)
    return np.where(passing, x, last)


def stream(shape: tuple[int, ...], dtype: Any, steps: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    x = np.zeros(shape)
    made = []
    for _ in range(steps):
        x = x + rng.integers(-2, 3, shape) * (rng.random(shape) < 0.3)
        made.append(x.astype(dtype))
    return made


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("shape", [(1,), (33,), (1, 17), (3, 40), (2, 2, 9), (70, 5)])
def test_integers_are_exact_at_every_step(dtype: type, shape: tuple[int, ...]) -> None:
    k = shape[-1]
    for m in (1, 31, 200):
        wt = oracle.random_dense((k, m), dtype, 1, integers=True)
        for threshold in (0, 2, np.arange(k, dtype=F32) % 4):
            state, last = DeltaState(), np.zeros(shape)
            for x in stream(shape, dtype):
                before, last = last, sent_after(last, wide(x), threshold)
                got = delta_linear(x, wt, state, threshold=threshold)
                np.testing.assert_array_equal(got, (last @ wide(wt)).astype(dtype))
                np.testing.assert_array_equal(state.last, last)
                np.testing.assert_array_equal(state.sums, last @ wide(wt))
                passing = np.abs(wide(x) - before).reshape(-1, k) >= threshold
                assert state.sent == passing.any(0).sum()


def test_first_step_is_sparse_linear() -> None:
    x, wt = oracle.random_dense((2, 50), F32, 1), oracle.random_dense((50, 30), F32, 2)
    bias = oracle.random_dense((30,), F32, 3)
    options: dict[str, Any] = {"threshold": 0.7, "bias": bias, "activation": "gelu"}
    got = delta_linear(x, wt, DeltaState(), **options)
    np.testing.assert_array_equal(got, sparse_linear(x, wt, **options))


def test_held_back_changes_are_sent_when_they_add_up() -> None:
    state, wt = DeltaState(), np.ones((1, 1), F32)
    outputs = [
        delta_linear(np.array([x], F32), wt, state, threshold=1.0)[0]
        for x in (0.5, 0.75, 1.25, 1.5, 2.25, 2.0)
    ]
    assert outputs == [0, 0, 1.25, 1.25, 2.25, 2.25]


def test_refresh_ends_the_drift() -> None:
    rng = np.random.default_rng(0)
    wt = rng.standard_normal((40, 30)).astype(F32)
    state = DeltaState()
    for _ in range(300):
        x = (rng.standard_normal(40) * 1000).astype(F32)
        delta_linear(x, wt, state, threshold=0.5)
    x = rng.standard_normal(40).astype(F32)
    drifted = delta_linear(x, wt, copy.deepcopy(state), threshold=0)
    exact = delta_linear(x, wt, state, threshold=0, refresh=True)
    np.testing.assert_array_equal(exact, sparse_linear(x, wt, threshold=0))
    error = np.abs(wide(drifted) - wide(x) @ wide(wt)).max()
    assert 0 < error < 300 * 50 * 1e-7 * 1000 * 10


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_leaves_with_the_input(bad: float) -> None:
    wt = oracle.random_dense((3, 4), F32, 1, integers=True)
    state = DeltaState()
    good = np.array([1, 2, 3], F32)
    delta_linear(good, wt, state, threshold=0)
    assert not np.isfinite(delta_linear(np.array([1, bad, 3], F32), wt, state, threshold=5)).all()
    np.testing.assert_array_equal(delta_linear(good, wt, state, threshold=5), good @ wt)


def test_a_state_can_be_copied_pickled_and_reset() -> None:
    wt, x = np.ones((3, 2), F32), np.array([1, 2, 3], F32)
    state = DeltaState()
    delta_linear(x, wt, state, threshold=0)
    for other in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert delta_linear(x * 2, wt, other, threshold=0).tolist() == [12, 12]
    assert state.sums.tolist() == [6, 6]
    state.reset()
    assert state.last is state.sums is None
    assert delta_linear(np.ones((4, 3)), np.ones((3, 1)), state, threshold=0).shape == (4, 1)
    assert state.last.dtype == np.float64


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_state_serves_every_framework(framework: str) -> None:
    module = pytest.importorskip(framework)
    convert = module.from_numpy if framework == "torch" else module.numpy.asarray
    wt, state = convert(np.ones((3, 2), F32)), DeltaState()
    for x in ([1, 2, 3], [1, 2, 5]):
        got = delta_linear(convert(np.array(x, F32)), wt, state, threshold=1)
        assert isinstance(got, module.Tensor if framework == "torch" else module.Array)
        assert np.asarray(got).tolist() == [sum(x)] * 2
    assert state.sent == 1


def test_empty_streams() -> None:
    for tokens, k, m in ((0, 3, 2), (2, 0, 3), (2, 3, 0)):
        state = DeltaState()
        got = delta_linear(np.ones((tokens, k), F32), np.ones((k, m), F32), state, threshold=0)
        np.testing.assert_array_equal(got, np.full((tokens, m), k))
        np.testing.assert_array_equal(state.last, np.ones((tokens, k)))


def stepped() -> DeltaState:
    state = DeltaState()
    delta_linear(np.ones((2, 3), F32), np.ones((3, 4), F32), state, threshold=1)
    return state


BAD: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: delta_linear(np.ones(3, F32), np.ones((3, 4), F32), None, threshold=1),  # type: ignore[arg-type]
        TypeError,
        "delta_linear: state is a NoneType, expected a DeltaState",
    ),
    (
        lambda: delta_linear(np.ones((1, 3), F32), np.ones((3, 4), F32), stepped(), threshold=1),
        ValueError,
        "delta_linear: state.last.shape is (2, 3), expected x.shape = (1, 3)",
    ),
    (
        lambda: delta_linear(np.ones((2, 3), F32), np.ones((3, 5), F32), stepped(), threshold=1),
        ValueError,
        "delta_linear: state.sums.shape is (2, 4), expected out.shape = (2, 5)",
    ),
    (
        lambda: delta_linear(np.ones((2, 3)), np.ones((3, 4)), stepped(), threshold=1),
        TypeError,
        "delta_linear: state.last.dtype is float32, expected float64",
    ),
    (
        lambda: delta_linear((state := stepped()).last, np.ones((3, 4), F32), state, threshold=1),
        ValueError,
        "delta_linear: state.last overlaps x, expected separate memory",
    ),
    (
        lambda: delta_linear(
            np.ones((2, 3), F32),
            np.ones((3, 4), F32),
            (state := stepped()),
            threshold=1,
            out=state.sums,
        ),
        ValueError,
        "delta_linear: state.sums overlaps out, expected separate memory",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_a_refused_step_leaves_the_state() -> None:
    state = stepped()
    before = state.last.copy(), state.sums.copy()
    with pytest.raises(ValueError):
        delta_linear(np.ones((2, 3), F32), np.ones((3, 4), F32), state, threshold=float("nan"))
    np.testing.assert_array_equal(state.last, before[0])
    np.testing.assert_array_equal(state.sums, before[1])


def test_half_a_state_is_refused() -> None:
    for name in ("last", "sums"):
        state = stepped()
        setattr(state, name, None)
        with pytest.raises(ValueError, match=r"^delta_linear: state has one of last and sums, exp"):
            delta_linear(np.ones((2, 3), F32), np.ones((3, 4), F32), state, threshold=1)
