"""Structured masks, compared with brute force."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import gossamer
import numpy as np
import pytest
from gossamer.prune import (
    block_mask,
    block_pool,
    check_nm,
    expand_blocks,
    nm_mask,
    nm_mask_transposable,
    permutation_search,
    score,
    topk_mask,
    vnm_mask,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from library import examples
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
    """Mark the first n of one group in the order of a stable sort."""
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
    (11, 32),
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


@settings(max_examples=examples(60), deadline=None)
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


@pytest.mark.parametrize("m", [8, 16, 32])
def test_nm_keeps_exactly_n_of_equal_weights(m: int) -> None:
    # Comparing with a threshold would keep all or none.
    for n in range(m + 1):
        for tie in ("low", "high"):
            x = np.full((6, 18 * m), 0.5, np.float32)
            got = nm_mask(x, n, m, tie=tie).reshape(-1, m)  # type: ignore[arg-type]
            kept = np.arange(m) < n if tie == "low" else np.arange(m) >= m - n
            assert (got == kept).all()
            assert (nm_mask(x.T.copy(), n, m, axis=0, tie=tie).T.reshape(-1, m) == kept).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize(("n", "m"), [(4, 8), (1, 16), (8, 16), (15, 16), (10, 32), (31, 32)])
def test_nm_of_many_groups_with_few_ties(n: int, m: int, dtype: Any) -> None:
    rng = np.random.default_rng(n)
    x = rng.standard_normal((3, 70 * m)).astype(dtype)
    for place in rng.integers(0, x.size, 40):  # a few ties, and NaN
        x.ravel()[place] = rng.choice([x.ravel()[place - 1], np.nan, np.inf, -np.inf])
    for tie, nan in itertools.product(("low", "high"), ("lowest", "highest")):
        want = nm_oracle(x, n, m, tie=tie, nan=nan)
        got = nm_mask(x, n, m, tie=tie, nan=nan)  # type: ignore[arg-type]
        np.testing.assert_array_equal(got, want)
        got = nm_mask(x.T.copy(), n, m, axis=0, tie=tie, nan=nan)  # type: ignore[arg-type]
        np.testing.assert_array_equal(got.T, want)


@pytest.mark.parametrize("kind", ["value", "magnitude", "snip", "wanda"])
@pytest.mark.parametrize("axis", [0, 1])
def test_nm_reads_scores_where_they_are(kind: Any, axis: int) -> None:
    rng = np.random.default_rng(5)
    w = rng.standard_normal((96, 400)).astype(np.float32)
    s = score(w, kind=kind, g=w[::-1].copy(), col=rng.random(400).astype(np.float32), scale=0.5)
    got = same_for_any_threads(lambda: nm_mask(s, 2, 4, axis=axis))
    np.testing.assert_array_equal(got, nm_oracle(s.array(), 2, 4, axis=axis))
    np.testing.assert_array_equal(
        nm_mask(s, 3, 7, axis=axis, tail="pad"), nm_oracle(s.array(), 3, 7, axis=axis, tail="pad")
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("kind", ["wanda", "snip", "obs"])
def test_nm_of_a_score_is_that_of_its_values(kind: Any, dtype: Any) -> None:
    rng = np.random.default_rng(6)
    for m, sides in itertools.product((2, 3, 4, 7, 8, 12, 16, 32, 40), [(6, 1), (1, 37), (3, 130)]):
        shape = (sides[0] * m, sides[1] * m if m < 40 else 2 * m)
        w, g = adversarial(shape, dtype, m), rng.standard_normal(shape).astype(dtype)
        col = adversarial(shape[1:], dtype, m + 1)
        for scale, axis in itertools.product((1.0, -0.7), (0, 1)):
            s = score(w, kind=kind, g=g, col=col, scale=scale)
            tie, nan = ("low", "high")[axis], ("lowest", "highest")[m % 2]
            got = nm_mask(s, m // 2, m, axis=axis, tie=tie, nan=nan)  # type: ignore[arg-type]
            want = nm_mask(s.array(), m // 2, m, axis=axis, tie=tie, nan=nan)  # type: ignore[arg-type]
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: np.dtype(t).name)
def test_nm_of_groups_of_thousands(dtype: Any) -> None:
    x = np.random.default_rng(7).standard_normal(2 * 40000).astype(dtype)
    np.testing.assert_array_equal(nm_mask(x, 15000, 40000), nm_oracle(x, 15000, 40000))


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_masks_come_back_in_the_framework_of_the_score(framework: str) -> None:
    module = pytest.importorskip(framework)
    w = np.array([[1.0, -3, 2, -0.5]], np.float32)
    array = module.from_numpy(w) if framework == "torch" else module.numpy.asarray(w)
    mask = nm_mask(score(array), 2, 4)
    assert type(mask) is type(array)
    assert "bool" in str(mask.dtype)
    assert np.asarray(mask).tolist() == [[0, 1, 1, 0]]
    assert check_nm(mask, 2, 4) == (0, None)
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
        want = (int(over.sum()), int(np.argmax(over.ravel())) if over.any() else None)
        assert check_nm(x, m // 2, m, axis=axis) == want


@pytest.mark.parametrize("dtype", [*DTYPES, bool, np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("m", [2, 4, 8, 16, 32, 64])
def test_check_nm_counts_along_rows(m: int, dtype: Any) -> None:
    rng = np.random.default_rng(m)
    for n, length in itertools.product({0, 1, m // 2, m - 1, m}, (1, 63, 64 * 3, 64 * 5 + m + 1)):
        x = (rng.random((3, length)) < min(1.05 * n / m + 0.01, 1)).astype(dtype)
        if dtype in DTYPES:
            x = np.where(x == 0, -x, x)  # zeros with a sign, which are zeros
        lines = np.pad(x != 0, [(0, 0), (0, -length % m)]).reshape(3, -1, m)
        over = lines.sum(-1) > n
        want = (int(over.sum()), int(np.argmax(over.ravel())) if over.any() else None)
        assert check_nm(x, n, m) == want


def test_check_nm_names_the_group() -> None:
    assert check_nm(np.array([1, 1, 1, 0]), 2, 4) == (1, 0)
    x = np.zeros((5000, 64), np.float32)
    x[4321, 8:12] = 1
    x[4999, 0:4] = -1
    assert check_nm(x, 2, 4) == (2, 4321 * 16 + 2)
    assert check_nm(x.T.copy(), 2, 4, axis=0) == (2, 4999)


# Transposable.


@functools.cache
def transposable_patterns(n: int, m: int) -> NDArray[np.bool_]:
    """Return all patterns [count, m, m] in lexicographic order, columns kept first."""
    rows = [np.isin(np.arange(m), c) for c in itertools.combinations(range(m), n)]
    found: list[list[Mask]] = [[]]
    for _ in range(m):
        found = [[*p, r] for p in found for r in rows if (np.sum([*p, r], axis=0) <= n).all()]
    return np.array([p for p in found if (np.sum(p, axis=0) == n).all()])


def blocks_of(x: NDArray[Any], m: int) -> NDArray[Any]:
    r, c = x.shape
    return x.reshape(r // m, m, c // m, m).swapaxes(1, 2).reshape(-1, m, m)


def assert_transposable(mask: Mask, n: int, m: int) -> None:
    blocks = blocks_of(mask, m)
    assert (blocks.sum(1) == n).all()
    assert (blocks.sum(2) == n).all()
    assert check_nm(mask, n, m) == check_nm(mask, n, m, axis=0) == (0, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize(
    ("n", "m"), [(1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 4), (2, 5), (3, 5), (1, 6)]
)
def test_exact_transposable_is_the_first_of_the_best(n: int, m: int, dtype: Any) -> None:
    assert m != 4 or len(transposable_patterns(n, m)) == {1: 24, 2: 90, 3: 24}[n]
    patterns = transposable_patterns(n, m).reshape(-1, m * m).astype(float)
    rng = np.random.default_rng(n * 10 + m)
    # Small integers tie often; real numbers never.
    for drawn in (rng.integers(-2, 3, (6 * m, 9 * m)), rng.standard_normal((5 * m, 7 * m))):
        x = drawn.astype(dtype)
        got = nm_mask_transposable(x, n, m)
        sums = blocks_of(x, m).reshape(-1, m * m).astype(float) @ patterns.T
        want = patterns[np.argmax(np.round(sums, 9), 1)].reshape(-1, m, m)
        np.testing.assert_array_equal(blocks_of(got, m), want)
        assert_transposable(got, n, m)


@pytest.mark.parametrize(("n", "m"), [(4, 8), (2, 8), (1, 8), (7, 8), (3, 6), (3, 7), (8, 16)])
def test_exact_transposable_meets_a_linear_program(n: int, m: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    degree = np.vstack([np.kron(np.eye(m), np.ones(m)), np.kron(np.ones(m), np.eye(m))])
    rng = np.random.default_rng(m * n)
    for drawn in (rng.integers(-4, 5, (2 * m, 2 * m)), rng.standard_normal((2 * m, 2 * m))):
        x = drawn.astype(np.float64)
        got = nm_mask_transposable(x, n, m)
        assert_transposable(got, n, m)
        for block, kept in zip(blocks_of(x, m), blocks_of(got, m), strict=True):
            # The constraints are totally unimodular: the relaxation has the same optimum.
            best = optimize.linprog(
                -block.ravel(), A_eq=degree, b_eq=np.full(2 * m, n), bounds=(0, 1)
            )
            assert block[kept].sum() == pytest.approx(-best.fun, abs=1e-9)


@pytest.mark.parametrize("m", [3, 5, 8])
def test_ties_of_the_flow_are_settled_as_by_trying_all(m: int) -> None:
    # For equal scores the first pattern is known: each row takes the first columns with room.
    n = m // 2
    got = nm_mask_transposable(np.ones((m, m)), n, m)
    first = np.array([[(c - r) % m < n for c in range(m)] for r in range(m)])
    assert_transposable(got, n, m)
    assert tuple(~got.ravel()) <= tuple(~first.ravel())
    assert got[0, :n].all()


@pytest.mark.parametrize("method", ["exact", "greedy"])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (3, 5), (5, 12), (8, 32), (32, 64)])
def test_transposable_keeps_n_both_ways_of_anything(n: int, m: int, method: Any) -> None:
    for seed, dtype in enumerate(DTYPES):
        x = adversarial((2 * m, 3 * m), dtype, seed)
        assert_transposable(nm_mask_transposable(x, n, m, method=method), n, m)


def test_transposable_treats_infinities_as_beyond_any_sum() -> None:
    x = np.full((4, 4), 1e30, np.float32)
    x[0, 3] = np.inf
    x[1, 0] = -np.inf
    x[2, 2] = np.nan
    for n in (1, 2, 3):
        mask = nm_mask_transposable(x, n, 4)
        assert mask[0, 3]
        assert not mask[1, 0]
        assert not mask[2, 2]


def test_greedy_transposable_takes_the_largest_first() -> None:
    x = np.array([[5, 4], [4, 0]])
    assert nm_mask_transposable(x.astype(float), 1, 2).tolist() == [[0, 1], [1, 0]]
    assert nm_mask_transposable(x.astype(float), 1, 2, method="greedy").tolist() == [[1, 0], [0, 1]]
    x = np.random.default_rng(0).standard_normal((64, 64))
    for n, m in ((2, 4), (4, 8)):
        best = x[nm_mask_transposable(x, n, m)].sum()
        assert 0.8 * best < x[nm_mask_transposable(x, n, m, method="greedy")].sum() <= best


@pytest.mark.parametrize("n", [0, 4])
def test_transposable_of_none_and_all(n: int) -> None:
    assert (nm_mask_transposable(np.ones((8, 8)), n, 4) == (n == 4)).all()
    assert nm_mask_transposable(np.ones((0, 8)), 2, 4).shape == (0, 8)


def test_transposable_reads_scores_and_any_number_of_threads() -> None:
    rng = np.random.default_rng(9)
    w = rng.standard_normal((160, 336)).astype(np.float32)
    s = score(w, kind="snip", g=rng.standard_normal(w.shape).astype(np.float32))
    for n, m in ((2, 4), (4, 8)):
        got = same_for_any_threads(lambda n=n, m=m: nm_mask_transposable(s, n, m))
        np.testing.assert_array_equal(got, nm_mask_transposable(s.array(), n, m))
        got = nm_mask_transposable(score(w), n, m)
        np.testing.assert_array_equal(got, nm_mask_transposable(np.abs(w), n, m))


# V:N:M.


def vnm_sums(block: Floats, n: int) -> dict[tuple[int, ...], float]:
    """Return the sum that each choice of four columns of a block keeps."""
    value = block.astype(np.float64)
    return {
        c: float(np.sort(value[:, c], axis=1)[:, 4 - n :].sum())
        for c in itertools.combinations(range(block.shape[1]), 4)
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize(("v", "n", "m"), [(16, 2, 8), (1, 1, 5), (5, 3, 7), (33, 2, 6), (3, 4, 9)])
def test_exact_vnm_keeps_the_best_columns(v: int, n: int, m: int, dtype: Any) -> None:
    rng = np.random.default_rng(v)
    for drawn in (rng.integers(-3, 4, (2 * v, 3 * m)), rng.standard_normal((2 * v, 3 * m))):
        x = drawn.astype(dtype)
        got = vnm_mask(x, v, n, m)
        for i, j in itertools.product(range(2), range(3)):
            at = np.s_[i * v : (i + 1) * v, j * m : (j + 1) * m]
            sums = vnm_sums(x[at], n)
            best = max(sums.values())
            assert x[at][got[at]].astype(float).sum() == pytest.approx(best, abs=1e-4 * v)
            if np.issubdtype(x.dtype, np.inexact) and best == int(best):
                columns = next(c for c, s in sums.items() if s == best)
                want = np.zeros((v, m), bool)
                want[:, columns] = nm_oracle(x[at][:, columns], n, 4)
                np.testing.assert_array_equal(got[at], want)


@pytest.mark.parametrize("m", [8, 16, 17])
@pytest.mark.parametrize("v", [1, 16, 40, 64, 100, 300])
def test_exact_vnm_tells_nearly_equal_columns_apart(v: int, m: int) -> None:
    # All scores are near 1, and all sums of float32 exact.
    steps = np.random.default_rng(v * m).integers(0, 16, (2 * v, 2 * m))
    got = vnm_mask((1 + steps * 2.0**-12).astype(np.float32), v, 2, m)
    for i, j in itertools.product(range(2), range(2)):
        at = np.s_[i * v : (i + 1) * v, j * m : (j + 1) * m]
        block = steps[at]
        sets = np.array(list(itertools.combinations(range(m), 4)))
        sums = np.sort(block[:, sets], axis=2)[..., 2:].sum((0, 2))
        columns = sets[np.argmax(sums)]
        want = np.zeros((v, m), bool)
        want[:, columns] = nm_oracle(block[:, columns].astype(np.float32), 2, 4)
        np.testing.assert_array_equal(got[at], want)


@pytest.mark.parametrize("method", ["exact", "greedy"])
@pytest.mark.parametrize(("v", "n", "m"), [(8, 2, 16), (20, 1, 10), (4, 2, 20), (1, 2, 4)])
def test_vnm_has_its_structure(v: int, n: int, m: int, method: Any) -> None:
    for seed, dtype in enumerate(DTYPES):
        x = adversarial((3 * v, 2 * m), dtype, seed)
        got = same_for_any_threads(lambda x=x: vnm_mask(x, v, n, m, method=method))
        blocks = got.reshape(3, v, 2, m).swapaxes(1, 2)
        assert (blocks.sum(3) == n).all()
        assert (blocks.any(2).sum(2) <= 4).all()


@pytest.mark.parametrize("method", ["exact", "greedy"])
@pytest.mark.parametrize("m", [5, 8, 16])
def test_vnm_of_one_infinity_among_others(m: int, method: Any) -> None:
    # It counts as a number much larger than the others; its neighbours count as without it.
    x = np.random.default_rng(m).standard_normal((20, 30 * m)).astype(np.float32)
    usual = vnm_mask(x, 20, 2, m, method=method)
    x[3, 2 * m + 1] = 1e30
    large = vnm_mask(x, 20, 2, m, method=method)
    x[3, 2 * m + 1] = np.inf
    got = vnm_mask(x, 20, 2, m, method=method)
    np.testing.assert_array_equal(got, large)
    others = np.arange(x.shape[1]) // m != 2
    np.testing.assert_array_equal(got[:, others], usual[:, others])


def test_greedy_vnm_is_near_the_exact() -> None:
    w = np.abs(np.random.default_rng(2).standard_normal((64, 48)))
    exact, greedy = (w[vnm_mask(w, 16, 2, 16, method=m)].sum() for m in ("exact", "greedy"))
    assert 0.95 * exact < greedy <= exact
    assert (vnm_mask(w, 16, 2, 4) == nm_mask(w, 2, 4)).all()


# Blocks.


def pool_oracle(x: Floats, block: tuple[int, int], reduce: str) -> NDArray[np.float64]:
    f: Callable[[Floats], Any] = {
        "mean": np.mean,
        "max": np.max,
        "l1": lambda b: np.abs(b).sum(),
        "l2": lambda b: np.sqrt((b * b).sum()),
    }[reduce]
    r, c = x.shape
    return np.array(
        [
            [f(x[i : i + block[0], j : j + block[1]].astype(float)) for j in range(0, c, block[1])]
            for i in range(0, r, block[0])
        ]
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("reduce", ["mean", "max", "l1", "l2"])
@pytest.mark.parametrize("block", [(1, 1), (2, 3), (4, 4), (16, 16), (3, 40), (50, 1), (7, 100)])
def test_blocks_are_reduced(block: tuple[int, int], reduce: Any, dtype: Any) -> None:
    x = np.random.default_rng(1).standard_normal((37, 75)).astype(dtype)
    got = same_for_any_threads(lambda: block_pool(x, block, reduce=reduce))
    assert got.dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_allclose(got, pool_oracle(x, block, reduce), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: np.dtype(t).name)
def test_blocks_are_added_in_a_fixed_order(dtype: Any) -> None:
    x = (np.random.default_rng(4).standard_normal((96, 303)) * 100).astype(dtype)
    narrow = ((1, 2), (4, 1), (2, 2), (4, 4), (8, 8), (1, 16), (16, 16))
    for bh, bw in (*narrow, (4, 15), (32, 12), (8, 101), (48, 32), (3, 64), (1, 256)):
        wide = -(-303 // bw)
        whole = np.zeros((96, wide * bw), np.float64 if dtype == np.float64 else np.float32)
        whole[:, :303] = x
        padded = np.zeros((96, wide, 1 << (bw - 1).bit_length()), whole.dtype)
        padded[:, :, :bw] = whole.reshape(96, wide, bw)
        sums = np.abs(padded[::bh])
        for r in range(1, bh):
            sums = sums + np.abs(padded[r::bh])
        while sums.shape[-1] > 1:
            half = sums.shape[-1] // 2
            sums = sums[..., :half] + sums[..., half:]
        assert block_pool(x, (bh, bw), reduce="l1").tobytes() == sums[..., 0].tobytes()


def test_block_cases() -> None:
    x = np.arange(1.0, 10.0).reshape(3, 3)
    assert block_pool(x, (2, 2)).tolist() == [[3, 4.5], [7.5, 9]]
    assert block_pool(x, (2, 2), reduce="max").tolist() == [[5, 6], [8, 9]]
    x[0, 1] = np.nan
    for reduce in ("mean", "max", "l1", "l2"):
        assert np.isnan(block_pool(x, (2, 2), reduce=reduce)).tolist() == [[1, 0], [0, 0]]  # type: ignore[arg-type]
    w = np.random.default_rng(0).standard_normal((20, 24)).astype(np.float32)
    s = score(w, kind="wanda", col=np.arange(24, dtype=np.float32))
    assert (block_pool(s, (4, 4)) == block_pool(s.array(), (4, 4))).all()
    assert (block_pool(score(w), (4, 4)) == block_pool(np.abs(w), (4, 4))).all()


@pytest.mark.parametrize("shape", [(7, 9), (8, 8), (1, 1), (0, 5), (5, 133)])
@pytest.mark.parametrize("block", [(3, 2), (2, 1), (1, 4), (2, 5), (4, 8), (1, 16), (2, 40)])
def test_masks_of_blocks_expand(shape: tuple[int, int], block: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((-(-shape[0] // block[0]), -(-shape[1] // block[1]))) < 0.5
    want = np.kron(mask, np.ones(block, bool))[: shape[0], : shape[1]]
    np.testing.assert_array_equal(expand_blocks(mask, block, shape), want)
    np.testing.assert_array_equal(expand_blocks(mask.astype(np.uint8), block, shape), want)


def test_block_mask_keeps_exactly_k_blocks() -> None:
    w = np.ones((64, 96), np.float32)
    for k in (0, 1, 17, 24):
        mask = block_mask(w, k, (16, 16))
        assert (mask == expand_blocks(np.arange(24).reshape(4, 6) < k, (16, 16), w.shape)).all()
    w = np.random.default_rng(0).standard_normal(w.shape).astype(np.float32)
    pooled = block_pool(score(w), (16, 16), reduce="l1")
    want = expand_blocks(topk_mask(pooled, 5), (16, 16), w.shape)
    np.testing.assert_array_equal(block_mask(score(w), 5, (16, 16)), want)


# Permutations.


def kept_by_nm(w: Floats, n: int = 2, m: int = 4) -> float:
    groups = np.abs(w.astype(np.float64)).reshape(w.shape[0], -1, m)
    return float(np.sort(groups, axis=-1)[..., m - n :].sum())


@functools.cache
def published_matrix() -> Floats:
    """Return the matrix of the table in the README of apex's permutation_tests."""
    w = np.random.RandomState(1).rand(128, 64)
    assert kept_by_nm(w) == pytest.approx(2852.377, abs=1e-3)  # its "default 2:4"
    return w


