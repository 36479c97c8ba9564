"""How many entries to keep: by layer and over time."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal, NoReturn

__all__ = [
    "allocate",
    "cosine",
    "cubic",
    "exponential",
    "linear",
    "nnz",
    "one_to_n",
    "sparse_doped_rank",
    "sparse_factorized_rank",
    "sparse_parallel_branches",
    "sparse_wide_width",
    "synflow",
]

Rounding = Literal["floor_zeros", "trunc_zeros", "round_ones", "ceil_zeros"]
Method = Literal["uniform", "er", "erk", "proportional", "snfs", "owl"]


def nnz(n: int, sparsity: float, *, rounding: Rounding = "floor_zeros") -> int:
    """Count the entries that a sparsity leaves of n.

    The number of zeros n·s is rounded, or the number of ones n·(1 − s). A product within rounding
    errors of a multiple of 1/2 is that multiple: 100·0.29 is 29.

    Parameters
    ----------
    n : int
        Elements.
    sparsity : float
        Share of zeros, 0 to 1.
    rounding : "floor_zeros" (RigL), "trunc_zeros" (Wanda), "round_ones" (JaxPruner) or
        "ceil_zeros" (TEDDY)
        "round_ones" takes halves to the even number. The first two agree.

    Returns
    -------
    int
        Entries to keep, 0 to n.

    Raises
    ------
    ValueError
        For a sparsity outside [0, 1], a negative n and another rounding.

    Examples
    --------
    >>> [nnz(10, 0.25, rounding=r) for r in ("floor_zeros", "round_ones", "ceil_zeros")]
    [8, 8, 7]
    """
    n = _count("nnz", "n", n)
    zeros = _snap(n * _unit("nnz", "sparsity", sparsity), n)
    if rounding in ("floor_zeros", "trunc_zeros"):
        return n - math.floor(zeros)
    if rounding == "round_ones":
        return round(n - zeros)
    if rounding == "ceil_zeros":
        return n - math.ceil(zeros)
    names = "'floor_zeros', 'trunc_zeros', 'round_ones' or 'ceil_zeros'"
    _refuse("nnz", "rounding", repr(rounding), names)


def linear(
    step: float, *, begin: float = 0, end: float, initial: float = 0.0, final: float
) -> float:
    """Go from one value to another in equal steps.

    final + (initial − final)·(1 − p), p = (step − begin) / (end − begin) clamped to [0, 1].

    Parameters
    ----------
    step : number
    begin, end : number
        The first and the last step of the way; the value is constant outside.
    initial, final : float
        The values there, met exactly.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Unless begin < end.

    Examples
    --------
    >>> linear(25, end=100, final=1.0)
    0.25
    """
    return _blend(initial, final, 1.0 - _progress("linear", step, begin, end))


def cubic(
    step: float, *, begin: float = 0, end: float, initial: float = 0.0, final: float
) -> float:
    """Raise a sparsity fast at first, then ever slower (Zhu and Gupta, 2017).

    final + (initial − final)·(1 − p)³, p = (step − begin) / (end − begin) clamped to [0, 1].
    JaxPruner's value for a step is that of step + 1 here.

    Parameters
    ----------
    step : number
    begin, end : number
        The first and the last step of the way; the value is constant outside.
    initial, final : float
        The sparsities there, met exactly.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Unless begin < end.

    Examples
    --------
    >>> cubic(50, end=100, final=0.9)
    0.7875
    """
    return _blend(initial, final, (1.0 - _progress("cubic", step, begin, end)) ** 3)


def cosine(
    step: float, *, begin: float = 0, end: float, initial: float, final: float = 0.0
) -> float:
    """Lower a fraction along half a cosine, as RigL does with its share of replaced entries.

    final + (initial − final)·(1 + cos πp)/2, p = (step − begin) / (end − begin) clamped to [0, 1].

    Parameters
    ----------
    step : number
    begin, end : number
        The first and the last step of the way; the value is constant outside.
    initial, final : float
        The fractions there, met exactly.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Unless begin < end.

    Examples
    --------
    >>> round(cosine(25, end=100, initial=0.3), 6)
    0.256066
    """
    progress = _progress("cosine", step, begin, end)
    # cos π is -1 exactly, cos 0 is 1: both ends are met.
    return _blend(initial, final, 0.5 * (1.0 + math.cos(math.pi * progress)))


def exponential(
    step: float,
    *,
    begin: float = 0,
    end: float,
    initial: float,
    final: float = 0.0,
    exponent: float = 3.0,
) -> float:
    """Lower a fraction by a power of the way that is left (RigL's "exponential").

    final + (initial − final)·(1 − p)^exponent, p = (step − begin) / (end − begin) clamped to
    [0, 1].

    Parameters
    ----------
    step : number
    begin, end : number
        The first and the last step of the way; the value is constant outside.
    initial, final : float
        The fractions there, met exactly.
    exponent : float
        More than 0.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Unless begin < end and the exponent is positive.

    Examples
    --------
    >>> exponential(50, end=100, initial=0.4, exponent=2)
    0.1
    """
    if not (exponent > 0 and math.isfinite(exponent)):
        _refuse("exponential", "exponent", exponent, "more than 0")
    left = 1.0 - _progress("exponential", step, begin, end)
    return _blend(initial, final, left**exponent)


def synflow(step: int, *, steps: int, sparsity: float) -> float:
    """Give the sparsity of one of several rounds that each remove the same share (SynFlow).

    1 − (1 − sparsity)^((step + 1)/steps): the density falls geometrically.

    Parameters
    ----------
    step : int
        0 to steps − 1.
    steps : int
    sparsity : float
        That after the last round, met exactly.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        For a step outside the rounds and a sparsity outside [0, 1].

    Examples
    --------
    >>> [synflow(i, steps=2, sparsity=0.75) for i in range(2)]
    [0.5, 0.75]
    """
    sparsity = _unit("synflow", "sparsity", sparsity)
    steps, step = operator.index(steps), operator.index(step)
    if not 0 <= step < steps:
        _refuse("synflow", "step", step, f"0 to steps - 1 = {steps - 1}")
    if step + 1 == steps:
        return sparsity
    return float(1.0 - (1.0 - sparsity) ** ((step + 1) / steps))


def one_to_n(m: int, *, n: int = 1) -> list[int]:
    """List the stages of an n:m pattern that tightens while training (SdGf).

    m − 1, then m/2, m/4, … rounded down, and n at last.

    Parameters
    ----------
    m : int
        Length of a group, at least 2.
    n : int
        Entries of a group kept in the end, 1 to m − 1.

    Returns
    -------
    list of int
        Entries of a group kept at each stage, decreasing.

    Raises
    ------
    ValueError
        For an n or m out of range.

    Examples
    --------
    >>> one_to_n(16)
    [15, 8, 4, 2, 1]
    """
    m, n = operator.index(m), operator.index(n)
    if m < 2:
        _refuse("one_to_n", "m", m, "at least 2")
    if not 1 <= n < m:
        _refuse("one_to_n", "n", n, f"1 to m - 1 = {m - 1}")
    stages = [m - 1]
    half = m // 2
    while half > n:
        if half < stages[-1]:
            stages.append(half)
        half //= 2
    return [*(s for s in stages if s > n), n]


def allocate(
    shapes: Sequence[Sequence[int]],
    sparsity: float | None = None,
    *,
    method: Method = "uniform",
    total: int | None = None,
    scores: Sequence[float] | None = None,
    custom: Mapping[int, float] | None = None,
    caps: Sequence[int] | None = None,
    floors: Sequence[int] | None = None,
    fans: tuple[int, int] = (-2, -1),
    power: float = 1.0,
    strength: float = 0.08,
    rounding: Rounding = "floor_zeros",
) -> list[int]:
    """Share a budget of entries between layers, so that the counts sum to it exactly.

    Counts are proportional to a weight, kept within bounds, rounded by largest remainder.

    Parameters
    ----------
    shapes : sequence of shapes
    sparsity, total : float, int
        One of them: the budget is nnz(all elements, sparsity, rounding=rounding), or the total.
    method : "uniform", "er", "erk", "proportional", "snfs" or "owl"
        Weights: size; size·(i + o)/(i·o) with the extents i, o of the axes `fans`; size·(Σ extents
        / Π extents)^power; scores; scores (mean |momentum|), within 99 % of caps; size·density,
        density = 1 − s + 2·strength·(d − mean d), d the scores (outlier ratios) scaled to [0, 1].
    scores : sequence of float ≥ 0, one a layer, for the last three methods
    custom : {layer: sparsity}
        These layers get that; the others share what is left of the whole budget.
    caps, floors : sequence of int
        Bounds of each count; sizes and zeros by default. A layer never exceeds its size.
    fans, power, strength, rounding
        See above; rigl's fans are (-2, -1), Random_Pruning's (0, 1).

    Returns
    -------
    list of int

    Raises
    ------
    ValueError
        For a budget that the bounds do not allow, and for arguments out of range.

    Examples
    --------
    >>> allocate([(784, 300), (300, 100), (100, 10)], 0.9, method="erk")
    [18714, 6906, 1000]
    """
    op = "allocate"
    extents = [tuple(_count(op, "shapes", e) for e in shape) for shape in shapes]
    sizes = [math.prod(shape) for shape in extents]
    if (sparsity is None) == (total is None):
        raise ValueError(f"{op}: sparsity is {sparsity} and total is {total}, expected one of them")
    budget = _count(op, "total", total) if total is not None else 0
    if sparsity is not None:
        budget = nnz(sum(sizes), _unit(op, "sparsity", sparsity), rounding=rounding)
    upper = _bounds(op, "caps", caps, sizes, sizes)
    lower = _bounds(op, "floors", floors, sizes, [0] * len(sizes))
    if method == "snfs":
        upper = [99 * cap // 100 for cap in upper]
    for layer, count in _custom(op, custom, sizes, rounding).items():
        lower[layer] = upper[layer] = count
    for layer, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if low > high:
            _refuse(op, f"floors[{layer}]", low, f"at most the cap {high}")
    if not sum(lower) <= budget <= sum(upper):
        _refuse(op, "total", budget, f"{sum(lower)} to {sum(upper)}, what the bounds allow")
    if method == "owl":
        density = Fraction(budget, max(sum(sizes), 1))
        weights = _owl(op, sizes, _scores(op, method, scores, sizes), density, strength)
    elif method in ("proportional", "snfs"):
        weights = [Fraction(s) for s in _scores(op, method, scores, sizes)]
    else:
        weights = _weights(op, method, extents, fans, power)
    return _round_to(budget, _fill(budget, weights, lower, upper))


def sparse_wide_width(width: int, sparsity: float) -> int:
    """Widen a layer so that its sparse form costs what the dense one did (Sparse-IFT).

    width·√round(1/(1 − sparsity)), rounded.

    Parameters
    ----------
    width : int
    sparsity : float
        0 to less than 1.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        For a sparsity out of range.

    Examples
    --------
    >>> sparse_wide_width(64, 0.75)
    128
    """
    op = "sparse_wide_width"
    width = _count(op, "width", width)
    return round(width * math.sqrt(round(_snap(1.0 / _density(op, sparsity)))))


def sparse_parallel_branches(sparsity: float) -> int:
    """Count the sparse branches that cost what one dense layer does (Sparse-IFT).

    1/(1 − sparsity), rounded.

    Parameters
    ----------
    sparsity : float
        0 to less than 1.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        For a sparsity out of range.

    Examples
    --------
    >>> sparse_parallel_branches(0.75)
    4
    """
    return round(_snap(1.0 / _density("sparse_parallel_branches", sparsity)))


def sparse_factorized_rank(fan_in: int, fan_out: int, sparsity: float, *, taps: int = 9) -> int:
    """Find the rank of two sparse factors that cost what a dense layer does (Sparse-IFT).

    ⌈taps·fan_in·fan_out / ((1 − sparsity)·(taps·fan_in + fan_out))⌉.

    Parameters
    ----------
    fan_in, fan_out : int
        Features.
    sparsity : float
        Of both factors, 0 to less than 1.
    taps : int
        Positions of the convolution's kernel: 9 for 3×3, 1 for a linear layer.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        For arguments out of range.

    Examples
    --------
    >>> sparse_factorized_rank(64, 64, 0.5)
    116
    """
    op = "sparse_factorized_rank"
    return math.ceil(_snap(_full_rank(op, fan_in, fan_out, taps) / _density(op, sparsity)))


def sparse_doped_rank(fan_in: int, fan_out: int, sparsity: float, *, taps: int = 9) -> int:
    """Find the rank of dense factors that cost what a sparse layer saves (Sparse-IFT).

    ⌊sparsity·taps·fan_in·fan_out / (taps·fan_in + fan_out)⌋.

    Parameters
    ----------
    fan_in, fan_out : int
        Features.
    sparsity : float
        Of the layer that the factors are added to, 0 to less than 1.
    taps : int
        Positions of the convolution's kernel: 9 for 3×3, 1 for a linear layer.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        For arguments out of range.

    Examples
    --------
    >>> sparse_doped_rank(64, 64, 0.5)
    28
    """
    op = "sparse_doped_rank"
    _density(op, sparsity)
    return math.floor(_snap(sparsity * _full_rank(op, fan_in, fan_out, taps)))


def _refuse(op: str, argument: str, got: object, expected: str) -> NoReturn:
    raise ValueError(f"{op}: {argument} is {got}, expected {expected}")


def _count(op: str, argument: str, n: int) -> int:
    n = operator.index(n)
    if n < 0:
        _refuse(op, argument, n, "at least 0")
    return n


def _unit(op: str, argument: str, x: float) -> float:
    if not 0 <= x <= 1:
        _refuse(op, argument, x, "0 to 1")
    return float(x)


def _density(op: str, sparsity: float) -> float:
    if not 0 <= sparsity < 1:
        _refuse(op, "sparsity", sparsity, "0 to less than 1")
    return 1.0 - sparsity


def _full_rank(op: str, fan_in: int, fan_out: int, taps: int) -> float:
    """Return the rank at which dense factors have as many entries as the layer."""
    for argument, n in (("fan_in", fan_in), ("fan_out", fan_out), ("taps", taps)):
        if operator.index(n) < 1:
            _refuse(op, argument, n, "at least 1")
    return taps * fan_in * fan_out / (taps * fan_in + fan_out)


def _snap(x: float, scale: float = 0.0) -> float:
    """Return the multiple of 1/2 that x misses by rounding errors of numbers up to `scale`."""
    nearest = round(2 * x) / 2
    return nearest if abs(x - nearest) <= 2.0**-50 * max(abs(x), scale) else x


def _progress(op: str, step: float, begin: float, end: float) -> float:
    if not begin < end:
        _refuse(op, "begin", begin, f"less than end = {end}")
    return min(max((step - begin) / (end - begin), 0.0), 1.0)


def _blend(initial: float, final: float, left: float) -> float:
    """Return final + (initial − final)·left, exact at both ends."""
    return float(initial) if left == 1.0 else float(final + (initial - final) * left)


def _bounds(
    op: str, argument: str, given: Sequence[int] | None, sizes: list[int], default: list[int]
) -> list[int]:
    if given is None:
        return list(default)
    if len(given) != len(sizes):
        _refuse(op, f"len({argument})", len(given), f"len(shapes) = {len(sizes)}")
    return [
        min(_count(op, f"{argument}[{i}]", n), size)
        for i, (n, size) in enumerate(zip(given, sizes, strict=True))
    ]


def _custom(
    op: str, custom: Mapping[int, float] | None, sizes: list[int], rounding: Rounding
) -> dict[int, int]:
    counts = {}
    for layer, sparsity in (custom or {}).items():
        if not 0 <= operator.index(layer) < len(sizes):
            _refuse(op, "custom", f"for layer {layer}", f"layers 0 to {len(sizes) - 1}")
        s = _unit(op, f"custom[{layer}]", sparsity)
        counts[layer] = nnz(sizes[layer], s, rounding=rounding)
    return counts


def _scores(op: str, method: str, scores: Sequence[float] | None, sizes: list[int]) -> list[float]:
    if scores is None:
        _refuse(op, "scores", None, f"one number a layer for method '{method}'")
    if len(scores) != len(sizes):
        _refuse(op, "len(scores)", len(scores), f"len(shapes) = {len(sizes)}")
    numbers = [float(score) for score in scores]
    for i, number in enumerate(numbers):
        if not (number >= 0 and math.isfinite(number)):
            _refuse(op, f"scores[{i}]", number, "a finite number of at least 0")
    return numbers


def _weights(
    op: str, method: str, extents: list[tuple[int, ...]], fans: tuple[int, int], power: float
) -> list[Fraction]:
    """Return the entries of each layer but for a factor."""
    if method == "uniform":
        return [Fraction(math.prod(shape)) for shape in extents]
    if method not in ("er", "erk"):
        names = "'uniform', 'er', 'erk', 'proportional', 'snfs' or 'owl'"
        _refuse(op, "method", repr(method), names)
    weights = []
    for i, shape in enumerate(extents):
        if method == "er" and not all(-len(shape) <= axis < len(shape) for axis in fans):
            _refuse(op, f"shapes[{i}]", shape, f"axes {fans[0]} and {fans[1]}, its fans")
        sides = shape if method == "erk" else (shape[fans[0]], shape[fans[1]])
        product = math.prod(sides)
        ratio = Fraction(sum(sides), product) if product else Fraction(0)
        if method == "erk" and power != 1:
            ratio = Fraction(float(ratio) ** power)
        weights.append(math.prod(shape) * ratio)
    return weights


def _owl(
    op: str, sizes: list[int], scores: list[float], density: Fraction, strength: float
) -> list[Fraction]:
    """Return the entries that OWL gives each layer; they may exceed its bounds."""
    if not 0 <= strength <= 1:
        _refuse(op, "strength", strength, "0 to 1")
    least = Fraction(min(scores, default=0))
    spread = Fraction(max(scores, default=0)) - least
    scaled = [(Fraction(s) - least) / (spread or 1) for s in scores]
    mean = sum(map(operator.mul, sizes, scaled)) / Fraction(max(sum(sizes), 1))
    return [
        size * max(density + 2 * Fraction(strength) * (d - mean), Fraction(0))
        for size, d in zip(sizes, scaled, strict=True)
    ]


def _fill(
    budget: int, weights: list[Fraction], lower: list[int], upper: list[int]
) -> list[Fraction]:
    """Return min(max(ε·weight, lower), upper) with the ε for which they sum to the budget.

    The sum grows with ε and is linear between the points where a layer leaves a bound.
    """
    points = sorted(
        {
            Fraction(bound) / weight
            for weight, low, high in zip(weights, lower, upper, strict=True)
            if weight > 0
            for bound in (low, high)
        }
    )

    def at(scale: Fraction) -> list[Fraction]:
        return [
            min(max(scale * weight, Fraction(low)), Fraction(high))
            for weight, low, high in zip(weights, lower, upper, strict=True)
        ]

    first, last = 0, len(points)
    while first < last:  # the first point whose sum reaches the budget
        middle = (first + last) // 2
        if sum(at(points[middle])) >= budget:
            last = middle
        else:
            first = middle + 1
    if first == len(points):  # layers of weight 0 take the rest, each in proportion to its room
        full = at(points[-1]) if points else [Fraction(low) for low in lower]
        room = [high - have for high, have in zip(upper, full, strict=True)]
        share = (budget - sum(full)) / Fraction(sum(room) or 1)
        return [have + share * r for have, r in zip(full, room, strict=True)]
    below = at(points[first - 1]) if first else [Fraction(low) for low in lower]
    above = at(points[first])
    share = (budget - sum(below)) / Fraction(sum(above) - sum(below) or 1)
    return [b + share * (a - b) for a, b in zip(above, below, strict=True)]


def _round_to(budget: int, quotas: list[Fraction]) -> list[int]:
    """Round to integers of the same sum: up where the remainder is largest, then the first."""
    counts = [math.floor(quota) for quota in quotas]
    order = sorted(range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i))
    for i in order[: budget - sum(counts)]:
        counts[i] += 1
    return counts
