"""Budgets and schedules: exact sums, targets that are met, numbers of the original code."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from gossamer.schedule import (
    allocate,
    cosine,
    cubic,
    exponential,
    linear,
    nnz,
    one_to_n,
    sparse_doped_rank,
    sparse_factorized_rank,
    sparse_parallel_branches,
    sparse_wide_width,
    synflow,
)
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.once

RESNET = [(7, 7, 3, 64), *[(3, 3, 64, 64)] * 4, (3, 3, 64, 128), (1, 1, 64, 128), (512, 1000)]


# --- A1 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounding", "kept"),
    [("floor_zeros", 8), ("trunc_zeros", 8), ("round_ones", 8), ("ceil_zeros", 7)],
)
def test_nnz_of_ten_at_a_quarter(rounding: str, kept: int) -> None:
    assert nnz(10, 0.25, rounding=rounding) == kept


def test_nnz_rounds_halves_to_even() -> None:
    assert [nnz(n, 0.5, rounding="round_ones") for n in (1, 3, 5, 7)] == [0, 2, 2, 4]


@pytest.mark.parametrize(("n", "sparsity", "ones"), [(120, 0.5, 60), (8, 0.8, 2), (30, 0.1, 27)])
def test_nnz_agrees_with_rigl(n: int, sparsity: float, ones: int) -> None:
    assert nnz(n, sparsity) == ones


def test_nnz_reaches_nothing_and_everything() -> None:
    for rounding in ("floor_zeros", "trunc_zeros", "round_ones", "ceil_zeros"):
        assert nnz(5, 1.0, rounding=rounding) == 0
        assert nnz(5, 0.0, rounding=rounding) == 5
        assert nnz(0, 0.5, rounding=rounding) == 0


@given(st.integers(0, 10**12), st.integers(0, 1000))
def test_nnz_takes_the_sparsity_as_it_is_written(n: int, thousandths: int) -> None:
    zeros = Fraction(n * thousandths, 1000)
    sparsity = thousandths / 1000
    assert nnz(n, sparsity) == n - math.floor(zeros)
    assert nnz(n, sparsity, rounding="round_ones") == round(n - zeros)
    assert nnz(n, sparsity, rounding="ceil_zeros") == n - math.ceil(zeros)
    assert nnz(n, 1 - (1 - sparsity)) == n - math.floor(zeros)


# --- A2 -------------------------------------------------------------------------------------------


def test_cubic_cases() -> None:
    assert cubic(50, end=100, final=0.9) == pytest.approx(0.7875, abs=1e-15)
    # JaxPruner evaluates the step after: its 9 of 0 to 20 is 10 here.
    assert cubic(9 + 1, end=20, final=0.5) == 0.4375


def test_cosine_case() -> None:
    assert cosine(25, end=100, initial=0.3) == pytest.approx(0.256066, abs=5e-7)
    assert cosine(50, end=100, initial=0.3) == pytest.approx(0.15, abs=1e-15)


def test_one_to_n_cases() -> None:
    assert one_to_n(16) == [15, 8, 4, 2, 1]
    assert one_to_n(4) == [3, 2, 1]
    assert one_to_n(4, n=2) == [3, 2]
    assert one_to_n(2) == [1]
    assert one_to_n(3) == [2, 1]
    assert one_to_n(8, n=3) == [7, 4, 3]


def test_synflow_falls_geometrically_to_its_target() -> None:
    densities = [1 - synflow(i, steps=100, sparsity=0.99) for i in range(100)]
    np.testing.assert_allclose(densities, [0.01 ** ((i + 1) / 100) for i in range(100)], rtol=1e-12)
    assert synflow(99, steps=100, sparsity=0.99) == 0.99
    assert synflow(4, steps=5, sparsity=1.0) == 1.0


@pytest.mark.parametrize("schedule", [linear, cubic, cosine, exponential])
def test_both_ends_are_met_and_held(schedule: Callable[..., float]) -> None:
    # Dividing by the steps plus one, as some do, misses the target.
    for initial, final in [(0.1, 0.93), (0.3, 0.0), (0.0, 0.7)]:
        values = [schedule(t, begin=10, end=37, initial=initial, final=final) for t in range(0, 60)]
        assert values[:11] == [initial] * 11
        assert values[37:] == [final] * 23
        assert sorted(values, reverse=initial > final) == values


def test_exponential_is_a_power_of_what_is_left() -> None:
    assert exponential(25, end=100, initial=0.3, exponent=3) == pytest.approx(0.3 * 0.75**3)
    assert linear(25, end=100, final=0.8) == pytest.approx(0.2)


# --- A3 -------------------------------------------------------------------------------------------


def rigl_erk(shapes: list[tuple[int, ...]], sparsity: float, power: float) -> list[float]:
    """Return the densities of RigL's loop, which makes more layers dense in each round."""
    dense: set[int] = set()
    while True:
        rest = [i for i in range(len(shapes)) if i not in dense]
        sizes = [math.prod(s) for s in shapes]
        raw = {i: (sum(shapes[i]) / sizes[i]) ** power for i in rest}
        ones = sum(sizes) * (1 - sparsity) - sum(sizes[i] for i in dense)
        epsilon = ones / sum(raw[i] * sizes[i] for i in rest)
        if max(raw.values()) * epsilon <= 1:
            return [1.0 if i in dense else epsilon * raw[i] for i in range(len(shapes))]
        dense |= {i for i in rest if raw[i] == max(raw.values())}


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_erk_is_the_saturation_loop(sparsity: float, power: float) -> None:
    counts = allocate(RESNET, sparsity, method="erk", power=power)
    sizes = [math.prod(s) for s in RESNET]
    expected = np.multiply(rigl_erk(RESNET, sparsity, power), sizes)
    assert sum(counts) == nnz(sum(sizes), sparsity)
    np.testing.assert_allclose(counts, expected, atol=1.01)
    assert all(c <= s for c, s in zip(counts, sizes, strict=True))