@pytest.mark.parametrize(
    ("method", "escapes", "published"),
    # The README's channel_swap and optimize_stripe_groups of 8 and 12 columns, by their escapes.
    [
        ("swap", 0, 2913.351),
        ("swap", 100, 2914.174),
        ("swap", 1000, 2920.694),
        ("stripe8", 0, 2919.759),
        ("stripe8", 100, 2919.759),
        ("stripe8", 1000, 2919.935),
        ("stripe12", 0, 2921.947),
    ],
)
def test_search_reaches_published_magnitudes(method: Any, escapes: int, published: float) -> None:
    w = published_matrix()
    perm, magnitude = permutation_search(w, 2, 4, method=method, escapes=escapes)
    assert sorted(perm.tolist()) == list(range(64))
    assert kept_by_nm(w[:, perm]) == pytest.approx(magnitude, rel=1e-6)
    assert magnitude >= published - 1e-3  # of which three decimals are known


@pytest.mark.parametrize("method", ["swap", "stripe8", "stripe12"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: np.dtype(t).name)
def test_search_keeps_no_less_than_the_given_order(method: Any, dtype: Any) -> None:
    for seed, shape in enumerate([(33, 24), (1, 8), (300, 12), (5, 4), (7, 0), (0, 8)]):
        w = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
        perm, magnitude = permutation_search(w, 2, 4, method=method, escapes=5, seed=seed)
        assert perm.dtype == np.int32
        assert sorted(perm.tolist()) == list(range(shape[1]))
        if w.size:
            assert magnitude >= kept_by_nm(w) * (1 - 1e-6)
            assert kept_by_nm(w[:, perm]) == pytest.approx(magnitude, rel=1e-5)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (1, 4), (3, 4), (4, 8), (2, 6)])
