"""Numbers that callers give: read as integers, floats or exact decimals, or refused by name.

A number may be Python's, NumPy's or an array of no axes of any framework.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Rational
from typing import Any, NoReturn

import numpy as np

#: Bits of the significand and the exponent of the smallest normal number, as `math.frexp` counts,
#: of the float types that are narrower than Python's.
_NARROW = {
    "float32": (24, -125),
    "bfloat16": (8, -125),
    "float16": (11, -13),
    "float8_e4m3fn": (4, -5),
    "float8_e5m2": (3, -13),
}


def refuse(op: str, argument: str, got: object, expected: str) -> NoReturn:
    """Raise the ValueError for an argument that is out of range."""
    raise ValueError(f"{op}: {argument} is {got}, expected {expected}")


@contextlib.contextmanager
def speaking_as(op: str) -> Iterator[None]:
    """Have errors of the operations that one is made of begin with that one's name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        first, colon, rest = str(error).partition(": ")
        if not colon or not first.isidentifier():
            raise
        raise type(error)(f"{op}: {rest}") from None


def integer(op: str, argument: str, n: Any) -> int:
    """Return an integer as Python's own, which cannot overflow."""
    try:
        return operator.index(n)
    except TypeError:
        raise TypeError(f"{op}: {argument} is {_shown(n)}, expected an integer") from None


def whole(op: str, argument: str, n: Any) -> int:
    """Return an integer that a framework can hold in 64 bits."""
    value = n if type(n) is int else integer(op, argument, n)
    if not -(2**63) <= value < 2**63:
        refuse(op, argument, value, "-2**63 to 2**63 - 1")
    return value


def size(op: str, argument: str, n: Any, least: int) -> int:
    """Return a size of at least `least` that 32 bits hold."""
    value = whole(op, argument, n)
    if not least <= value < 2**31:
        refuse(op, argument, value, f"{least} to {2**31 - 1}")
    return value


def flag(op: str, argument: str, given: Any) -> bool:
    """Return what has a truth of its own, as numbers have, as True or False."""
    if given is True or given is False:
        return bool(given)
    try:
        if hasattr(type(given), "__bool__"):
            return bool(given)
    except (TypeError, ValueError, RuntimeError):  # of several elements, or traced
        pass
    raise TypeError(f"{op}: {argument} is {_shown(given)}, expected True or False")


def is_one(x: Any) -> bool:
    """Say whether an argument is one number, perhaps an array of no axes, and not several."""
    return isinstance(x, Integral) or getattr(x, "shape", None) == ()


def several(op: str, argument: str, given: Any, count: int) -> tuple[Any, ...]:
    """Return a tuple or a list of so many items as a tuple."""
    if not isinstance(given, (tuple, list)):
        raise TypeError(
            f"{op}: {argument} is of type {type(given).__name__}, expected a tuple of {count}"
        )
    if len(given) != count:
        refuse(op, f"len({argument})", len(given), str(count))
    return tuple(given)


def listed(op: str, argument: str, given: Any) -> np.ndarray[Any, Any]:
    """Return numbers in an array of NumPy's."""
    try:
        numbers = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):  # PyTorch's, of one that requires grad
        numbers = np.array(None)
    if numbers.dtype.kind in "biuf":
        return numbers
    try:  # types that NumPy does not know
        if isinstance(given, (list, tuple)):
            return np.array([real(op, argument, x) for x in given])
        return np.array(real(op, argument, given))
    except TypeError:
        raise TypeError(f"{op}: {argument} is {_shown(given)}, expected numbers") from None


def real(op: str, argument: str, x: Any) -> float:
    """Return the value of a number as a float, NaN and infinities too."""
    if type(x) is float:  # also where torch.compile reads along
        return x
    # Arrays of strings and complex numbers can be converted, too, but not to the number meant.
    known = re.match(r"b?float|u?int|bool|$", _dtype(x))
    if known and _axes(x) == 0 and hasattr(type(x), "__float__"):
        try:
            return float(x)
        except OverflowError:
            refuse(op, argument, "beyond the range of a float", "a finite number")
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{op}: {argument} is {_shown(x)}, expected a number")


def decimal(op: str, argument: str, x: Any, *, expected: str = "a finite number") -> Fraction:
    """Return the decimal that was meant: the shortest one that x's own type rounds to x.

    float32 holds 0.9 as 0.89999998; what was meant is 9/10. Integers, `fractions.Fraction` and
    `decimal.Decimal` are exact already. NaN and infinities are refused; `expected` says what is
    not.
    """
    number = real(op, argument, x)
    if not math.isfinite(number):
        refuse(op, argument, number, expected)
    if isinstance(x, Rational):
        return Fraction(int(x.numerator), int(x.denominator))  # NumPy's could overflow
    if isinstance(x, Decimal):
        return Fraction(x)
    if _dtype(x) in _NARROW:
        return _shortest(number, *_NARROW[_dtype(x)])
    return _decimal(number)


@functools.lru_cache(maxsize=256)  # the same few sparsities come again for each layer
def _decimal(number: float) -> Fraction:
    return Fraction(repr(number))


def is_double(x: Any) -> bool:
    """Say whether a number is of a float type as wide as Python's, that is, may be inexact."""
    return not isinstance(x, (Rational, Decimal)) and _dtype(x) not in _NARROW


def _shortest(number: float, bits: int, least: int) -> Fraction:
    """Return the decimal of fewest digits that a narrow float type rounds to a number it holds."""
    value = abs(Fraction(number))
    fraction, exponent = math.frexp(abs(number))
    gap = Fraction(2) ** (max(exponent, least) - bits)  # to the next larger float
    below = gap / 2 if fraction == 0.5 and exponent > least else gap
    even = value / gap % 2 == 0  # numbers halfway to a neighbour are rounded to the even one
    for digits in range(bits):
        text = f"{abs(number):.{digits}e}"
        unit = Fraction(10) ** (int(text.partition("e")[2]) - digits)
        for candidate in (Fraction(text), Fraction(text) + unit):
            off = 2 * (candidate - value)
            if -below < off < gap or (even and off in (-below, gap)):
                return candidate if number > 0 else -candidate
    return Fraction(number)


def _axes(x: Any) -> int:
    return len(getattr(x, "shape", ()))


def _dtype(x: Any) -> str:
    """Return the name of an array's or a NumPy scalar's element type, "" without one."""
    dtype = getattr(x, "dtype", "")
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2]


def _shown(x: Any) -> str:
    return f"an array of shape {tuple(x.shape)}" if _axes(x) else repr(x)
