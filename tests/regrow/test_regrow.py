"""Drop and grow: exact counts, cases of other libraries, comparison with stable sorts."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import pytest
from gossamer.prune import score
from gossamer.regrow import Random, csr_drop_grow_, drop_grow_, set_drop
from hypothesis import given, settings
from hypothesis import strategies as st
from library import examples

F32 = np.float32
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = gossamer.get_num_threads()
    yield
    gossamer.set_num_threads(before)


# --- the oracle -----------------------------------------------------------------------------------


def best(scores: np.ndarray, candidates: np.ndarray, k: int, tie: str, nan: str) -> np.ndarray:
    """Return the flat indices of the k best candidates, by a stable sort."""
    x = np.asarray(scores, np.float64).ravel()
    index = np.arange(x.size)
    missing = np.isnan(x) if nan == "lowest" else ~np.isnan(x)
    order = np.lexsort((index if tie == "low" else -index, -np.where(np.isnan(x), 0, x), missing))
    return order[candidates.ravel()[order]][:k]


def changed(
    mask: np.ndarray,
    drop: np.ndarray,
    grow: np.ndarray,
    n_drop: int,
    n_grow: int,
    *,
    regrow: str = "allow",
    forbid: np.ndarray | None = None,
    tie: str = "low",
    nan: str = "lowest",
) -> np.ndarray:
    """Return the mask after dropping and growing."""
    active = mask.astype(bool).ravel()
    new = np.zeros_like(active)
    new[best(drop, active, int(active.sum()) - n_drop, tie, nan)] = True
    free = ~new if regrow == "allow" else ~active
    if forbid is not None:
        free &= ~forbid.astype(bool).ravel()
    new[best(grow, free & ~new, n_grow, tie, nan)] = True
    return new.reshape(mask.shape)


# --- masks: the references' cases -----------------------------------------------------------------

PARAM = np.array([-9, 1, 4, -1, 5, 8, -2, 3], F32)
MASK = np.array([0, 1, 0, 1, 0, 1, 1, 0], np.uint8)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (0, [0, 1, 0, 1, 0, 1, 1, 0]),
        (1, [1, 1, 0, 1, 0, 1, 0, 0]),
        (2, [1, 1, 0, 0, 1, 1, 0, 0]),
        (3, [1, 0, 1, 0, 1, 1, 0, 0]),
        (4, [1, 0, 1, 0, 1, 1, 0, 0]),
    ],
)
def test_table_of_jaxpruner(n: int, expected: list[int]) -> None:
    mask = MASK.copy()
    same, new = drop_grow_(mask, PARAM, score(PARAM), n, n)
    assert same is mask
    assert mask.tolist() == expected
    fresh = np.flatnonzero((mask == 1) & (MASK == 0))
    assert len(new) == len(fresh)
    np.testing.assert_array_equal(new, fresh)
    assert new.dtype == np.int64


@pytest.mark.parametrize("shape", [(1,), (5,), (4, 5), (2, 9, 1), (2, 2, 4, 4)])
@pytest.mark.parametrize("density", [1.0, 0.5, 0.05])
def test_sparsity_stays_and_states_restart(shape: tuple[int, ...], density: float) -> None:
    rng = np.random.default_rng(3)
    n = math.prod(shape)
    mask = np.zeros(n, bool)
    mask[rng.permutation(n)[: round(density * n)]] = True
    mask = mask.reshape(shape)
    old, w = mask.copy(), rng.standard_normal(shape).astype(F32) * mask
    grad, m, v = rng.standard_normal((3, *shape)).astype(F32)
    before = w.copy(), m.copy(), v.copy()
    k = int(0.3 * mask.sum())
    k = min(k, n - int(mask.sum()) + k)
    _, new = drop_grow_(mask, score(w), score(grad), k, k, weights=w, states=(m, v))
    assert mask.sum() == old.sum()
    fresh = mask & ~old
    assert len(new) == fresh.sum()
    np.testing.assert_array_equal(new, np.flatnonzero(fresh))
    np.testing.assert_array_equal(w, np.where(mask & old, before[0], 0))
    for state, start in zip((m, v), before[1:], strict=True):
        np.testing.assert_array_equal(state, np.where(fresh, 0, start))


def test_restart_of_jaxpruner() -> None:
    # Nothing dropped, so the new places are those that its function is given.
    state = np.array([-9, 1, 4, -1, 5, 8, -2, 3], F32)
    grow = MASK.astype(F32)
    drop_grow_(np.zeros(8, bool), grow, grow, 0, 4, states=[state])
    assert state.tolist() == [-9, 0, 4, 0, 5, 0, 0, 3]


def test_dropping_nothing_changes_nothing() -> None:
    mask, w = MASK.copy(), PARAM.copy()
    _, new = drop_grow_(mask, PARAM, PARAM, 0, 0, weights=w)
    assert len(new) == 0
    np.testing.assert_array_equal(mask, MASK)
    np.testing.assert_array_equal(w, PARAM)


def test_what_grows_again_keeps_its_weight_and_state() -> None:
    w, m = np.array([3, 1, 0], F32), np.array([5, 6, 7], F32)
    mask = np.array([1, 1, 0], bool)
    _, new = drop_grow_(mask, score(w), np.array([0, 9, 1], F32), 1, 1, weights=w, states=[m])
    assert (len(new), mask.tolist()) == (0, [True, True, False])
    assert (w.tolist(), m.tolist()) == ([3, 1, 0], [5, 6, 7])
    _, new = drop_grow_(
        mask, score(w), np.array([0, 9, 1], F32), 1, 1, regrow="forbid", weights=w, states=[m]
    )
    assert (new.tolist(), mask.tolist()) == ([2], [True, False, True])
    assert (w.tolist(), m.tolist()) == ([3, 0, 0], [5, 6, 0])


def test_new_entries_start_where_they_are_told() -> None:
    g = np.array([1, 2, 3, 4], F32)
    mask, w, m = np.array([1, 0, 0, 0], bool), np.array([1, 0, 0, 0], F32), np.ones(4, F32)
    drop_grow_(mask, g, g, 0, 2, weights=w, init=-0.5, states=[m], state_init=0.5 * g)
    assert (w.tolist(), m.tolist()) == ([1, 0, -0.5, -0.5], [1, 1, 1.5, 2])


def test_states_of_dropped_entries_are_cleared_on_request() -> None:
    score = np.array([1, 2, 3, 0, 0], F32)
    for clear in (False, True):
        mask = np.array([1, 1, 1, 0, 0], bool)
        w, m = np.array([1, 2, 3, 0, 0], F32), np.array([7, 7, 7, 7, 7], F32)
        drop_grow_(
            mask,
            score,
            np.array([0, 0, 0, 1, 2], F32),
            1,
            1,
            weights=w,
            states=[m],
            state_init=5.0,
            clear_states=clear,
        )
        np.testing.assert_array_equal(w, [0, 2, 3, 0, 0])
        np.testing.assert_array_equal(m, [0 if clear else 7, 7, 7, 7, 5])


def test_growth_into_active_zeros_is_not_growth() -> None:
    # Growing the best of all places, active ones with large gradients too, comes out too sparse.
    w = np.array([0, 0, 0, 5, 0, 0], F32)
    mask = np.array([1, 1, 1, 1, 0, 0], bool)
    grad = np.array([9, 9, 9, 9, 1, 0], F32)
    drop_grow_(mask, score(w), score(grad), 1, 1, regrow="forbid")
    assert mask.tolist() == [True, True, False, True, True, False]


def test_ties_drop_no_more_than_asked() -> None:
    for k in range(9):
        mask = np.ones(8, bool)
        drop_grow_(mask, np.ones(8, F32), np.ones(8, F32), 8 - k, 0)
        assert mask.tolist() == [True] * k + [False] * (8 - k)
        drop_grow_(mask, np.ones(8, F32), np.ones(8, F32), 0, 8 - k)
        assert mask.all()


def test_it_can_drop_everything() -> None:
    mask = MASK.copy()
    drop_grow_(mask, PARAM, PARAM, 4, 0)
    assert not mask.any()


def test_density_does_not_drift() -> None:
    # Some libraries need a controller to correct the density; exact counts do not.
    rng = np.random.default_rng(0)
    mask = rng.random((40, 50)) < 0.1
    nnz = int(mask.sum())
    for step in range(20):
        w = np.where(rng.random(mask.shape) < 0.3, 0, rng.standard_normal(mask.shape)).astype(F32)
        grad = np.round(rng.standard_normal(mask.shape)).astype(F32)
        k = int(0.3 * nnz)
        drop_grow_(mask, score(w), Random(5, step) if step % 2 else score(grad), k, k)
        assert mask.sum() == nnz


# --- masks: against the oracle --------------------------------------------------------------------

ODD = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1.0, 2.0, -1.0, 1e-45, -1e-45]
SEEDS = st.integers(0, 2**32 - 1)


def odd(seed: int, n: int, dtype: Any) -> np.ndarray:
    """Return n numbers with many ties and special values; for some seeds nothing else."""
    rng = np.random.default_rng(seed)
    pool = np.concatenate([rng.choice(ODD, 1 + seed % 8), rng.standard_normal(seed % 4)])
    return rng.choice(pool, n).astype(dtype)


def some(seed: int, n: int) -> np.ndarray:
    """Return a mask of n entries with a random density, up to none or all."""
    return np.random.default_rng(seed).random(n) < seed % 5 / 4


@settings(deadline=None, max_examples=examples(150))
@given(data=st.data(), n=st.integers(0, 40), dtype=st.sampled_from(DTYPES))
def test_mask_is_that_of_stable_sorts(data: st.DataObject, n: int, dtype: Any) -> None:
    mask = some(data.draw(SEEDS), n)
    drop, grow = (odd(data.draw(SEEDS), n, dtype) for _ in range(2))
    options = {
        "regrow": data.draw(st.sampled_from(["allow", "forbid"])),
        "tie": data.draw(st.sampled_from(["low", "high"])),
        "nan": data.draw(st.sampled_from(["lowest", "highest"])),
        "forbid": data.draw(st.none() | SEEDS.map(lambda seed: some(seed, n))),
    }
    n_drop = data.draw(st.integers(0, int(mask.sum())))
    kept = changed(mask, drop, grow, n_drop, 0, tie=options["tie"], nan=options["nan"])
    free = ~(kept if options["regrow"] == "allow" else mask)
    if options["forbid"] is not None:
        free &= ~options["forbid"]
    n_grow = data.draw(st.integers(0, int(free.sum())))
    expected = changed(mask, drop, grow, n_drop, n_grow, **options)
    old, w = mask.copy(), np.arange(1, n + 1).astype(dtype)
    start = w.copy()
    _, new = drop_grow_(mask, drop, grow, n_drop, n_grow, weights=w, init=-1.0, **options)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(new, np.flatnonzero(expected & ~old))
    ends = np.where(expected & ~old, np.array(-1, dtype), np.where(old & ~expected, 0, start))
    np.testing.assert_array_equal(w, ends.astype(dtype))


def large(seed: int = 1, shape: tuple[int, int] = (301, 517)) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.2
    w, g = np.round(rng.standard_normal((2, *shape)) * 8).astype(F32) / 8
    return mask, w * mask, g


@pytest.mark.parametrize("regrow", ["allow", "forbid"])
def test_large_mask_on_any_number_of_threads(regrow: str) -> None:
    mask, w, g = large()
    k = int(0.3 * mask.sum())
    expected = changed(mask, abs(w), abs(g), k, k, regrow=regrow)
    for threads in (1, 2, 3, 5):
        gossamer.set_num_threads(threads)
        new_mask = mask.copy()
        _, new = drop_grow_(new_mask, score(w), score(g), k, k, regrow=regrow)
        np.testing.assert_array_equal(new_mask, expected)
        np.testing.assert_array_equal(new, np.flatnonzero(expected & ~mask))


def test_strides_of_scores_change_nothing() -> None:
    mask, w, g = large()
    forbid = g > 1
    k = int(0.2 * mask.sum())
    expected = changed(mask, abs(w), abs(g), k, k, forbid=forbid)
    for lay in (np.asfortranarray, lambda x: np.repeat(x, 2, axis=1)[:, ::2]):
        new_mask = mask.copy()
        drop_grow_(new_mask, score(lay(w)), score(lay(g)), k, k, forbid=lay(forbid))
        np.testing.assert_array_equal(new_mask, expected)
        a, _ = matrix(mask, w)
        csr_drop_grow_(a, score(lay(g)), k, k)
        other, _ = matrix(mask, w)
        csr_drop_grow_(other, score(g), k, k)
        np.testing.assert_array_equal(positions(a), positions(other))
        np.testing.assert_array_equal(set_drop(lay(w), 50, 40), set_drop(w, 50, 40))
    w = np.zeros((4, 4), F32)
    with pytest.raises(ValueError, match="weights"):  # what is written is not copied
        drop_grow_(w > 0, w, w, 0, 1, weights=w.T[::2].repeat(2, 0).T)


# --- random growth --------------------------------------------------------------------------------


def test_random_growth_is_exact_and_keyed() -> None:
    mask, w, _ = large()
    grown = []
    for key in [Random(1, 0), Random(1, 1), Random(2, 0), Random(1, 0)]:
        new_mask = mask.copy()
        _, new = drop_grow_(new_mask, score(w), key, 0, 5000)
        assert len(set(new.tolist())) == len(new) == 5000
        assert new_mask.sum() == mask.sum() + 5000 and not mask.ravel()[new].any()
        grown.append(new_mask)
    assert (grown[0] == grown[3]).all()
    assert not (grown[0] == grown[1]).all() and not (grown[0] == grown[2]).all()


def test_random_growth_fills_all_that_is_free() -> None:
    for n in range(1, 40):
        mask = np.arange(n) % 3 == 0
        drop_grow_(mask, np.ones(n, F32), Random(n), 0, int((~mask).sum()))
        assert mask.all()


def test_random_growth_is_uniform_over_subsets() -> None:
    # 3 of 6 free places: 20 subsets, 4000 draws; the 99.9 % point of χ² with 19 freedoms is 43.8.
    free = [0, 2, 3, 5, 8, 9]
    start = np.array([i not in free for i in range(10)])
    counts = dict.fromkeys(itertools.combinations(free, 3), 0)
    for step in range(4000):
        mask = start.copy()
        _, new = drop_grow_(mask, np.ones(10, F32), Random(12345, step), 0, 3)
        counts[tuple(new.tolist())] += 1
    expected = 4000 / len(counts)
    assert sum((c - expected) ** 2 for c in counts.values()) / expected < 43.8


def test_random_growth_is_uniform_over_places() -> None:
    # Each of 1000 places is drawn with probability 0.1; 500 draws have variance 45 a place.
    counts = np.zeros(1000)
    for step in range(500):
        _, new = drop_grow_(np.zeros(1000, bool), np.ones(1000, F32), Random(7, step), 0, 100)
        counts[new] += 1
    chi2 = ((counts - 50) ** 2).sum() / 45
    assert abs(chi2 - 999) < 4 * math.sqrt(2 * 999)


def test_random_growth_of_a_matrix_is_that_of_its_mask() -> None:
    mask, w, _ = large()
    w[mask] += 1e-3
    a = gossamer.CSR.from_dense(w, mask)
    csr_drop_grow_(a, Random(9, 4), 300, 300, init=1.0)
    drop_grow_(mask, score(w), Random(9, 4), 300, 300)
    np.testing.assert_array_equal(a.to_dense() != 0, mask & (a.to_dense() != 0))
    pattern = a.with_values(np.ones(a.nnz, F32)).to_dense()
    np.testing.assert_array_equal(pattern != 0, mask)


# --- SET ------------------------------------------------------------------------------------------


def test_set_drops_nearest_to_zero_on_each_side() -> None:
    # Some implementations keep only the most negative values, or one too few.
    values = np.array([0.5, -0.1, 2.0, -3.0, 0.1, -0.2, 0.0], F32)
    keep = set_drop(values, 2, 2)
    assert keep.tolist() == [False, False, True, True, False, False, True]


@settings(deadline=None, max_examples=examples(60))
@given(data=st.data(), n=st.integers(0, 30), dtype=st.sampled_from(DTYPES))
def test_set_is_that_of_stable_sorts(data: st.DataObject, n: int, dtype: Any) -> None:
    values = odd(data.draw(SEEDS), n, dtype)
    x = values.astype(np.float64)
    sides = x > 0, x < 0
    n_positive, n_negative = (data.draw(st.integers(0, int(side.sum()))) for side in sides)
    expected = np.ones(n, bool)
    expected[best(-x, sides[0], n_positive, "high", "lowest")] = False
    expected[best(x, sides[1], n_negative, "high", "lowest")] = False
    np.testing.assert_array_equal(set_drop(values, n_positive, n_negative), expected)


# --- matrices -------------------------------------------------------------------------------------


def positions(a: gossamer.CSR) -> np.ndarray:
    """Return the flat index of each entry, once the structure has been checked."""
    gossamer.CSR(a.indptr, a.indices, a.values, a.shape)
    rows = np.repeat(np.arange(a.shape[0]), np.diff(a.indptr))
    return rows * a.shape[1] + a.indices.astype(np.int64)


def matrix(mask: np.ndarray, w: np.ndarray, index: str = "int32", room: int = 0) -> Any:
    """Return a matrix and the longer arrays whose beginnings it uses, or None."""
    a = gossamer.CSR.from_dense(w, mask)
    indptr = a.indptr.astype(index)
    indices = np.concatenate([a.indices, np.full(room, -7)]).astype(index)
    values = np.concatenate([a.values, np.full(room, np.nan, w.dtype)]).astype(w.dtype)
    a = gossamer.CSR(indptr, indices[: a.nnz], values[: a.nnz], a.shape, index_dtype=index)
    return a, (indices, values) if room else None


def check_change(
    a: gossamer.CSR, src: Any, before: tuple[np.ndarray, np.ndarray], expected: np.ndarray
) -> None:
    """Compare a matrix and its old-to-new map with its state before and the expected mask."""
    old, values = before
    after = positions(a)
    np.testing.assert_array_equal(after, np.flatnonzero(expected))
    where = {p: i for i, p in enumerate(old.tolist())}
    np.testing.assert_array_equal(src, [where.get(p, -1) for p in after.tolist()])
    assert src.dtype == a.indices.dtype
    stayed = np.flatnonzero(src >= 0)
    start = np.full(len(src), 0.25)
    start[stayed] = values.astype(np.float64)[src[stayed]]
    np.testing.assert_array_equal(a.values.astype(np.float64), start)


@settings(deadline=None, max_examples=examples(150))
@given(data=st.data(), rows=st.integers(0, 6), cols=st.integers(0, 11))
def test_matrix_is_that_of_stable_sorts(data: st.DataObject, rows: int, cols: int) -> None:
    n = rows * cols
    dtype = data.draw(st.sampled_from(DTYPES))
    index = data.draw(st.sampled_from(["int32", "int64"]))
    mask = some(data.draw(SEEDS), n).reshape(rows, cols)
    w, grow = (odd(data.draw(SEEDS), n, dtype).reshape(rows, cols) for _ in range(2))
    options: dict[str, Any] = {
        "regrow": data.draw(st.sampled_from(["allow", "forbid"])),
        "tie": data.draw(st.sampled_from(["low", "high"])),
        "nan": data.draw(st.sampled_from(["lowest", "highest"])),
    }
    forbid = data.draw(st.none() | SEEDS.map(lambda seed: some(seed, n).reshape(rows, cols)))
    n_drop = data.draw(st.integers(0, int(mask.sum())))
    kept = changed(mask, abs(w), grow, n_drop, 0, tie=options["tie"], nan=options["nan"])
    free = ~(kept if options["regrow"] == "allow" else mask)
    if forbid is not None:
        free &= ~forbid
    n_grow = data.draw(st.integers(0, int(free.sum())))
    expected = changed(mask, abs(w), grow, n_drop, n_grow, forbid=forbid, **options)

    a, room = matrix(mask, w, index, max(n_grow - n_drop, 0))
    before = positions(a), a.values.copy()
    pattern = None if forbid is None else gossamer.CSR.from_dense(forbid.astype(F32))
    state = np.arange(max(a.nnz, a.nnz - n_drop + n_grow) * 2).astype(F32).reshape(-1, 2)
    old_state = state.copy()
    form = data.draw(st.sampled_from(["dense", "places"]))
    growth: Any = grow
    if form == "places":  # all places, shuffled, some of them twice
        order = np.random.default_rng(n).permutation(n)
        order = np.concatenate([order, order[: n // 2]])
        growth = (order // max(cols, 1), order % max(cols, 1), grow.ravel()[order])
    successor, src = csr_drop_grow_(
        a, growth, n_drop, n_grow, init=0.25, forbid=pattern, room=room, states=[state], **options
    )
    assert successor is a
    check_change(a, src, before, expected)
    moved = np.where((src >= 0)[:, None], old_state[src], 0) if len(src) else state[:0]
    np.testing.assert_array_equal(state[: len(src)], moved)


@pytest.mark.parametrize("kind", ["dense", "places", "random"])
def test_large_matrix_on_any_number_of_threads(kind: str) -> None:
    mask, w, g = large()
    w[mask] += 1e-3
    places = np.argwhere(np.ones_like(mask))
    growth: Any = {
        "dense": score(g),
        "places": (places[:, 0], places[:, 1], abs(g).ravel()),
        "random": Random(3, 3),
    }[kind]
    k = int(0.3 * mask.sum())
    results = []
    for threads in (1, 2, 3, 5):
        gossamer.set_num_threads(threads)
        a, room = matrix(mask, w, room=400)
        before = positions(a), a.values.copy()
        _, src = csr_drop_grow_(a, growth, k, k + 400, init=0.25, room=room)
        expected = changed(mask, abs(w), abs(g), k, k + 400)
        if kind == "random":
            expected = np.zeros_like(mask)
            expected.ravel()[positions(a)] = True
            assert a.nnz == mask.sum() + 400
        check_change(a, src, before, expected)
        results.append(positions(a).tobytes() + src.tobytes())
    assert len(set(results)) == 1


def test_values_and_indices_stay_where_they_are() -> None:
    mask, w, g = large()
    a, room = matrix(mask, w, room=10)
    indices, values = room
    addresses = a.indptr.ctypes.data, indices.ctypes.data, values.ctypes.data
    for n_drop, n_grow in [(20, 20), (0, 10), (15, 5)]:
        a, _ = csr_drop_grow_(a, score(g), n_drop, n_grow, room=room)
        held = a.indptr.ctypes.data, a.indices.ctypes.data, a.values.ctypes.data
        assert held == addresses
    assert a.nnz == mask.sum()
    product = gossamer.spmm(a, np.eye(a.shape[1], dtype=F32))
    np.testing.assert_array_equal(product, a.to_dense())


def test_places_without_scores_come_in_their_order() -> None:
    a, _ = matrix(np.eye(3, dtype=bool), np.eye(3, dtype=F32))
    rows, cols = np.array([0, 2, 2, 1, 0]), np.array([0, 1, 1, 0, 2])
    a, src = csr_drop_grow_(
        a, (rows, cols), 2, 2, keep=np.array([1, 0, 0], np.uint8), regrow="forbid"
    )
    # (0, 0) has an entry, (2, 1) counts once, then comes (1, 0).
    assert positions(a).tolist() == [0, 3, 7]
    assert src.tolist() == [0, -1, -1]


def test_set_and_random_growth_train_sparsely() -> None:
    rng = np.random.default_rng(2)
    mask = rng.random((60, 70)) < 0.1
    a, _ = matrix(mask, rng.standard_normal(mask.shape).astype(F32))
    keep = set_drop(a.values, 40, 30)
    kept = positions(a)[keep]
    a, src = csr_drop_grow_(a, Random(1), 70, 70, keep=keep, regrow="forbid")
    assert a.nnz == mask.sum()
    np.testing.assert_array_equal(positions(a)[src >= 0], kept)


def test_growth_to_a_full_matrix_and_back_to_none() -> None:
    a, room = matrix(np.zeros((3, 5), bool), np.zeros((3, 5), F32), room=15)
    a, src = csr_drop_grow_(a, Random(1), 0, 15, room=room)
    assert positions(a).tolist() == list(range(15)) and (src == -1).all()
    a, src = csr_drop_grow_(a, Random(1), 15, 0)
    assert a.nnz == 0 and len(src) == 0


@pytest.mark.parametrize("kind", ["dense", "random", "places"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_drop_and_grow_by_block_scores(kind: str, dtype: Any) -> None:
    rng = np.random.default_rng(4)
    mask = rng.random((12, 9)) < 0.3
    w = rng.integers(-8, 9, (24, 27)).astype(dtype)
    norms = abs(w.astype(np.float64)).reshape(12, 2, 9, 3).sum((1, 3))
    grow = rng.standard_normal((12, 9)).astype(F32)
    a = gossamer.BSR.from_dense(w, (2, 3), np.kron(mask, np.ones((2, 3), bool)))
    rows, cols = np.nonzero(np.ones_like(mask))
    growth = {"dense": grow, "random": Random(6), "places": (rows, cols, grow.ravel())}[kind]
    old, blocks = a.indices.copy(), a.blocks.copy()
    old_positions = np.repeat(np.arange(12), np.diff(a.indptr)) * 9 + old
    state = np.ones((a.nblocks, 2, 3), F32)
    assert a.nblocks == mask.sum()
    a, src = csr_drop_grow_(a, growth, 7, 7, init=2.0, states=[state])
    gossamer.BSR(a.indptr, a.indices, a.blocks, a.shape)
    after = np.repeat(np.arange(12), np.diff(a.indptr)) * 9 + a.indices
    if kind == "random":
        drop_grow_(mask, norms, Random(6), 7, 7)
    else:
        mask = changed(mask, norms, grow, 7, 7)
    np.testing.assert_array_equal(after, np.flatnonzero(mask))
    for q, p in enumerate(src.tolist()):
        if p < 0:
            assert after[q] not in old_positions
            assert (a.blocks[q] == 2).all() and (state[q] == 0).all()
        else:
            assert after[q] == old_positions[p]
            np.testing.assert_array_equal(a.blocks[q], blocks[p])
            assert (state[q] == 1).all()


def test_blocks_may_get_fewer_and_more() -> None:
    w = np.arange(1, 65, dtype=F32).reshape(8, 8)
    made = gossamer.BSR.from_dense(w, 2)
    room = made.indices.copy(), made.blocks
    a = gossamer.BSR(made.indptr.copy(), *room, made.shape)
    forbid = gossamer.BSR.from_dense(np.kron(np.eye(4), np.ones((2, 2))).astype(F32), 2)
    a, src = csr_drop_grow_(a, Random(0), 10, 0)
    np.testing.assert_array_equal(src, np.arange(10, 16))
    assert (a.nblocks, a.blocks.shape) == (6, (6, 2, 2))
    a, src = csr_drop_grow_(a, Random(0), 0, 8, room=room, forbid=forbid)
    assert a.nblocks == 14 and (src < 0).sum() == 8
    dense = a.to_dense()
    np.testing.assert_array_equal(dense[4:, 4:6], w[4:, 4:6])
    assert not dense[:4, :4].any()


# --- frameworks -----------------------------------------------------------------------------------


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    mask, w, g = large()
    expected = changed(mask, abs(w), abs(g), 900, 900)
    t_mask, t_w, t_g = (torch.from_numpy(x.copy()) for x in (mask, w, g))
    _, new = drop_grow_(t_mask, score(t_w), score(t_g), 900, 900, weights=t_w)
    assert isinstance(new, torch.Tensor) and new.dtype == torch.int64
    np.testing.assert_array_equal(t_mask.numpy(), expected)
    a = gossamer.CSR.from_dense(torch.from_numpy(w), torch.from_numpy(mask))
    a, src = csr_drop_grow_(a, score(t_g), 900, 900)
    assert isinstance(src, torch.Tensor) and src.dtype == torch.int32
    a, src = csr_drop_grow_(a, Random(0), 10, 0)
    assert len(src) == len(a.values) == mask.sum() - 10
    keep = set_drop(a.values.to(torch.bfloat16), 5, 5)
    assert keep.dtype == torch.bool and int(keep.sum()) == a.nnz - 10


def test_jax_scores_are_read_and_jax_masks_refused() -> None:
    jnp = pytest.importorskip("jax.numpy")
    mask, w, g = large()
    expected = changed(mask, abs(w), abs(g), 900, 900)
    drop_grow_(mask, score(jnp.asarray(w)), score(jnp.asarray(g)), 900, 900)
    np.testing.assert_array_equal(mask, expected)
    assert set_drop(jnp.asarray(w), 3, 2).sum() == w.size - 5
    message = "drop_grow_: mask is a ArrayImpl, expected a NumPy, PyTorch or CuPy array"
    with pytest.raises(ValueError, match=message):
        drop_grow_(jnp.asarray(mask), w, g, 1, 1)


# --- bad calls ------------------------------------------------------------------------------------


def ones(*shape: int, dtype: Any = F32) -> np.ndarray:
    return np.ones(shape, dtype)


def csr() -> gossamer.CSR:
    return gossamer.CSR.from_dense(np.eye(3, dtype=F32))


def with_sibling() -> Any:
    a = csr()
    sibling = a.with_values(ones(3))
    return csr_drop_grow_(a, Random(0), 1, 0), sibling


def shared_state() -> Any:
    state = ones(4)
    return drop_grow_(ones(4, dtype=bool), ones(4), ones(4), 1, 0, weights=state, states=[state])


BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: drop_grow_(MASK.copy(), PARAM, PARAM, 5, 0),
        ValueError,
        "drop_grow_: n_drop is 5, expected 0 to 4, the number of active entries",
    ),
    (
        lambda: drop_grow_(MASK.copy(), PARAM, PARAM, 0, 5),
        ValueError,
        "drop_grow_: n_grow is 5, expected 0 to 4, the number of places that may grow",
    ),
    (
        lambda: drop_grow_(MASK.copy(), PARAM, PARAM, 0, -1),
        ValueError,
        "drop_grow_: n_grow is -1, expected 0 to 4, the number of places that may grow",
    ),
    (
        lambda: drop_grow_(MASK.copy(), PARAM, Random(0), 0, 4, forbid=1 - MASK),
        ValueError,
        "drop_grow_: n_grow is 4, expected 0 to 0, the number of places that may grow",
    ),
    (
        lambda: drop_grow_(MASK.copy(), PARAM[:4], PARAM, 0, 0),
        ValueError,
        "drop_grow_: drop_score.shape is (4,), expected mask.shape = (8,)",
    ),
    (
        lambda: drop_grow_(MASK.astype(F32), PARAM, PARAM, 0, 0),
        TypeError,
        "drop_grow_: mask.dtype is float32, expected bool or uint8",
    ),
    (
        lambda: drop_grow_(MASK.copy(), PARAM, PARAM, 0, 0, weights=ones(2, 4)),
        ValueError,
        "drop_grow_: weights.shape is (2, 4), expected mask.shape = (8,)",
    ),
    (
        lambda: drop_grow_(
            MASK.copy(), PARAM, PARAM, 0, 0, weights=PARAM, init=ones(8, dtype=float)
        ),
        TypeError,
        "drop_grow_: the values for weights.dtype is float64, expected weights.dtype = float32",
    ),
    (shared_state, ValueError, "drop_grow_: states overlaps weights, expected separate memory"),
    (
        lambda: drop_grow_(MASK.copy(), PARAM, PARAM, 0, 0, regrow="no"),  # type: ignore[arg-type]
        ValueError,
        "drop_grow_: regrow is 'no', expected 'allow' or 'forbid'",
    ),
    (
        lambda: drop_grow_(MASK.copy(), PARAM, Random(-1), 0, 0),
        ValueError,
        "drop_grow_: seed is -1, expected 0 to 2**64 - 1",
    ),
    (
        lambda: set_drop(PARAM, 6, 0),
        ValueError,
        "set_drop: n_positive is 6, expected 0 to 5, the number of positive values",
    ),
    (
        lambda: set_drop(PARAM, 0, 4),
        ValueError,
        "set_drop: n_negative is 4, expected 0 to 3, the number of negative values",
    ),
    (
        lambda: csr_drop_grow_(ones(3, 3), Random(0), 1, 1),  # type: ignore[arg-type]
        TypeError,
        "csr_drop_grow_: a is a ndarray, expected a CSR or a BSR",
    ),
    (
        lambda: csr_drop_grow_(csr(), Random(0), 4, 4),
        ValueError,
        "csr_drop_grow_: n_drop is 4, expected 0 to 3, the number of entries",
    ),
    (
        lambda: csr_drop_grow_(csr(), Random(0), 0, 1),
        ValueError,
        "csr_drop_grow_: indices.shape[0] is 3, expected at least 4, the entries before and after",
    ),
    (
        lambda: csr_drop_grow_(csr(), Random(0), 0, 1, room=(ones(5, dtype=np.int32), ones(5))),
        ValueError,
        "csr_drop_grow_: room[0] does not begin with the matrix's own array",
    ),
    (
        lambda: csr_drop_grow_(csr(), ones(3, 4), 1, 1),
        ValueError,
        "csr_drop_grow_: grow.shape is (3, 4), expected (3, 3)",
    ),
    (
        lambda: csr_drop_grow_(csr(), (np.array([0, 3]), np.array([0, 0])), 1, 1),
        ValueError,
        "csr_drop_grow_: grow rows[1] is 3, expected 0 to 2",
    ),
    (
        lambda: csr_drop_grow_(csr(), (np.array([0, 0]), np.array([0, 1])), 2, 2, regrow="forbid"),
        ValueError,
        "csr_drop_grow_: n_grow is 2, expected 0 to 1, the number of given places that may grow",
    ),
    (
        lambda: csr_drop_grow_(csr(), Random(0), 1, 1, keep=ones(3, dtype=bool)),
        ValueError,
        "csr_drop_grow_: keep has 0 zeros, expected n_drop = 1",
    ),
    (
        lambda: csr_drop_grow_(csr(), Random(0), 1, 1, states=[ones(2)]),
        ValueError,
        "csr_drop_grow_: states.shape[0] is 2, expected at least 3, the entries before and after",
    ),
    (
        with_sibling,
        ValueError,
        "csr_drop_grow_: a shares its structure with a matrix from with_values, expected no other "
        "where n_grow differs from n_drop",
    ),
    (
        lambda: csr_drop_grow_(csr(), Random(0), 1, 1, nan="least"),  # type: ignore[arg-type]
        ValueError,
        "csr_drop_grow_: nan is 'least', expected 'lowest', 'highest' or 'error'",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_a_failed_check_writes_nothing() -> None:
    mask, w = MASK.copy(), PARAM.copy()
    with pytest.raises(ValueError, match="states"):
        drop_grow_(mask, PARAM, PARAM, 2, 2, weights=w, states=[ones(7)])
    with pytest.raises(ValueError, match="NaN"):
        drop_grow_(mask, PARAM, PARAM * np.nan, 2, 2, weights=w, nan="error")
    np.testing.assert_array_equal(mask, MASK)
    np.testing.assert_array_equal(w, PARAM)
    a = csr()
    with pytest.raises(ValueError, match="states"):
        csr_drop_grow_(a, Random(0), 1, 1, states=[ones(1)])
    np.testing.assert_array_equal(a.to_dense(), np.eye(3))


# --- memory ---------------------------------------------------------------------------------------

GROW = """
import numpy as np, gossamer
from gossamer.regrow import Random, csr_drop_grow_

