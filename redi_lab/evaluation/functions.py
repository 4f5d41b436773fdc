"""The functions of final answers, on exact rationals or complex floats, with bounded cost.

A result that would be too large to hold raises `TooLargeError` instead of being computed, so a tower of powers costs
nothing; a value that does not exist (division by zero, a logarithm of zero) raises `ArithmeticError` or `ValueError`.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from fractions import Fraction

Number = Fraction | complex

_MAX_BITS = 8192  # an exact integer with more is no final answer that exact comparison must settle


class TooLargeError(ArithmeticError):
    """The value has too many digits to compute."""


def as_complex(value: Number) -> complex:
    """The value as a complex float; too large a rational raises `TooLargeError`."""
    try:
        return complex(value)
    except OverflowError as error:
        raise TooLargeError from error


def rounded(value: Number) -> Number:
    """`value` itself, unless exact arithmetic has made it too large to go on with."""
    if isinstance(value, Fraction) and max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise TooLargeError
    return value


def power(base: Number, exponent: Number) -> Number:
    """Base ** exponent: exact for rational base and whole exponent, else the principal value."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if base not in (0, 1, -1) and bits * abs(exponent.numerator) > 2 * _MAX_BITS:
            raise TooLargeError
        if abs(exponent.numerator) > _MAX_BITS:  # of 0, 1 and -1
            return base ** (2 + exponent.numerator % 2)
        return Fraction(base**exponent.numerator)
    try:
        return as_complex(base) ** as_complex(exponent)
    except OverflowError as error:
        raise TooLargeError from error


def root(radicand: Number, degree: Number) -> Number:
    """The degree-th root; the real one of a negative number where the degree is odd."""
    value, index = as_complex(radicand), as_complex(degree)
    if value.imag == 0 and value.real < 0 and index.imag == 0 and index.real % 2 == 1:
        return -power(-value, 1 / index)
    return power(value, 1 / index)


def factorial(value: Number) -> Number:
    """n!, exact for whole n up to 500; the gamma function for other real values."""
    if isinstance(value, Fraction) and value.denominator == 1 and value >= 0:
        if value > 500:
            raise TooLargeError
        return Fraction(math.factorial(value.numerator))
    return complex(math.gamma(_real(value) + 1))


def binomial(upper: Number, lower: Number) -> Number:
    """The binomial coefficient, through factorials."""
    result = as_complex(factorial(upper)) / as_complex(factorial(lower))
    difference = upper - lower if isinstance(upper, Fraction) and isinstance(lower, Fraction) else None
    below = factorial(difference if difference is not None else as_complex(upper) - as_complex(lower))
    return result / as_complex(below)


def _real(value: Number) -> float:
    number = as_complex(value)
    if number.imag != 0:
        raise ValueError("not real")
    return number.real


def _of_complex(function: Callable[[complex], complex]) -> Callable[[Number], Number]:
    def apply(value: Number) -> Number:
        try:
            return function(as_complex(value))
        except OverflowError as error:
            raise TooLargeError from error

    return apply


def _magnitude(value: Number) -> Number:
    return abs(value) if isinstance(value, Fraction) else complex(abs(value))


def _ceiling(value: Number) -> Number:
    return Fraction(math.ceil(value if isinstance(value, Fraction) else _real(value) - 1e-12))


def _floor(value: Number) -> Number:
    return Fraction(math.floor(value if isinstance(value, Fraction) else _real(value) + 1e-12))


_LOGARITHM = _of_complex(cmath.log)

FUNCTIONS: dict[str, Callable[..., Number]] = {
    **{name: _of_complex(getattr(cmath, name)) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp")},
    **{f"arc{name}": _of_complex(getattr(cmath, f"a{name}")) for name in ("sin", "cos", "tan")},
    "sqrt": _of_complex(cmath.sqrt),
    "cot": _of_complex(lambda value: 1 / cmath.tan(value)),
    "sec": _of_complex(lambda value: 1 / cmath.cos(value)),
    "csc": _of_complex(lambda value: 1 / cmath.sin(value)),
    "ln": _LOGARITHM,
    "log": _LOGARITHM,
    "abs": _magnitude,
    "ceil": _ceiling,
    "floor": _floor,
    "factorial": factorial,
    "binomial": binomial,
    "root": root,
}
"""Every function by the name that it has in LaTeX."""