def test_search_finds_the_best_of_two_groups(n: int, m: int) -> None:
    for seed in range(3):
        w = np.random.default_rng(seed).random((6, 2 * m))
        _, magnitude = permutation_search(w, n, m, escapes=60)
        columns = range(2 * m)
        best = max(
            kept_by_nm(w[:, [0, *c, *(set(columns) - {0, *c})]], n, m)
            for c in itertools.combinations(columns[1:], m - 1)
        )
        assert magnitude == pytest.approx(best, rel=1e-6)


def test_search_of_one_row() -> None:
    w = np.array([[9.0, 8, 7, 6, 1, 1, 1, 1]])
    assert kept_by_nm(w) == 19
    for method in ("swap", "stripe8", "stripe12"):
        assert permutation_search(w, 2, 4, method=method)[1] == 30  # type: ignore[arg-type]


def test_search_is_the_same_for_any_number_of_threads() -> None:
    w = np.random.default_rng(0).standard_normal((40, 1032)).astype(np.float32)
    s = score(w, kind="wanda", col=np.random.default_rng(1).random(1032).astype(np.float32))
    perm = same_for_any_threads(lambda: permutation_search(s, 2, 4, escapes=3)[0])
    assert sorted(perm.tolist()) == list(range(1032))
    assert kept_by_nm(s.array()[:, perm]) > kept_by_nm(s.array()) * 1.005