def test_er_takes_the_fans_it_is_told() -> None:
    shapes = [(3, 3, 64, 128), (128, 256, 1, 1)]
    for fans in [(-2, -1), (0, 1)]:
        counts = allocate(shapes, 0.99, method="er", fans=fans)
        ideal = [
            math.prod(s) * (s[fans[0]] + s[fans[1]]) / (s[fans[0]] * s[fans[1]]) for s in shapes
        ]
        total = nnz(sum(map(math.prod, shapes)), 0.99)
        room = [math.prod(s) for s in shapes]
        scaled = np.multiply(ideal, total / sum(ideal))
        if (scaled <= room).all():
            np.testing.assert_allclose(counts, scaled, atol=1)
        assert sum(counts) == total
    with pytest.raises(ValueError, match=r"shapes\[0\] is \(5,\), expected axes -2 and -1"):
        allocate([(5,)], 0.5, method="er")


def test_proportional_cases() -> None:
    assert allocate([(10,), (10,)], total=12, method="proportional", scores=[3, 1]) == [9, 3]
    assert allocate([(10,), (10,)], total=12, method="proportional", scores=[9, 1]) == [10, 2]
    assert allocate([(10,), (10,)], total=12, method="proportional", scores=[1, 0]) == [10, 2]
    counts = allocate([(10,), (10,)], total=12, method="proportional", scores=[9, 1], floors=[0, 4])
    assert counts == [8, 4]


def test_snfs_grows_within_what_is_free() -> None:
    counts = allocate(
        [(1000,)] * 3, total=300, method="snfs", scores=[2, 1, 0], caps=[100, 500, 900]
    )
    assert counts == [99, 201, 0]


def test_owl_of_equal_layers_is_uniform() -> None:
    assert allocate([(4, 8)] * 4, 0.5, method="owl", scores=[0.3] * 4) == [16] * 4


def test_owl_spreads_by_twice_its_strength() -> None:
    counts = allocate([(100, 100)] * 3, 0.7, method="owl", scores=[0.0, 1.0, 3.0], strength=0.08)
    mean = (0 + 1 / 3 + 1) / 3
    expected = [10000 * (0.3 + 0.16 * (d - mean)) for d in (0, 1 / 3, 1)]
    np.testing.assert_allclose(counts, expected, atol=1)
    assert sum(counts) == 9000


def test_custom_layers_get_theirs_and_the_rest_meets_the_budget() -> None:
    shapes = [(100,), (100,), (300,)]
    counts = allocate(shapes, 0.8, custom={0: 0.0})
    assert counts == [100, 0, 0]
    counts = allocate(shapes, 0.6, custom={0: 0.5})
    assert counts == [50, 38, 112]  # 37.5 and 112.5: the earlier layer takes the half


SCORES = st.floats(0, 1e6) | st.just(0.0) | st.floats(0, 1e-300)


@given(
    shapes=st.lists(st.lists(st.integers(0, 40), min_size=2, max_size=4), min_size=1, max_size=8),
    share=st.floats(0, 1),
    method=st.sampled_from(["uniform", "er", "erk", "proportional", "owl"]),
    data=st.data(),
)
def test_counts_sum_exactly_and_stay_within_bounds(
    shapes: list[list[int]], share: float, method: str, data: st.DataObject
) -> None:
    sizes = [math.prod(s) for s in shapes]
    scores = [data.draw(SCORES) for _ in shapes]
    caps = [data.draw(st.integers(0, size)) for size in sizes]
    floors = [data.draw(st.integers(0, cap)) for cap in caps]
    total = sum(floors) + int(share * (sum(caps) - sum(floors)))
    options = {"scores": scores} if method in ("proportional", "owl") else {}
    counts = allocate(shapes, total=total, method=method, caps=caps, floors=floors, **options)
    assert sum(counts) == total
    assert all(f <= c <= u for f, c, u in zip(floors, counts, caps, strict=True))