def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(key))

n, per_row = 10**6, 10
start = status("VmRSS")
indptr = np.arange(0, n * per_row + 1, per_row, dtype=np.int32)
indices = np.empty(n * per_row, np.int32)
for j in range(per_row):  # ten columns a row, increasing
    np.add(np.arange(n, dtype=np.int32) % 97, j * 99991, out=indices.reshape(n, per_row)[:, j])
values = np.random.default_rng(0).standard_normal(n * per_row, np.float32)
size = indptr.nbytes + indices.nbytes + values.nbytes
a = gossamer.CSR(indptr, indices, values, (n, n))
k = 10**6
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
a, src = csr_drop_grow_(a, Random(1), k, k, init=2.0, regrow="forbid")
peak = status("VmHWM") - start
gossamer.CSR(a.indptr, a.indices, a.values, a.shape)
assert (src < 0).sum() == k and (a.values == 2).sum() == k
print(peak / size)
"""


@pytest.mark.once
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_random_growth_of_a_huge_matrix_takes_no_more_than_thrice_its_size() -> None:
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 3


# Arrays that share memory, and numbers beyond the matrix.


def test_new_values_that_are_written_by_another_array_are_refused() -> None:
    w, m = ones(8), ones(8) * 2
    with pytest.raises(ValueError, match="weights overlaps the values for states, expected"):
        drop_grow_(MASK.copy(), PARAM, PARAM, 1, 1, weights=w, states=[m], state_init=w)
    np.testing.assert_array_equal(w, 1)


def test_matrices_take_one_value_for_new_entries() -> None:
    a = csr()
    with pytest.raises(ValueError, match="are an array, expected a number"):
        csr_drop_grow_(a, Random(0), 1, 1, init=ones(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("n_grow", [10**13, 2**62, 2**63 - 1])
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_more_entries_than_there_is_room_for_are_refused_before_memory_is_asked_for(
    n_grow: int, index: str
) -> None:
    a, _ = matrix(np.eye(3, dtype=bool), np.eye(3, dtype=F32), index)
    expected = (
        "expected at most" if index == "int32" or n_grow == 2**63 - 1 else "expected at least"
    )
    with pytest.raises(ValueError, match=rf"csr_drop_grow_: .*{expected}"):
        csr_drop_grow_(a, Random(0), 0, n_grow)
    with pytest.raises(ValueError, match=rf"n_drop is {n_grow}, expected 0 to 3"):
        csr_drop_grow_(a, Random(0), n_grow, 0)


def torch_scalar(x: float) -> Any:
    return pytest.importorskip("torch").tensor(x)


@pytest.mark.parametrize("make", [np.float32, np.array, torch_scalar])
def test_what_new_places_get_may_be_a_scalar_of_a_framework(make: Any) -> None:
    mask, w, m = np.array([True, False]), np.ones(2, np.float32), np.ones(2)
    scores, options = np.ones(2, np.float32), {"init": make(0.5), "state_init": make(3.0)}
    drop_grow_(mask, scores, scores, 0, 1, weights=w, states=[m], **options)
    assert (w.tolist(), m.tolist()) == ([1, 0.5], [1, 3])