def test_search_keeps_a_perfect_order() -> None:
    w = np.tile([1.0, 0, 2, 0], (50, 300))
    assert permutation_search(w, 2, 4, escapes=2)[1] == w.sum()


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
        "nm_mask: score has 12 NaN, expected none",
    ),
    "integers": (
        lambda: nm_mask(np.ones(4, np.int32), 1, 2),
        TypeError,
        "nm_mask: score.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    "out dtype": (
        lambda: nm_mask(X, 1, 2, out=np.zeros((2, 6), np.float32)),
        TypeError,
        "nm_mask: out.dtype is float32, expected bool or uint8",
    ),
    "out shape": (
        lambda: nm_mask(X, 1, 2, out=np.zeros((2, 5), bool)),
        ValueError,
        "nm_mask: out.shape is (2, 5), expected score.shape = (2, 6)",
    ),
    "transposable rows": (
        lambda: nm_mask_transposable(X, 1, 3),
        ValueError,
        "nm_mask_transposable: score.shape[0] is 2, expected a multiple of m = 3",
    ),
    "transposable m": (
        lambda: nm_mask_transposable(X, 1, 65),
        ValueError,
        "nm_mask_transposable: m is 65, expected at most 64",
    ),
    "transposable method": (
        lambda: nm_mask_transposable(X, 1, 2, method="best"),  # type: ignore[arg-type]
        ValueError,
        "nm_mask_transposable: method is 'best', expected 'exact' or 'greedy'",
    ),
    "transposable rank": (
        lambda: nm_mask_transposable(X[0], 1, 2),
        ValueError,
        "nm_mask_transposable: score.ndim is 1, expected 2",
    ),
    "vnm n": (lambda: vnm_mask(X, 2, 5, 6), ValueError, "vnm_mask: n is 5, expected 0 to 4"),
    "vnm m": (lambda: vnm_mask(X, 2, 2, 3), ValueError, "vnm_mask: m is 3, expected 4 to 64"),
    "vnm v": (
        lambda: vnm_mask(X, 3, 2, 6),
        ValueError,
        "vnm_mask: score.shape[0] is 2, expected a multiple of v = 3",
    ),
    "block": (
        lambda: block_pool(X, (0, 2)),
        ValueError,
        "block_pool: block is (0, 2), expected at least (1, 1)",
    ),
    "reduce": (
        lambda: block_pool(X, (1, 2), reduce="sum"),  # type: ignore[arg-type]
        ValueError,
        "block_pool: reduce is 'sum', expected 'mean', 'max', 'l1' or 'l2'",
    ),
    "mask's block": (
        lambda: block_mask(X, 1, (0, 2)),
        ValueError,
        "block_mask: block is (0, 2), expected at least (1, 1)",
    ),
    "mask's k": (
        lambda: block_mask(X, 99, (1, 2)),
        ValueError,
        "block_mask: k is 99, expected 0 to 6",
    ),
    "mask's out": (
        lambda: block_mask(X, 1, (1, 2), out=np.zeros((2, 6))),
        TypeError,
        "block_mask: out.dtype is float64, expected bool or uint8",
    ),
    "mask's shape": (
        lambda: block_mask(X, 1, (1, 2), out=np.zeros((2, 5), bool)),
        ValueError,
        "block_mask: out.shape is (2, 5), expected (2, 6)",
    ),
    "expand shape": (
        lambda: expand_blocks(X[:1, :3].copy() > 0, (2, 2), (2, 6), out=np.zeros((1, 6), bool)),
        ValueError,
        "expand_blocks: out.shape is (1, 6), expected (2, 6)",
    ),
    "expand": (
        lambda: expand_blocks(X[:1, :2].copy() > 0, (2, 2), (2, 6)),
        ValueError,
        "expand_blocks: mask.shape is (1, 2), expected (1, 3)",
    ),
    "expand dtype": (
        lambda: expand_blocks(X, (1, 1), (2, 6)),
        TypeError,
        "expand_blocks: mask.dtype is float32, expected bool or uint8",
    ),
    "search columns": (
        lambda: permutation_search(X, 2, 4),
        ValueError,
        "permutation_search: w.shape[1] is 6, expected a multiple of m = 4",
    ),
    "search method": (
        lambda: permutation_search(X, 1, 2, method="stripe8"),
        ValueError,
        "permutation_search: method is 'stripe8', expected 'swap' for m = 2",
    ),
    "search escapes": (
        lambda: permutation_search(X, 1, 2, escapes=-1),
        ValueError,
        "permutation_search: escapes is -1, expected at least 0",
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
    with pytest.raises(ValueError, match="has 1 NaN"):
        nm_mask(x, 2, 4, nan="error", out=out)
    assert (out == 7).all()


# Numbers whose squares or sums leave the range of their type.


@pytest.mark.parametrize("dtype", [np.float32, np.float64, "bfloat16"])
@pytest.mark.parametrize("scale", [1e-25, 1e-30, 1e20, 1e30, 1.0])
@pytest.mark.parametrize("block", [(1, 2), (3, 5), (7, 40)])
def test_norms_of_blocks_of_any_scale(dtype: Any, scale: float, block: tuple[int, int]) -> None:
    dtype = DTYPES[-1] if dtype == "bfloat16" else dtype
    if dtype == np.float64:
        scale **= 10
    x = (np.random.default_rng(0).standard_normal((10, 43)) * scale).astype(dtype)
    x[:3, :5] = 0
    got = same_for_any_threads(lambda: block_pool(x, block, reduce="l2"))
    exact = x.astype(np.float64) / scale
    rows, cols = block
    padded = np.pad(exact, [(0, -10 % rows), (0, -43 % cols)])
    want = np.sqrt((padded.reshape(-(-10 // rows), rows, -1, cols) ** 2).sum((1, 3)))
    np.testing.assert_allclose(got / scale, want, rtol=1e-5)


def test_block_of_small_numbers_is_chosen_by_its_norm() -> None:
    x = np.array([[1e-25, 1e-25, 9e-25, 9e-25]], np.float32)
    assert block_mask(x, 1, (1, 2), reduce="l2").tolist() == [[False, False, True, True]]


def test_blocks_with_infinities_and_nan_keep_them() -> None:
    x = np.array([[np.inf, 1e-30, np.nan, 1e30, 3e-30, 4e-30]], np.float32)
    norms = block_pool(x, (1, 2), reduce="l2")[0]
    assert norms[0] == np.inf and np.isnan(norms[1])
    np.testing.assert_allclose(norms[2], 5e-30, rtol=1e-6)


def test_mean_of_a_block_is_in_range_where_its_sum_is_not() -> None:
    x = np.array([[3e38, 3e38, -3e38, -1e38]], np.float32)
    np.testing.assert_allclose(block_pool(x, (1, 2)), [[3e38, -2e38]], rtol=1e-6)


# Numbers beyond the array.

FAR = [2**32, 2**62, 2**63 - 1]


@pytest.mark.parametrize("far", FAR)
def test_groups_longer_than_the_axis_are_the_axis(far: int) -> None:
    x = np.array([[1, 1, 0, 1], [0, 0, 0, 1]])
    assert check_nm(x, 2, far) == (1, 0)
    assert check_nm(x, far, far) == (0, None)
    assert check_nm(x, 1, far, axis=0) == (1, 3)
    assert check_nm(np.zeros((0, 3)), 1, far) == (0, None)
    scored = x.astype(np.float32)
    np.testing.assert_array_equal(nm_mask(scored, 1, far, tail="pad").sum(1), [1, 1])
    assert nm_mask(scored, 1, far, tail="keep").all()
    with pytest.raises(ValueError, match=f"expected a multiple of m = {far}"):
        nm_mask(scored, 1, far)


@pytest.mark.parametrize("far", FAR)
def test_blocks_beyond_the_matrix_are_the_matrix(far: int) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert block_pool(x, (far, far), reduce="l1").tolist() == [[15]]
    assert block_pool(x, (1, far), reduce="max").tolist() == [[2], [5]]
    assert expand_blocks(np.array([[True]]), (far, far), (2, 3)).all()
    assert block_mask(x, 1, (1, far)).tolist() == [[False] * 3, [True] * 3]
    with pytest.raises(ValueError, match=f"v = {far}"):
        vnm_mask(np.ones((2, 4), np.float32), far, 2, 4)


# Scores of any size in the search of permutations.


@pytest.mark.parametrize("scale", [1e305, 1e35, 1e-35, 1e-300, 1e-310])
def test_magnitude_of_a_permutation_is_what_is_kept(scale: float) -> None:
    w = np.random.default_rng(1).standard_normal((8, 16)) * scale
    order, magnitude = permutation_search(w, 2, 4, escapes=5)
    mask = nm_mask(score(w[:, order]), 2, 4)
    np.testing.assert_allclose(magnitude, np.abs(w[:, order])[mask].sum(), rtol=1e-6)
    usual, _ = permutation_search(w / scale, 2, 4, escapes=5)
    np.testing.assert_array_equal(order, usual)


def test_permutation_that_keeps_an_infinity_says_so() -> None:
    w = np.random.default_rng(1).standard_normal((8, 16))
    w[0, 0] = -np.inf
    order = np.empty(16, np.int32)
    assert permutation_search(w, 2, 4, escapes=5, out=order) == (order, np.inf)


def test_block_mask_is_written_to_out() -> None:
    out = np.empty((2, 3), bool)
    assert block_mask(np.ones((2, 3), np.float32), 1, (1, 3), out=out) is out
    assert out.tolist() == [[True] * 3, [False] * 3]
