"""Structured masks: what each keeps, against brute force."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gossamer
import numpy as np
import pytest
from gossamer.prune import check_nm, nm_mask, score
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from oracle import DTYPES

Floats = NDArray[Any]
Mask = NDArray[np.bool_]


@pytest.fixture(autouse=True)
def threads_restored() -> Iterator[None]:
    before = gossamer.get_num_threads()
    yield
    gossamer.set_num_threads(before)


def same_for_any_threads(call: Callable[[], Any]) -> Any:
    """Call with one thread, two and three, and return the first result."""
    results = []
    for threads in (1, 2, 3):
        gossamer.set_num_threads(threads)
        results.append(np.asarray(call()))
    assert all(r.tobytes() == results[0].tobytes() for r in results)
    return results[0]


def adversarial(shape: tuple[int, ...], dtype: Any, seed: int) -> Floats:
    """Draw few distinct values, with NaN, infinities, both zeros and subnormals."""
    rng = np.random.default_rng(seed)
    tiny = float(np.finfo(np.float32).smallest_subnormal)
    choices = np.array([-2.0, -1, -0.0, 0, 1, 2, np.nan, np.inf, -np.inf, tiny, -tiny])
    return rng.choice(choices, shape, p=[0.1, 0.2, 0.1, 0.1, 0.2, 0.1, 0.1, *[0.025] * 4]).astype(
        dtype
    )


def first_n(x: Floats, n: int, tie: str, nan: str) -> Mask:
    """Mark the n first of one group, by a stable sort."""
    value = x.astype(np.float64)
    beyond = np.inf if nan == "highest" else -np.inf
    missing = np.isnan(value)
    position = np.arange(x.size) if tie == "low" else -np.arange(x.size)
    rank = missing if nan == "lowest" else ~missing
    order = np.lexsort((position, -np.where(missing, beyond, value), rank))
    mask = np.zeros(x.size, bool)
    mask[order[:n]] = True
    return mask


def nm_oracle(
    x: Floats,
    n: int,
    m: int,
    *,
    axis: int = -1,
    tie: str = "low",
    nan: str = "lowest",
    tail: str = "",
) -> Mask:
    def line(v: Floats) -> Mask:
        groups = [v[i : i + m] for i in range(0, v.size, m)]
        all_kept = [tail == "keep" and group.size < m for group in groups]
        return np.concatenate(
            [
                first_n(g, g.size if k else n, tie, nan)
                for g, k in zip(groups, all_kept, strict=True)
            ]
            or [np.zeros(0, bool)]
        )

    if x.size == 0:
        return np.zeros(x.shape, bool)
    return np.asarray(np.apply_along_axis(line, axis, x))


SIZES = [
    (2, 4),
    (1, 4),
    (3, 4),
    (1, 2),
    (4, 8),
    (2, 8),
    (3, 5),
    (7, 16),
    (9, 33),
    (5, 64),
    (8, 100),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_nm_keeps_the_largest_of_each_group(n: int, m: int, dtype: Any) -> None:
    case = 0
    for shape in [(3, 2 * m), (m, 17), (2, m, 5), (1, 37 * m), (2 * m,)]:
        for axis in range(len(shape)):
            case += 1
            tie = ("low", "high")[case % 2]
            nan = ("lowest", "highest")[case // 2 % 2]
            tail = ("keep", "pad")[case % 2]
            x = adversarial(shape, dtype, case)
            got = nm_mask(x, n, m, axis=axis, tie=tie, nan=nan, tail=tail)
            assert got.dtype == bool
            np.testing.assert_array_equal(
                got, nm_oracle(x, n, m, axis=axis, tie=tie, nan=nan, tail=tail)
            )


@settings(max_examples=60, deadline=None)
@given(
    x=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=19),
        elements=st.floats(width=32),
    ),
    m=st.integers(1, 20),
    data=st.data(),
)
def test_nm_is_a_stable_sort_of_each_group(x: Floats, m: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, m))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    tie, nan = (
        data.draw(st.sampled_from(["low", "high"])),
        data.draw(st.sampled_from(["lowest", "highest"])),
    )
    tail: Any = data.draw(st.sampled_from(["keep", "pad"]))
    got = nm_mask(x, n, m, axis=axis, tie=tie, nan=nan, tail=tail)  # type: ignore[arg-type]
    np.testing.assert_array_equal(got, nm_oracle(x, n, m, axis=axis, tie=tie, nan=nan, tail=tail))
    violations, _ = check_nm(got, n, m, axis=axis)
    assert tail == "keep" or violations == 0


def test_nm_cases_of_other_libraries() -> None:
    ones = np.ones(4)
    assert nm_mask(np.array([0.69, 0.37, 0.96, 0.81]), 2, 4).tolist() == [0, 0, 1, 1]
    assert nm_mask(ones, 2, 4).tolist() == [1, 1, 0, 0]
    assert nm_mask(ones, 2, 4, tie="high").tolist() == [0, 0, 1, 1]
    assert nm_mask(score(np.array([1, -3, 2, -0.5])), 2, 4).tolist() == [0, 1, 1, 0]


def test_nm_keeps_exactly_n_of_equal_weights() -> None:
    # A threshold compared by value would keep all or none.
    for n in range(9):
        assert (nm_mask(np.full((6, 16), 0.5), n, 8).reshape(-1, 8).sum(1) == n).all()


@pytest.mark.parametrize("kind", ["value", "magnitude", "snip", "wanda"])
@pytest.mark.parametrize("axis", [0, 1])
def test_nm_reads_scores_where_they_are(kind: Any, axis: int) -> None:
    rng = np.random.default_rng(5)
    w = rng.standard_normal((96, 400)).astype(np.float32)
    s = score(w, kind, g=w[::-1].copy(), col=rng.random(400).astype(np.float32), scale=0.5)
    got = same_for_any_threads(lambda: nm_mask(s, 2, 4, axis=axis))
    np.testing.assert_array_equal(got, nm_oracle(s.array(), 2, 4, axis=axis))
    np.testing.assert_array_equal(
        nm_mask(s, 3, 7, axis=axis, tail="pad"), nm_oracle(s.array(), 3, 7, axis=axis, tail="pad")
    )


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_masks_come_back_in_the_framework_of_the_score(framework: str) -> None:
    module = pytest.importorskip(framework)
    w = np.array([[1.0, -3, 2, -0.5]], np.float32)
    array = module.from_numpy(w) if framework == "torch" else module.numpy.asarray(w)
    mask = nm_mask(score(array), 2, 4)
    assert type(mask) is type(array)
    assert "bool" in str(mask.dtype)
    assert np.asarray(mask).tolist() == [[0, 1, 1, 0]]
    assert check_nm(mask, 2, 4) == (0, -1)
    assert check_nm(array, 2, 4) == (1, 0)


def test_nm_writes_in_place() -> None:
    x = np.arange(8.0).reshape(2, 4)
    for dtype in (np.uint8, bool):
        out = np.full((2, 4), 9).astype(dtype)
        assert nm_mask(x, 1, 4, out=out) is out
        assert out.tolist() == [[0, 0, 0, 1]] * 2


@pytest.mark.parametrize("dtype", [*DTYPES, bool, np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_check_nm_counts(dtype: Any, axis: int) -> None:
    rng = np.random.default_rng(3)
    for m in (1, 4, 7):
        x = np.moveaxis((rng.random((40, 3, 29)) < 0.5).astype(dtype), 2, axis).copy()
        x[0, 0, 0] = x[0, 0, 0] if dtype in (bool, np.uint8, np.int32, np.int64) else np.nan
        lines = np.moveaxis(x != 0, axis, -1)
        pad = -lines.shape[-1] % m
        lines = np.pad(lines, [(0, 0), (0, 0), (0, pad)])
        over = lines.reshape(*lines.shape[:2], -1, m).sum(-1) > m // 2
        over = np.moveaxis(over, -1, axis)
        want = (int(over.sum()), int(np.argmax(over.ravel())) if over.any() else -1)
        assert check_nm(x, m // 2, m, axis=axis) == want


def test_check_nm_names_the_group() -> None:
    assert check_nm(np.array([1, 1, 1, 0]), 2, 4) == (1, 0)
    x = np.zeros((5000, 64), np.float32)
    x[4321, 8:12] = 1
    x[4999, 0:4] = -1
    assert check_nm(x, 2, 4) == (2, 4321 * 16 + 2)
    assert check_nm(x.T.copy(), 2, 4, axis=0) == (2, 4999)


X = np.ones((2, 6), np.float32)
BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "tail": (
        lambda: nm_mask(X, 2, 4),
        ValueError,
        "nm_mask: score.shape[1] is 6, expected a multiple of m = 4, or tail 'keep' or 'pad'",
    ),
    "n": (lambda: nm_mask(X, 4, 3), ValueError, "nm_mask: n is 4, expected 0 to m = 3"),
    "n negative": (lambda: nm_mask(X, -1, 3), ValueError, "nm_mask: n is -1, expected 0 to m = 3"),
    "m": (lambda: nm_mask(X, 0, 0), ValueError, "nm_mask: m is 0, expected at least 1"),
    "axis": (lambda: nm_mask(X, 1, 2, axis=2), ValueError, "nm_mask: axis is 2, expected -2 to 1"),
    "no axis": (
        lambda: nm_mask(np.ones(()), 1, 2),
        ValueError,
        "nm_mask: score.ndim is 0, expected at least 1",
    ),
    "tie": (
        lambda: nm_mask(X, 1, 2, tie="any"),  # type: ignore[arg-type]
        ValueError,
        "nm_mask: tie is 'any', expected 'low' or 'high'",
    ),
    "tail word": (
        lambda: nm_mask(X, 1, 2, tail="drop"),  # type: ignore[arg-type]
        ValueError,
        "nm_mask: tail is 'drop', expected 'error', 'keep' or 'pad'",
    ),
    "nan": (
        lambda: nm_mask(X * np.nan, 1, 2, nan="error"),
        ValueError,
        "nm_mask: score holds 12 NaN, expected none",
    ),
    "strided": (
        lambda: nm_mask(X.T, 1, 2),
        ValueError,
        "nm_mask: score is strided, expected a contiguous array",
    ),
    "integers": (
        lambda: nm_mask(np.ones(4, np.int32), 1, 2),
        TypeError,
        "nm_mask: score.dtype is int32, expected a floating type",
    ),
    "out dtype": (
        lambda: nm_mask(X, 1, 2, out=np.zeros((2, 6), np.float32)),
        TypeError,
        "nm_mask: out.dtype is float32, expected bool",
    ),
    "out shape": (
        lambda: nm_mask(X, 1, 2, out=np.zeros((2, 5), bool)),
        ValueError,
        "nm_mask: out.shape is (2, 5), expected (2, 6)",
    ),
    "check axis": (
        lambda: check_nm(X, 1, 2, axis=-3),
        ValueError,
        "check_nm: axis is -3, expected -2 to 1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_calls_say_what_is_wrong(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_nothing_is_written_when_nan_is_an_error() -> None:
    x = np.ones((300, 256), np.float32)
    x[299, 255] = np.nan
    out = np.full(x.shape, 7, np.uint8)
    with pytest.raises(ValueError, match="holds 1 NaN"):
        nm_mask(x, 2, 4, nan="error", out=out)
    assert (out == 7).all()