def test_equal_layers_share_as_evenly_as_integers_can() -> None:
    assert allocate([(10,)] * 7, total=17) == [3, 3, 3, 2, 2, 2, 2]
    assert allocate([(10, 10)] * 3, 0.9, method="erk") == [10, 10, 10]


def test_no_layers() -> None:
    assert allocate([], 0.5) == []
    assert allocate([], 0.5, method="owl", scores=[]) == []


# --- Sparse-IFT -----------------------------------------------------------------------------------


def test_sparse_ift_keeps_the_cost() -> None:
    assert [sparse_wide_width(64, s) for s in (0.0, 0.5, 0.75, 0.9)] == [64, 91, 128, 202]
    assert [sparse_parallel_branches(s) for s in (0.5, 0.75, 0.9)] == [2, 4, 10]
    for fan_in, fan_out in [(64, 64), (128, 256), (3, 16)]:
        dense = 9 * fan_in * fan_out
        for sparsity in (0.5, 0.75, 0.9):
            rank = sparse_factorized_rank(fan_in, fan_out, sparsity)
            cost = (1 - sparsity) * (9 * fan_in + fan_out)
            assert (rank - 1) * cost < dense <= rank * cost * (1 + 1e-12)
            doped = sparse_doped_rank(fan_in, fan_out, sparsity)
            assert doped * (9 * fan_in + fan_out) <= sparsity * dense
            assert (doped + 1) * (9 * fan_in + fan_out) > sparsity * dense
    # A quotient that is an integer is not rounded up by its error: 9·20·180/180 = 90, / 0.1.
    assert sparse_factorized_rank(20, 180, 0.9) == 450 * 2


# --- bad calls ------------------------------------------------------------------------------------

BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: nnz(-1, 0.5), "nnz: n is -1, expected at least 0"),
    (lambda: nnz(5, 1.5), "nnz: sparsity is 1.5, expected 0 to 1"),
    (lambda: nnz(5, math.nan), "nnz: sparsity is nan, expected 0 to 1"),
    (
        lambda: nnz(5, 0.5, rounding="up"),  # type: ignore[arg-type]
        "nnz: rounding is 'up', expected 'floor_zeros', 'trunc_zeros', 'round_ones' or "
        "'ceil_zeros'",
    ),
    (
        lambda: cubic(1, begin=5, end=5, final=0.5),
        "cubic: begin is 5, expected less than end = 5",
    ),
    (
        lambda: exponential(1, end=5, initial=0.5, exponent=0),
        "exponential: exponent is 0, expected more than 0",
    ),
    (
        lambda: synflow(3, steps=3, sparsity=0.5),
        "synflow: step is 3, expected 0 to steps - 1 = 2",
    ),
    (lambda: one_to_n(1), "one_to_n: m is 1, expected at least 2"),
    (lambda: one_to_n(4, n=4), "one_to_n: n is 4, expected 1 to m - 1 = 3"),
    (
        lambda: allocate([(2, 2)]),
        "allocate: sparsity is None and total is None, expected one of them",
    ),
    (
        lambda: allocate([(2, 2)], total=5),
        "allocate: total is 5, expected 0 to 4, what the bounds allow",
    ),
    (
        lambda: allocate([(2, 2)], 0.5, method="best"),  # type: ignore[arg-type]
        "allocate: method is 'best', expected 'uniform', 'er', 'erk', 'proportional', 'snfs' or "
        "'owl'",
    ),
    (
        lambda: allocate([(2, 2)], 0.5, method="owl"),
        "allocate: scores is None, expected one number a layer for method 'owl'",
    ),
    (
        lambda: allocate([(2, 2)], 0.5, method="owl", scores=[1, 2]),
        "allocate: len(scores) is 2, expected len(shapes) = 1",
    ),
    (
        lambda: allocate([(2, 2)], 0.5, method="proportional", scores=[math.nan]),
        "allocate: scores[0] is nan, expected a finite number of at least 0",
    ),
    (
        lambda: allocate([(2, 2)], 0.5, caps=[1], floors=[2]),
        "allocate: floors[0] is 2, expected at most the cap 1",
    ),
    (
        lambda: allocate([(2, 2)], 0.5, custom={1: 0.5}),
        "allocate: custom is for layer 1, expected layers 0 to 0",
    ),
    (
        lambda: sparse_wide_width(5, 1.0),
        "sparse_wide_width: sparsity is 1.0, expected 0 to less than 1",
    ),
    (
        lambda: sparse_doped_rank(0, 5, 0.5),
        "sparse_doped_rank: fan_in is 0, expected at least 1",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_message(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message


def test_a_count_is_an_integer() -> None:
    with pytest.raises(TypeError):
        nnz(10.0, 0.5)  # type: ignore[arg-type]
