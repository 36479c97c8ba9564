"""Budgets and schedules: exact sums, targets that are met, numbers of the original code."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gossamer._numbers import decimal
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
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from library import examples

pytestmark = pytest.mark.once

# A busy machine may take any time for one example.
bounded = settings(
    max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

ROUNDINGS = ("floor_zeros", "trunc_zeros", "round_ones", "ceil_zeros")
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
    for rounding in ROUNDINGS:
        assert nnz(5, 1.0, rounding=rounding) == 0
        assert nnz(5, 0.0, rounding=rounding) == 5
        assert nnz(0, 0.5, rounding=rounding) == 0


@bounded
@given(st.integers(0, 10**12), st.integers(0, 1000))
def test_nnz_takes_the_sparsity_as_it_is_written(n: int, thousandths: int) -> None:
    zeros = Fraction(n * thousandths, 1000)
    sparsity = thousandths / 1000
    assert nnz(n, sparsity) == n - math.floor(zeros)
    assert nnz(n, sparsity, rounding="round_ones") == round(n - zeros)
    assert nnz(n, sparsity, rounding="ceil_zeros") == n - math.ceil(zeros)
    assert nnz(n, 1 - (1 - sparsity)) == n - math.floor(zeros)


SIZES = st.integers(0, 10**18) | st.integers(2**43 - 9, 2**43 + 9) | st.integers(0, 99)
BILLIONTHS = st.integers(0, 10**9).map(lambda n: n / 10**9)
#: Floats, decimals of few places, and floats next to decimals.
SHARES = st.floats(0, 1) | BILLIONTHS | BILLIONTHS.map(lambda s: math.nextafter(s, 0.5))


def test_nnz_of_sizes_that_a_float_cannot_hold() -> None:
    for n in (2**53 + 3, 10**18 + 1):
        for rounding in ROUNDINGS:
            assert nnz(n, 1.0, rounding=rounding) == 0
            assert nnz(n, 0.0, rounding=rounding) == n
            assert nnz(n, 0.5, rounding=rounding) == (
                n // 2 + (n // 2 % 2 if rounding == "round_ones" else rounding != "ceil_zeros")
            )


@bounded
@given(SIZES, st.integers(0, 10**9))
def test_nnz_of_a_decimal_is_exact_for_any_size(n: int, billionths: int) -> None:
    zeros = Fraction(n * billionths, 10**9)
    sparsity = billionths / 10**9
    assert nnz(n, sparsity) == n - math.floor(zeros)
    assert nnz(n, sparsity, rounding="round_ones") == round(n - zeros)
    assert nnz(n, sparsity, rounding="ceil_zeros") == n - math.ceil(zeros)
    assert nnz(n, Fraction(billionths, 10**9)) == nnz(n, Decimal(billionths) / 10**9)


@bounded
@given(SIZES, SIZES, SHARES, st.sampled_from(ROUNDINGS))
@example(2**53 + 3, 0, 1.0, "trunc_zeros")
def test_more_elements_keep_no_fewer(n: int, more: int, sparsity: float, rounding: Any) -> None:
    kept = [nnz(size, sparsity, rounding=rounding) for size in (n, n + 1, n + 1 + more)]
    assert kept == sorted(kept)
    assert 0 <= kept[0] <= n


@bounded
@given(SIZES, SHARES, SHARES, st.sampled_from(ROUNDINGS))
@example(100, 0.1, math.nextafter(0.1, 0), "ceil_zeros")
def test_a_higher_sparsity_keeps_no_more(n: int, a: float, b: float, rounding: Any) -> None:
    for low, high in (sorted((a, b)), (a, math.nextafter(a, 1)), (math.nextafter(a, 0), a)):
        assert nnz(n, low, rounding=rounding) >= nnz(n, high, rounding=rounding)


@bounded
@given(st.integers(1, 500_000), st.data())
def test_a_computed_share_keeps_its_count(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    for rounding in ROUNDINGS:
        assert nnz(n, 1 - k / n, rounding=rounding) == k


# --- numbers of other types -----------------------------------------------------------------------


def scalars(x: float) -> list[Any]:
    """Return a number in types of other libraries: scalars and arrays of no axes."""
    torch = pytest.importorskip("torch")
    jnp = pytest.importorskip("jax.numpy")
    return [
        np.float16(x),
        np.float32(x),
        np.float64(x),
        np.longdouble(x),
        ml_dtypes.bfloat16(x),
        np.array(x, np.float32),
        np.array(x, ml_dtypes.bfloat16),
        *[
            torch.tensor(x, dtype=kind)
            for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        ],
        jnp.float32(x),
        jnp.asarray(x, jnp.bfloat16),
        Decimal(str(x)),
        Fraction(str(x)),
    ]


#: What takes a share or another number, with a result that its rounding to float16 would change.
TAKERS: list[tuple[Callable[[Any], object], float]] = [
    (lambda x: nnz(10, x), 0.9),
    (lambda x: nnz(10**18, x, rounding="ceil_zeros"), 0.9),
    (lambda x: linear(1, end=3, initial=x, final=0.0), 0.9),
    (lambda x: linear(x, end=3, final=0.9), 0.9),
    (lambda x: cubic(50, end=100, final=x), 0.9),
    (lambda x: cubic(1, begin=x, end=100, final=0.9), 0.9),
    (lambda x: cosine(25, end=100, initial=x), 0.3),
    (lambda x: exponential(25, end=100, initial=0.3, exponent=x), 2.1),
    (lambda x: exponential(25, end=100, initial=0.3, final=x), 0.1),
    (lambda x: synflow(0, steps=2, sparsity=x), 0.9),
    (lambda x: synflow(1, steps=2, sparsity=x), 0.9),
    (lambda x: allocate([(10,)], sparsity=x), 0.9),
    (lambda x: allocate([(10,), (5,)], sparsity=0.7, custom={0: x}), 0.9),
    (lambda x: allocate([(10, 10), (99, 99)], sparsity=0.9, method="erk", power=x), 0.7),
    (
        lambda x: allocate([(10**9,)] * 2, sparsity=0.5, method="owl", scores=[0, 1], strength=x),
        0.1,
    ),
    (lambda x: sparse_wide_width(10**9, x), 0.6),
    (sparse_parallel_branches, 0.99),
    (lambda x: sparse_factorized_rank(20, 180, x), 0.8),
    (lambda x: sparse_doped_rank(20, 180, x), 0.9),
]


@pytest.mark.parametrize(("take", "x"), TAKERS)
def test_a_number_of_any_type_is_the_decimal_that_was_meant(
    take: Callable[[Any], object], x: float
) -> None:
    for number in scalars(x):
        assert take(number) == take(x), (type(number), getattr(number, "dtype", None))


def test_counts_of_any_type() -> None:
    torch = pytest.importorskip("torch")
    for n in (np.int8(100), np.uint16(100), np.array(100), torch.tensor(100)):
        assert nnz(n, 0.29) == 71
        assert sparse_factorized_rank(n, n, 0.5, taps=np.int8(9)) == sparse_factorized_rank(
            100, 100, 0.5
        )
        assert allocate([(n, n), (n,)], total=n) == [99, 1]
        assert one_to_n(n, n=n - 1) == [99]
        assert synflow(n - 1, steps=n, sparsity=0.9) == 0.9
        assert sparse_wide_width(n, 0.75) == 200
        assert linear(n, end=400, final=1.0) == 0.25


def test_decimals_are_those_that_numpy_writes() -> None:
    halves = np.arange(0, 1 << 16, 37, dtype=np.uint16).view(np.float16)
    words = np.random.default_rng(0).integers(0, 1 << 32, 1000, dtype=np.uint32)
    powers = np.exp2(np.arange(-149, 128), dtype=np.float32)
    for number in (*halves, *words.view(np.float32), *powers):
        if np.isfinite(number):
            assert decimal("test", "x", number) == Fraction(str(number))


def test_decimals_of_bfloat16_are_told_apart_and_read_back() -> None:
    numbers = np.arange(0, 0x7F80, 11, dtype=np.uint16).view(ml_dtypes.bfloat16)
    decimals = [decimal("test", "x", number) for number in numbers]
    assert decimals == sorted(set(decimals))
    assert [ml_dtypes.bfloat16(float(d)) for d in decimals] == list(numbers)


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


@bounded
@given(st.floats(0, 1), st.floats(0, 1), st.integers(2, 10**6), st.data())
def test_a_schedule_stays_between_its_ends(
    initial: float, final: float, end: int, data: st.DataObject
) -> None:
    steps = sorted(data.draw(st.lists(st.integers(0, end), max_size=6)))
    for schedule in (linear, cubic):
        values = [schedule(t, end=end, initial=initial, final=final) for t in (0, *steps, end)]
        assert values == sorted(values, reverse=initial > final)
        assert (values[0], values[-1]) == (initial, final)


def test_a_schedule_is_rounded_once() -> None:
    assert linear(1, end=3, final=0.9) == 0.3
    assert [cubic(t, end=10, final=0.7) for t in (1, 9)] == [0.1897, 0.6993]
    assert linear(1, end=2, initial=1e308, final=-1e308) == 0


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
    counts = allocate(RESNET, sparsity=sparsity, method="erk", power=power)
    sizes = [math.prod(s) for s in RESNET]
    expected = np.multiply(rigl_erk(RESNET, sparsity, power), sizes)
    assert sum(counts) == nnz(sum(sizes), sparsity)
    np.testing.assert_allclose(counts, expected, atol=1.01)
    assert all(c <= s for c, s in zip(counts, sizes, strict=True))


def test_er_takes_the_fans_it_is_told() -> None:
    shapes = [(3, 3, 64, 128), (128, 256, 1, 1)]
    for fans in [(-2, -1), (0, 1)]:
        counts = allocate(shapes, sparsity=0.99, method="er", fans=fans)
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
        allocate([(5,)], sparsity=0.5, method="er")


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


def test_snfs_takes_all_that_is_free_where_the_budget_asks_for_it() -> None:
    assert allocate([(1,)], total=1, method="snfs", scores=[1]) == [1]
    assert allocate([(100,)] * 2, sparsity=0.0, method="snfs", scores=[2, 1]) == [100, 100]
    # 99 % of each first: 99 and 198; then the rest by the scores.
    shapes = [(100,), (200,)]
    assert allocate(shapes, total=297, method="snfs", scores=[1, 0]) == [99, 198]
    assert allocate(shapes, total=299, method="snfs", scores=[1, 0]) == [100, 199]
    assert allocate(shapes, total=250, method="snfs", scores=[0, 1], floors=[100, 0]) == [100, 150]
    assert allocate(shapes, total=205, method="snfs", scores=[1, 1], caps=[5, 200]) == [5, 200]


def test_owl_of_equal_layers_is_uniform() -> None:
    assert allocate([(4, 8)] * 4, sparsity=0.5, method="owl", scores=[0.3] * 4) == [16] * 4


def test_owl_spreads_by_twice_its_strength() -> None:
    counts = allocate(
        [(100, 100)] * 3, sparsity=0.7, method="owl", scores=[0.0, 1.0, 3.0], strength=0.08
    )
    mean = (0 + 1 / 3 + 1) / 3
    expected = [10000 * (0.3 + 0.16 * (d - mean)) for d in (0, 1 / 3, 1)]
    np.testing.assert_allclose(counts, expected, atol=1)
    assert sum(counts) == 9000


def test_custom_layers_get_theirs_and_the_rest_meets_the_budget() -> None:
    shapes = [(100,), (100,), (300,)]
    counts = allocate(shapes, sparsity=0.8, custom={0: 0.0})
    assert counts == [100, 0, 0]
    counts = allocate(shapes, sparsity=0.6, custom={0: 0.5})
    assert counts == [50, 38, 112]  # 37.5 and 112.5: the earlier layer takes the half


def test_powers_of_any_size() -> None:
    shapes = [(10, 10), (20, 20), (0, 5)]
    for power, counts in [(1000, [100, 150, 0]), (-1000, [0, 250, 0]), (0, [50, 200, 0])]:
        assert allocate(shapes, total=250, method="erk", power=power) == counts
    assert allocate([(10,), (0, 3)], total=4, method="erk", power=-1) == [4, 0]


SCORES = st.floats(0, 1e6) | st.just(0.0) | st.floats(0, 1e-300)


@bounded
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


@bounded
@given(
    shapes=st.lists(
        st.lists(st.integers(1, 10**6), min_size=2, max_size=3), min_size=1, max_size=6
    ),
    sparsity=SHARES | st.sampled_from([0.0, 1.0]),
    method=st.sampled_from(["uniform", "er", "erk", "proportional", "snfs", "owl"]),
    rounding=st.sampled_from(ROUNDINGS),
    data=st.data(),
)
def test_large_layers_get_exact_counts_within_their_sizes(
    shapes: list[list[int]], sparsity: float, method: Any, rounding: Any, data: st.DataObject
) -> None:
    options = {
        "scores": [data.draw(SCORES) for _ in shapes],
        "power": data.draw(st.floats(-9, 9)),
        "strength": data.draw(st.floats(0, 1)),
        "rounding": rounding,
    }
    sizes = [math.prod(s) for s in shapes]
    counts = allocate(shapes, sparsity=sparsity, method=method, **options)
    assert sum(counts) == nnz(sum(sizes), sparsity, rounding=rounding)
    assert all(0 <= c <= s for c, s in zip(counts, sizes, strict=True))


@pytest.mark.parametrize("method", ["uniform", "er", "erk", "proportional", "snfs", "owl"])
def test_a_density_of_one_fills_large_layers(method: Any) -> None:
    shapes = [(10**5, 10**6)] * 3 + [(10**9, 10**9), (10**9 + 7, 10**8 + 7)]
    sizes = [math.prod(s) for s in shapes]
    assert allocate(shapes, sparsity=0.0, method=method, scores=[1, 2, 3, 0, 1e-9]) == sizes
    assert allocate(shapes, sparsity=1.0, method=method, scores=[1, 2, 3, 0, 1e-9]) == [0] * 5


def test_equal_layers_share_as_evenly_as_integers_can() -> None:
    assert allocate([(10,)] * 7, total=17) == [3, 3, 3, 2, 2, 2, 2]
    assert allocate([(10, 10)] * 3, sparsity=0.9, method="erk") == [10, 10, 10]


def test_no_layers() -> None:
    assert allocate([], sparsity=0.5) == []
    assert allocate([], sparsity=0.5, method="owl", scores=[]) == []


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
    assert sparse_factorized_rank(20, 180, 5 / 6) == 90 * 6
    assert sparse_doped_rank(20, 180, 1 / 3) == 30


def test_sparse_ift_of_widths_that_a_float_cannot_hold() -> None:
    assert sparse_wide_width(10**18 + 1, 0.0) == 10**18 + 1
    assert sparse_wide_width(10**18 + 1, 0.75) == 2 * (10**18 + 1)
    assert sparse_factorized_rank(10**18, 10**18 + 2, 0.0, taps=1) == (10**18 + 1) // 2 + 1
    assert sparse_doped_rank(10**18, 9 * 10**18, 0.5) == 9 * 10**18 // 4


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
        lambda: exponential(1, end=5, initial=0.5, exponent=math.inf),
        "exponential: exponent is inf, expected a finite number",
    ),
    (lambda: linear(math.nan, end=5, final=0.5), "linear: step is nan, expected a finite number"),
    (
        lambda: cubic(np.float32("inf"), end=5, final=0.5),
        "cubic: step is inf, expected a finite number",
    ),
    (
        lambda: cosine(1, begin=-math.inf, end=5, initial=0.5),
        "cosine: begin is -inf, expected a finite number",
    ),
    (
        lambda: exponential(1, end=math.inf, initial=0.5),
        "exponential: end is inf, expected a finite number",
    ),
    (
        lambda: cubic(1, end=5, initial=math.nan, final=0.5),
        "cubic: initial is nan, expected a finite number",
    ),
    (lambda: cubic(1, end=5, final=math.inf), "cubic: final is inf, expected a finite number"),
    (
        lambda: cubic(1, end=5, final=10**400),
        "cubic: final is beyond the range of a float, expected a finite number",
    ),
    (lambda: nnz(5, np.float32(1.1)), "nnz: sparsity is 1.1, expected 0 to 1"),
    (lambda: nnz(5, Decimal("nan")), "nnz: sparsity is nan, expected 0 to 1"),
    (lambda: synflow(0, steps=0, sparsity=0.5), "synflow: steps is 0, expected at least 1"),
    (lambda: synflow(0, steps=1, sparsity=2), "synflow: sparsity is 2.0, expected 0 to 1"),
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
        lambda: allocate([(2, 2)], sparsity=0.5, method="best"),  # type: ignore[arg-type]
        "allocate: method is 'best', expected 'uniform', 'er', 'erk', 'proportional', 'snfs' or "
        "'owl'",
    ),
    (
        lambda: allocate([(2, 2)], sparsity=0.5, method="owl"),
        "allocate: scores is None, expected one number a layer for method 'owl'",
    ),
    (
        lambda: allocate([(2, 2)], sparsity=0.5, method="owl", scores=[1, 2]),
        "allocate: len(scores) is 2, expected len(shapes) = 1",
    ),
    (
        lambda: allocate([(2, 2)], sparsity=0.5, method="proportional", scores=[math.nan]),
        "allocate: scores[0] is nan, expected a finite number of at least 0",
    ),
    *[
        (
            lambda method=method, power=power: allocate(
                [(2, 2)], sparsity=0.5, method=method, power=power
            ),
            f"allocate: power is {power}, expected a finite number",
        )
        for method in ("erk", "uniform")
        for power in (math.inf, -math.inf, math.nan)
    ],
    (
        lambda: allocate([(2, 2)], sparsity=0.5, method="owl", scores=[1], strength=math.nan),
        "allocate: strength is nan, expected 0 to 1",
    ),
    (lambda: allocate([(2, 2)], sparsity=math.nan), "allocate: sparsity is nan, expected 0 to 1"),
    (
        lambda: allocate([(2, 2)], sparsity=0.5, custom={0: 1.5}),
        "allocate: custom[0] is 1.5, expected 0 to 1",
    ),
    (
        lambda: allocate([(2, 2)], total=1, rounding="up"),  # type: ignore[arg-type]
        "allocate: rounding is 'up', expected 'floor_zeros', 'trunc_zeros', 'round_ones' or "
        "'ceil_zeros'",
    ),
    (lambda: allocate([(2, -2)], total=1), "allocate: shapes[0] is -2, expected at least 0"),
    (
        lambda: allocate([(2, 2)], total=1, method="er", fans=(0,)),  # type: ignore[arg-type]
        "allocate: len(fans) is 1, expected 2",
    ),
    (
        lambda: allocate([(2, 2)], total=1, method="snfs", scores=[1], floors=[4], caps=[3]),
        "allocate: floors[0] is 4, expected at most the cap 3",
    ),
    (
        lambda: allocate([(2, 2)], total=5, method="snfs", scores=[1]),
        "allocate: total is 5, expected 0 to 4, what the bounds allow",
    ),
    (
        lambda: allocate([(2, 2)], sparsity=0.5, caps=[1], floors=[2]),
        "allocate: floors[0] is 2, expected at most the cap 1",
    ),
    (
        lambda: allocate([(2, 2)], sparsity=0.5, custom={1: 0.5}),
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


WRONG_TYPES: list[tuple[Callable[[], object], str]] = [
    (lambda: nnz(10.0, 0.5), "nnz: n is 10.0, expected an integer"),  # type: ignore[arg-type]
    (lambda: nnz(10, "0.5"), "nnz: sparsity is '0.5', expected a number"),  # type: ignore[arg-type]
    (lambda: nnz(10, None), "nnz: sparsity is None, expected a number"),  # type: ignore[arg-type]
    (lambda: nnz(10, 0.5j), "nnz: sparsity is 0.5j, expected a number"),  # type: ignore[arg-type]
    (
        lambda: nnz(10, np.array([0.5])),
        "nnz: sparsity is an array of shape (1,), expected a number",
    ),
    (
        lambda: nnz(10, np.str_("0.5")),  # type: ignore[arg-type]
        "nnz: sparsity is np.str_('0.5'), expected a number",
    ),
    (
        lambda: cubic(None, end=5, final=0.5),  # type: ignore[arg-type]
        "cubic: step is None, expected a number",
    ),
    (
        lambda: synflow(0, steps=2.0, sparsity=0.5),  # type: ignore[arg-type]
        "synflow: steps is 2.0, expected an integer",
    ),
    (lambda: one_to_n("4"), "one_to_n: m is '4', expected an integer"),  # type: ignore[arg-type]
    (
        lambda: sparse_doped_rank(5, 5.0, 0.5),  # type: ignore[arg-type]
        "sparse_doped_rank: fan_out is 5.0, expected an integer",
    ),
    (
        lambda: allocate(5, sparsity=0.5),  # type: ignore[arg-type]
        "allocate: shapes is 5, expected a sequence",
    ),
    (
        lambda: allocate([5], sparsity=0.5),  # type: ignore[list-item]
        "allocate: shapes[0] is 5, expected a sequence",
    ),
    (
        lambda: allocate([(2, 2.0)], sparsity=0.5),  # type: ignore[list-item]
        "allocate: shapes[0] is 2.0, expected an integer",
    ),
    (
        lambda: allocate([(2, 2)], total=2.0),  # type: ignore[arg-type]
        "allocate: total is 2.0, expected an integer",
    ),
    (
        lambda: allocate([(2, 2)], sparsity=0.5, caps=3),  # type: ignore[arg-type]
        "allocate: caps is 3, expected a sequence",
    ),
    (
        lambda: allocate([(2, 2)], sparsity=0.5, method="owl", scores=["a"]),  # type: ignore[list-item]
        "allocate: scores[0] is 'a', expected a number",
    ),
    (
        lambda: allocate([(2, 2)], sparsity=0.5, custom=[0.5]),  # type: ignore[arg-type]
        "allocate: custom is [0.5], expected a mapping",
    ),
    (
        lambda: allocate([(2, 2)], sparsity=0.5, method="erk", power="2"),  # type: ignore[arg-type]
        "allocate: power is '2', expected a number",
    ),
]


@pytest.mark.parametrize(("call", "message"), WRONG_TYPES, ids=[row[1] for row in WRONG_TYPES])
def test_message_of_a_wrong_type(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message
