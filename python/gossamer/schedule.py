"""How many entries to keep: by layer and over time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from types import NoneType
from typing import Any, Literal, NamedTuple, SupportsFloat, SupportsIndex

from gossamer._numbers import decimal, integer, is_double, real, refuse

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

#: How far a computed sparsity may be off: eight units in the last place of 0.9.
_ERROR = Fraction(1, 2**50)


def nnz(n: SupportsIndex, sparsity: SupportsFloat, *, rounding: Rounding = "floor_zeros") -> int:
    """Count the entries that a sparsity leaves of n.

    The number of zeros n·s is rounded, or the number of ones n·(1 − s), exactly for any n. s is
    the decimal that was meant: the shortest one that its type rounds to it (0.9 for float32's
    0.89999998). A float64 may be the result of a computation and off by 2⁻⁵⁰: a decimal of nine
    places within that is taken for s (1 − 0.9 is 0.1), a multiple of 1/2 for n·s (2 = nnz(3, 1/3)).

    Parameters
    ----------
    n : int
        Elements.
    sparsity : number
        Share of zeros, 0 to 1.
    rounding : "floor_zeros" (RigL), "trunc_zeros" (Wanda), "round_ones" (JaxPruner) or
        "ceil_zeros" (TEDDY)
        "round_ones" takes halves to the even number. The first two agree.

    Returns
    -------
    int
        Entries to keep, 0 to n. More elements or a lower sparsity never keep fewer.

    Raises
    ------
    TypeError
        For what is not a number, or not an integer.
    ValueError
        For a sparsity outside [0, 1], a negative n and another rounding.

    Examples
    --------
    >>> [nnz(10, 0.25, rounding=r) for r in ("floor_zeros", "round_ones", "ceil_zeros")]
    [8, 8, 7]
    """
    count = _count("nnz", "n", n)
    share = _share("nnz", "sparsity", sparsity)
    return _kept(count, share, _rounding("nnz", rounding))


def linear(
    step: SupportsFloat,
    *,
    begin: SupportsFloat = 0,
    end: SupportsFloat,
    initial: SupportsFloat = 0.0,
    final: SupportsFloat,
) -> float:
    """Go from one value to another in equal steps.

    final + (initial − final)·(1 − p), p = (step − begin) / (end − begin) clamped to [0, 1].

    Parameters
    ----------
    step : number
    begin, end : number
        The first and the last step of the way; the value is constant outside.
    initial, final : number
        The values there, met exactly.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        For what is not a number.
    ValueError
        Unless begin < end, and for NaN and infinities.

    Examples
    --------
    >>> linear(25, end=100, final=1.0)
    0.25
    """
    left = 1 - _progress("linear", step, begin, end)
    return _blend("linear", initial, final, left)


def cubic(
    step: SupportsFloat,
    *,
    begin: SupportsFloat = 0,
    end: SupportsFloat,
    initial: SupportsFloat = 0.0,
    final: SupportsFloat,
) -> float:
    """Raise a sparsity fast at first, then ever slower (Zhu and Gupta, 2017).

    final + (initial − final)·(1 − p)³, p = (step − begin) / (end − begin) clamped to [0, 1].
    JaxPruner's value for a step is that of step + 1 here.

    Parameters
    ----------
    step : number
    begin, end : number
        The first and the last step of the way; the value is constant outside.
    initial, final : number
        The sparsities there, met exactly.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        For what is not a number.
    ValueError
        Unless begin < end, and for NaN and infinities.

    Examples
    --------
    >>> cubic(50, end=100, final=0.9)
    0.7875
    """
    left = 1 - _progress("cubic", step, begin, end)
    return _blend("cubic", initial, final, left**3)


def cosine(
    step: SupportsFloat,
    *,
    begin: SupportsFloat = 0,
    end: SupportsFloat,
    initial: SupportsFloat,
    final: SupportsFloat = 0.0,
) -> float:
    """Lower a fraction along half a cosine, as RigL does with its share of replaced entries.

    final + (initial − final)·(1 + cos πp)/2, p = (step − begin) / (end − begin) clamped to [0, 1].

    Parameters
    ----------
    step : number
    begin, end : number
        The first and the last step of the way; the value is constant outside.
    initial, final : number
        The fractions there, met exactly.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        For what is not a number.
    ValueError
        Unless begin < end, and for NaN and infinities.

    Examples
    --------
    >>> round(cosine(25, end=100, initial=0.3), 6)
    0.256066
    """
    progress = float(_progress("cosine", step, begin, end))
    # cos π is -1 exactly, cos 0 is 1: both ends are met.
    left = Fraction(0.5 * (1.0 + math.cos(math.pi * progress)))
    return _blend("cosine", initial, final, left)


def exponential(
    step: SupportsFloat,
    *,
    begin: SupportsFloat = 0,
    end: SupportsFloat,
    initial: SupportsFloat,
    final: SupportsFloat = 0.0,
    exponent: SupportsFloat = 3.0,
) -> float:
    """Lower a fraction by a power of the way that is left (RigL's "exponential").

    final + (initial − final)·(1 − p)^exponent, p = (step − begin) / (end − begin) clamped to
    [0, 1].

    Parameters
    ----------
    step : number
    begin, end : number
        The first and the last step of the way; the value is constant outside.
    initial, final : number
        The fractions there, met exactly.
    exponent : number
        More than 0.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        For what is not a number.
    ValueError
        Unless begin < end and the exponent is positive, and for NaN and infinities.

    Examples
    --------
    >>> exponential(50, end=100, initial=0.4, exponent=2)
    0.1
    """
    power = decimal("exponential", "exponent", exponent)
    if power <= 0:
        refuse("exponential", "exponent", exponent, "more than 0")
    left = 1.0 - float(_progress("exponential", step, begin, end))
    return _blend("exponential", initial, final, Fraction(left ** float(power)))


def synflow(step: SupportsIndex, *, steps: SupportsIndex, sparsity: SupportsFloat) -> float:
    """Give the sparsity of one of several rounds that each remove the same share (SynFlow).

    1 − (1 − sparsity)^((step + 1)/steps): the density falls geometrically.

    Parameters
    ----------
    step : int
        0 to steps − 1.
    steps : int
    sparsity : number
        That after the last round, met exactly.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        For what is not a number, or not an integer.
    ValueError
        For a step outside the rounds and a sparsity outside [0, 1].

    Examples
    --------
    >>> [synflow(i, steps=2, sparsity=0.75) for i in range(2)]
    [0.5, 0.75]
    """
    target = float(_unit("synflow", "sparsity", sparsity))
    rounds, done = integer("synflow", "steps", steps), integer("synflow", "step", step)
    if rounds < 1:
        refuse("synflow", "steps", rounds, "at least 1")
    if not 0 <= done < rounds:
        refuse("synflow", "step", done, f"0 to steps - 1 = {rounds - 1}")
    if done + 1 == rounds:
        return target
    # Rounding errors do not lift an earlier round above the last.
    return min(float(1.0 - (1.0 - target) ** ((done + 1) / rounds)), target)


def one_to_n(m: SupportsIndex, *, n: SupportsIndex = 1) -> list[int]:
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
    TypeError
        For what is not an integer.
    ValueError
        For an n or m out of range.

    Examples
    --------
    >>> one_to_n(16)
    [15, 8, 4, 2, 1]
    """
    group, last = integer("one_to_n", "m", m), integer("one_to_n", "n", n)
    if group < 2:
        refuse("one_to_n", "m", group, "at least 2")
    if not 1 <= last < group:
        refuse("one_to_n", "n", last, f"1 to m - 1 = {group - 1}")
    stages = [group - 1]
    half = group // 2
    while half > last:
        if half < stages[-1]:
            stages.append(half)
        half //= 2
    return [*(stage for stage in stages if stage > last), last]


def allocate(
    shapes: Sequence[Sequence[int]],
    *,
    sparsity: SupportsFloat | None = None,
    method: Method = "uniform",
    total: SupportsIndex | None = None,
    scores: Sequence[SupportsFloat] | None = None,
    custom: Mapping[int, SupportsFloat] | None = None,
    caps: Sequence[int] | None = None,
    floors: Sequence[int] | None = None,
    fans: tuple[int, int] = (-2, -1),
    power: SupportsFloat = 1.0,
    strength: SupportsFloat = 0.08,
    rounding: Rounding = "floor_zeros",
) -> list[int]:
    """Share a budget of entries between layers, so that the counts sum to it exactly.

    Counts are proportional to a weight, kept within bounds, rounded by largest remainder.

    Parameters
    ----------
    shapes : sequence of shapes
    sparsity, total : number, int
        One of them: the budget is nnz(all elements, sparsity, rounding=rounding), or the total.
    method : "uniform", "er", "erk", "proportional", "snfs" or "owl"
        Weights: size; size·(i + o)/(i·o) with the extents i, o of the axes `fans`; size·(Σ extents
        / Π extents)^power; scores; scores (mean |momentum|), up to 99 % of caps while that holds
        the budget; size·density, density = 1 − s + 2·strength·(d − mean d), d the scores (outlier
        ratios) scaled to [0, 1].
    scores : sequence of numbers ≥ 0, one a layer, for the last three methods
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
    TypeError, ValueError
        For what is no number; for a budget beyond the bounds, and arguments out of range.

    Examples
    --------
    >>> allocate([(784, 300), (300, 100), (100, 10)], sparsity=0.9, method="erk")
    [18714, 6906, 1000]
    """
    op = "allocate"
    extents = [
        tuple(_count(op, f"shapes[{i}]", extent) for extent in _listed(op, f"shapes[{i}]", shape))
        for i, shape in enumerate(_listed(op, "shapes", shapes))
    ]
    sizes = [math.prod(shape) for shape in extents]
    rule = _rounding(op, rounding)
    if (sparsity is None) == (total is None):
        raise ValueError(f"{op}: sparsity is {sparsity} and total is {total}, expected one of them")
    budget = _count(op, "total", total) if total is not None else 0
    if sparsity is not None:
        budget = _kept(sum(sizes), _share(op, "sparsity", sparsity), rule)
    upper = _bounds(op, "caps", caps, sizes, sizes)
    lower = _bounds(op, "floors", floors, sizes, [0] * len(sizes))
    for layer, count in _custom(op, custom, sizes, rule).items():
        lower[layer] = upper[layer] = count
    for layer, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if low > high:
            refuse(op, f"floors[{layer}]", low, f"at most the cap {high}")
    if not sum(lower) <= budget <= sum(upper):
        refuse(op, "total", budget, f"{sum(lower)} to {sum(upper)}, what the bounds allow")
    raised, spread = decimal(op, "power", power), _unit(op, "strength", strength)
    if method == "owl":
        density = Fraction(budget, max(sum(sizes), 1))
        weights = _owl(sizes, _scores(op, method, scores, sizes), density, spread)
    elif method in ("proportional", "snfs"):
        weights = _scores(op, method, scores, sizes)
    else:
        weights = _weights(op, method, extents, fans, raised)
    if method == "snfs":
        most = [max(low, 99 * high // 100) for low, high in zip(lower, upper, strict=True)]
        if budget <= sum(most):
            upper = most
        else:
            lower = most
    return _round_to(budget, _fill(budget, weights, lower, upper))


def sparse_wide_width(width: SupportsIndex, sparsity: SupportsFloat) -> int:
    """Widen a layer so that its sparse form costs what the dense one did (Sparse-IFT).

    width·√round(1/(1 − sparsity)), rounded.

    Parameters
    ----------
    width : int
    sparsity : number
        0 to less than 1.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        For what is not a number, or not an integer.
    ValueError
        For a sparsity out of range.

    Examples
    --------
    >>> sparse_wide_width(64, 0.75)
    128
    """
    op = "sparse_wide_width"
    square = _count(op, "width", width) ** 2 * round(_over(Fraction(1), _density(op, sparsity)))
    root = math.isqrt(square)
    return root + (square > root * (root + 1))  # (root + 1/2)² is root·(root + 1) + 1/4


def sparse_parallel_branches(sparsity: SupportsFloat) -> int:
    """Count the sparse branches that cost what one dense layer does (Sparse-IFT).

    1/(1 − sparsity), rounded.

    Parameters
    ----------
    sparsity : number
        0 to less than 1.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        For what is not a number.
    ValueError
        For a sparsity out of range.

    Examples
    --------
    >>> sparse_parallel_branches(0.75)
    4
    """
    return round(_over(Fraction(1), _density("sparse_parallel_branches", sparsity)))


def sparse_factorized_rank(
    fan_in: SupportsIndex,
    fan_out: SupportsIndex,
    sparsity: SupportsFloat,
    *,
    taps: SupportsIndex = 9,
) -> int:
    """Find the rank of two sparse factors that cost what a dense layer does (Sparse-IFT).

    ⌈taps·fan_in·fan_out / ((1 − sparsity)·(taps·fan_in + fan_out))⌉.

    Parameters
    ----------
    fan_in, fan_out : int
        Features.
    sparsity : number
        Of both factors, 0 to less than 1.
    taps : int
        Positions of the convolution's kernel: 9 for 3×3, 1 for a linear layer.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        For what is not a number, or not an integer.
    ValueError
        For arguments out of range.

    Examples
    --------
    >>> sparse_factorized_rank(64, 64, 0.5)
    116
    """
    op = "sparse_factorized_rank"
    full = _full_rank(op, fan_in, fan_out, taps)
    return math.ceil(_over(full, _density(op, sparsity)))


def sparse_doped_rank(
    fan_in: SupportsIndex,
    fan_out: SupportsIndex,
    sparsity: SupportsFloat,
    *,
    taps: SupportsIndex = 9,
) -> int:
    """Find the rank of dense factors that cost what a sparse layer saves (Sparse-IFT).

    ⌊sparsity·taps·fan_in·fan_out / (taps·fan_in + fan_out)⌋.

    Parameters
    ----------
    fan_in, fan_out : int
        Features.
    sparsity : number
        Of the layer that the factors are added to, 0 to less than 1.
    taps : int
        Positions of the convolution's kernel: 9 for 3×3, 1 for a linear layer.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        For what is not a number, or not an integer.
    ValueError
        For arguments out of range.

    Examples
    --------
    >>> sparse_doped_rank(64, 64, 0.5)
    28
    """
    op = "sparse_doped_rank"
    full, density = _full_rank(op, fan_in, fan_out, taps), _density(op, sparsity)
    return math.floor(_settle((1 - density.value) * full, full * density.error))


class _Share(NamedTuple):
    """A share of zeros or of entries, and how far it may be off from what was meant."""

    value: Fraction
    error: Fraction


def _count(op: str, argument: str, n: Any) -> int:
    count = integer(op, argument, n)
    if count < 0:
        refuse(op, argument, count, "at least 0")
    return count


def _rounding(op: str, rounding: Rounding) -> Rounding:
    if rounding not in ("floor_zeros", "trunc_zeros", "round_ones", "ceil_zeros"):
        names = "'floor_zeros', 'trunc_zeros', 'round_ones' or 'ceil_zeros'"
        refuse(op, "rounding", repr(rounding), names)
    return rounding


def _unit(op: str, argument: str, x: Any, *, expected: str = "0 to 1") -> Fraction:
    value = decimal(op, argument, x, expected=expected)
    if not 0 <= value <= 1:
        refuse(op, argument, float(value), expected)
    return value


def _share(op: str, argument: str, x: Any, *, expected: str = "0 to 1") -> _Share:
    """Read a share.

    Decimals of nine places lie further apart than twice the error, so there is one at most to
    take, and a larger float is never read as a smaller share.
    """
    value = _unit(op, argument, x, expected=expected)
    short = round(value, 9)
    if not is_double(x):
        return _Share(value, Fraction(0))
    if abs(value - short) <= _ERROR:
        return _Share(short, Fraction(0))
    return _Share(value, _ERROR)


def _kept(n: int, sparsity: _Share, rounding: Rounding) -> int:
    """Return the entries that a sparsity leaves of n.

    The error of the product grows with n. It is forgiven up to 2⁴² entries; then less and less,
    and from 2⁴³ on not at all, where it would blur what is meant. Since it never changes by more
    than the sparsity's own error from one n to the next, the counts stay monotone.
    """
    slack = sparsity.error * max(min(n, 2**43 - n), 0)
    zeros = _settle(n * sparsity.value, slack)
    if rounding == "round_ones":
        return round(n - zeros)
    return n - (math.ceil(zeros) if rounding == "ceil_zeros" else math.floor(zeros))


def _settle(x: Fraction, slack: Fraction) -> Fraction:
    """Return the multiple of 1/2 that x misses by no more than the slack, else x."""
    if not slack:
        return x
    nearest = Fraction(round(2 * x), 2)
    return nearest if abs(x - nearest) <= slack else x


def _density(op: str, sparsity: Any) -> _Share:
    expected = "0 to less than 1"
    share = _share(op, "sparsity", sparsity, expected=expected)
    if share.value == 1:
        refuse(op, "sparsity", real(op, "sparsity", sparsity), expected)
    return _Share(1 - share.value, share.error)


def _over(x: Fraction, density: _Share) -> Fraction:
    """Return x / density, or the multiple of 1/2 that it is within the error of the density."""
    return _settle(x / density.value, x * density.error / density.value**2)


def _full_rank(op: str, fan_in: Any, fan_out: Any, taps: Any) -> Fraction:
    """Return the rank at which dense factors have as many entries as the layer."""
    numbers = []
    for argument, n in (("fan_in", fan_in), ("fan_out", fan_out), ("taps", taps)):
        numbers.append(integer(op, argument, n))
        if numbers[-1] < 1:
            refuse(op, argument, numbers[-1], "at least 1")
    inputs, outputs, positions = numbers
    return Fraction(positions * inputs * outputs, positions * inputs + outputs)


def _progress(op: str, step: Any, begin: Any, end: Any) -> Fraction:
    first, last = decimal(op, "begin", begin), decimal(op, "end", end)
    if first >= last:
        refuse(op, "begin", begin, f"less than end = {end}")
    return min(max((decimal(op, "step", step) - first) / (last - first), Fraction(0)), Fraction(1))


def _blend(op: str, initial: Any, final: Any, left: Fraction) -> float:
    """Return final + (initial − final)·left, rounded once, so that it never leaves the ends."""
    first, last = decimal(op, "initial", initial), decimal(op, "final", final)
    return float(last + (first - last) * left)


def _listed(op: str, argument: str, given: Iterable[Any]) -> list[Any]:
    try:
        return list(given)
    except TypeError:
        raise TypeError(f"{op}: {argument} is {given!r}, expected a sequence") from None


def _each(op: str, argument: str, given: Iterable[Any], layers: int) -> list[Any]:
    """Return what is given for each of the layers."""
    numbers = _listed(op, argument, given)
    if len(numbers) != layers:
        refuse(op, f"len({argument})", len(numbers), f"len(shapes) = {layers}")
    return numbers


def _bounds(
    op: str, argument: str, given: Sequence[int] | None, sizes: list[int], default: list[int]
) -> list[int]:
    if given is None:
        return list(default)
    numbers = _each(op, argument, given, len(sizes))
    return [
        min(_count(op, f"{argument}[{i}]", n), size)
        for i, (n, size) in enumerate(zip(numbers, sizes, strict=True))
    ]


def _custom(
    op: str, custom: Mapping[int, SupportsFloat] | None, sizes: list[int], rounding: Rounding
) -> dict[int, int]:
    counts = {}
    if not isinstance(custom, (Mapping, NoneType)):
        raise TypeError(f"{op}: custom is {custom!r}, expected a mapping")
    for key, sparsity in (custom or {}).items():
        layer = integer(op, "a key of custom", key)
        if not 0 <= layer < len(sizes):
            refuse(op, "custom", f"for layer {layer}", f"layers 0 to {len(sizes) - 1}")
        share = _share(op, f"custom[{layer}]", sparsity)
        counts[layer] = _kept(sizes[layer], share, rounding)
    return counts


def _scores(
    op: str, method: str, scores: Sequence[SupportsFloat] | None, sizes: list[int]
) -> list[Fraction]:
    if scores is None:
        refuse(op, "scores", None, f"one number a layer for method '{method}'")
    expected = "a finite number of at least 0"
    numbers = [
        decimal(op, f"scores[{i}]", score, expected=expected)
        for i, score in enumerate(_each(op, "scores", scores, len(sizes)))
    ]
    for i, number in enumerate(numbers):
        if number < 0:
            refuse(op, f"scores[{i}]", float(number), expected)
    return numbers


def _weights(
    op: str, method: str, extents: list[tuple[int, ...]], fans: tuple[int, int], power: Fraction
) -> list[Fraction]:
    """Return the entries of each layer but for a factor."""
    sizes = [math.prod(shape) for shape in extents]
    if method == "uniform":
        return [Fraction(size) for size in sizes]
    if method not in ("er", "erk"):
        names = "'uniform', 'er', 'erk', 'proportional', 'snfs' or 'owl'"
        refuse(op, "method", repr(method), names)
    sides: list[tuple[int, ...]] = extents
    if method == "er":
        axes = [integer(op, f"fans[{i}]", axis) for i, axis in enumerate(_listed(op, "fans", fans))]
        if len(axes) != 2:
            refuse(op, "len(fans)", len(axes), "2")
        first, second = axes
        for i, shape in enumerate(extents):
            if not all(-len(shape) <= axis < len(shape) for axis in (first, second)):
                refuse(op, f"shapes[{i}]", shape, f"axes {first} and {second}, its fans")
        sides = [(shape[first], shape[second]) for shape in extents]
    ratios = [
        Fraction(sum(side), math.prod(side)) if size else Fraction(0)
        for side, size in zip(sides, sizes, strict=True)
    ]
    if method == "erk" and power != 1:
        ratios = _powers(ratios, float(power))
    return [size * ratio for size, ratio in zip(sizes, ratios, strict=True)]


def _powers(ratios: list[Fraction], power: float) -> list[Fraction]:
    """Return ratio^power but for a factor, which makes the largest one 1: nothing overflows."""
    positive = [ratio for ratio in ratios if ratio]
    if power >= 0:
        most = max(positive, default=Fraction(1))
        return [Fraction(float(r / most) ** power) if r else r for r in ratios]
    least = min(positive, default=Fraction(1))
    return [Fraction(float(least / r) ** -power) if r else r for r in ratios]


def _owl(
    sizes: list[int], scores: list[Fraction], density: Fraction, strength: Fraction
) -> list[Fraction]:
    """Return the entries that OWL gives each layer; they may exceed its bounds."""
    least = min(scores, default=Fraction(0))
    spread = max(scores, default=Fraction(0)) - least
    scaled = [(score - least) / (spread or 1) for score in scores]
    mean = sum((size * d for size, d in zip(sizes, scaled, strict=True)), Fraction(0))
    mean /= max(sum(sizes), 1)
    return [
        size * max(density + 2 * strength * (d - mean), Fraction(0))
        for size, d in zip(sizes, scaled, strict=True)
    ]


def _fill(
    budget: int, weights: list[Fraction], lower: list[int], upper: list[int]
) -> list[Fraction]:
    """Return min(max(ε·weight, lower), upper) with the ε for which they sum to the budget.

    The sum grows with ε and is linear between the points where a layer leaves a bound.
    """
    # Only the ratio of the weights counts: as integers they are added without common divisors.
    common = math.lcm(*(weight.denominator for weight in weights))
    whole = [weight.numerator * (common // weight.denominator) for weight in weights]
    layers = list(zip(whole, lower, upper, strict=True))
    points = sorted(
        {
            Fraction(bound, weight)
            for weight, low, high in layers
            if weight > 0
            for bound in (low, high)
        }
    )

    def at(scale: Fraction) -> list[int]:
        """Return the counts for ε = scale, times its denominator."""
        up, down = scale.numerator, scale.denominator
        return [min(max(up * weight, down * low), down * high) for weight, low, high in layers]

    def counts(index: int) -> list[Fraction]:
        """Return the counts at a point, the lower bounds for the one before the first."""
        if index < 0:
            return [Fraction(low) for low in lower]
        return [Fraction(count, points[index].denominator) for count in at(points[index])]

    first, last = 0, len(points)
    while first < last:  # the first point whose sum reaches the budget
        middle = (first + last) // 2
        if sum(at(points[middle])) >= budget * points[middle].denominator:
            last = middle
        else:
            first = middle + 1
    below = counts(first - 1)
    # At the end layers of weight 0 take the rest, each in proportion to its room.
    above = counts(first) if first < len(points) else [Fraction(high) for high in upper]
    share = (budget - sum(below)) / Fraction(sum(above) - sum(below) or 1)
    return [b + share * (a - b) for a, b in zip(above, below, strict=True)]


def _round_to(budget: int, quotas: list[Fraction]) -> list[int]:
    """Round to integers of the same sum: up where the remainder is largest, then the first."""
    counts = [math.floor(quota) for quota in quotas]
    order = sorted(range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i))
    for i in order[: budget - sum(counts)]:
        counts[i] += 1
    return counts
