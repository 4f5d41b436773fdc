from __future__ import annotations

import math
from fractions import Fraction

import pytest

from redi_lab.evaluation.expressions import read_expression
from redi_lab.evaluation.functions import Number, TooLargeError


def value(text: str, **point: Number) -> Number:
    expression = read_expression(text)
    assert expression is not None, text
    return expression.value(point)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\frac12", Fraction(1, 2)),
        (r"918\frac{1}{2}", Fraction(1837, 2)),
        (r"3\frac{7}{2}", Fraction(21, 2)),  # no proper fraction: a product
        ("-1./3", Fraction(-1, 3)),
        ("1e-5", Fraction(1, 100_000)),
        (r"7.8\times 10^2", Fraction(780)),
        ("2^{-2}", Fraction(1, 4)),
        ("2**3", Fraction(8)),
        ("5!", Fraction(120)),
        (r"\binom{5}{2}", Fraction(10)),
        ("|2-5|", Fraction(3)),
        (r"\lceil 7/2 \rceil", Fraction(4)),
        ("-2^2", Fraction(-4)),
        ("8/4/2", Fraction(1)),
    ],
)
def test_exact_values(text: str, expected: Fraction) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\sqrt3", math.sqrt(3)),
        (r"\sqrt[3]{-8}", -2),
        (r"\sin^{-1}(\frac{1}{2})", math.asin(0.5)),
        (r"\cos^2 0.5", math.cos(0.5) ** 2),
        (r"\log_2 8", 3),
        (r"\frac34i", 0.75j),
        ("np.arcsin(10/13)", math.asin(10 / 13)),
        (r"2\cdote^{2}", 2 * math.e**2),  # white space stripped
        ("0!+exp(1)", 1 + math.e),
    ],
)
def test_approximate_values(text: str, expected: complex) -> None:
    assert complex(value(text)) == pytest.approx(complex(expected))


def test_variables_with_subscripts_primes_and_derivatives() -> None:
    expression = read_expression(r"k_{B} T_1 + x'")
    assert expression is not None
    assert expression.variables == {"k_B", "T_1", "x'"}
    for text in (r"\frac{dx}{dt}", r"\dot{x}", r"x^{\prime}"):
        assert value(text, **{"x'": Fraction(7)}) == 7


@pytest.mark.parametrize("text", ["", "maximum value", "1 +", "(1", "1 2", r"\sum_k k", r"\unknown", "1" + "+1" * 400])
def test_what_is_not_understood_is_not_guessed(text: str) -> None:
    assert read_expression(text) is None


@pytest.mark.parametrize("text", ["9^{9^{9^9}}", "10**10**10", "((9!)!)!", "2^{9999999}", r"\frac{1e9999}{3}"])
def test_large_numbers_are_refused_at_once(text: str) -> None:
    with pytest.raises(TooLargeError):
        value(text)


@pytest.mark.parametrize("text", ["(" * 300 + "1" + ")" * 300, r"\sqrt" * 300 + "2", "x^" * 300 + "2"])
def test_depth_is_bounded(text: str) -> None:
    assert read_expression(text) is None
