from __future__ import annotations

from fractions import Fraction

import pytest

from redi_lab.grading.notation import normalise
from redi_lab.grading.reading import Group, Leaf, Part, UnreadableError, read, read_number


def shape(part: Part) -> object:
    """Brackets, names and texts, without what is derived from them."""
    if isinstance(part, Leaf):
        return (part.name, part.text, part.unit) if part.name or part.unit else part.text
    return (part.name, part.opening + part.closing, *map(shape, part.parts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", "1"),
        ("(1)", "1"),
        ("1, 2", ("", "", "1", "2")),
        ("1 and 2", ("", "", "1", "2")),
        (r"6 \text{ and } 8", ("", "", "6", "8")),
        ("(1; 2)", ("", "()", "1", "2")),
        ("[1,2)", ("", "[)", "1", "2")),
        (r"\{1,2\}", ("", "{}", "1", "2")),
        ("{1,2}", ("", "", "1", "2")),
        ("(1,2)(2,1)", ("", "", ("", "()", "1", "2"), ("", "()", "2", "1"))),
        ("x=1", ("x", "1", "")),
        ("f(x)=1", ("f(x)", "1", "")),
        ("AB=1", ("AB", "1", "")),
        ("x=1,2", ("x", "", ("x", "1", ""), ("x", "2", ""))),
        ("(x,y)=(1,2)", ("(x,y)", "()", "1", "2")),
        ("a=5,b=2;a=7,b=2", ("", "", *(("", "()", ("a", a, ""), ("b", "2", "")) for a in "57"))),
        (r"x\approx2", ("x", "2", "")),
        (r"\frac{10}{3}\approx3", r"\frac{10}{3}"),
        ("x=1+1=2", ("x", "2", "")),
        (r"x\in(1,2)", ("x", "()", "1", "2")),
        (r"1\pm2", ("", "", "1+2", "1-2")),
        (r"15\text{ cm}^2", ("", "15", "cm^2")),
        ("9customers", ("", "9", "customers")),
        (r"\$7.50", ("", "7.50", "＄")),
        ("37m", "37m"),  # a letter alone may be a variable
        (r"\mathrm{e}^2", "e^2"),
        (r"k_{\mathrm{B}}", "k_{B}"),
        ("12,345,678", "12345678"),
        ("1,23", ("", "", "1", "23")),
    ],
)  # fmt: skip
def test_one_reading(text: str, expected: object) -> None:
    assert shape(read(normalise(text))) == expected


@pytest.mark.parametrize("text", ["2x=6", "x+y=1", "a=b=c", "x<2", r"1\leq|z|\leq2", r"n\in A"])
def test_relations_are_left_as_they_are(text: str) -> None:
    part = read(normalise(text))
    assert isinstance(part, Leaf)
    assert part.is_relation


@pytest.mark.parametrize(
    "text", ["(" * 50 + "1,2" + ")" * 50, "1," * 100, "]0,1]", "(1", "x<2, x>5", "n=2k, k>0", "x=1, y=2, 3"]
)
def test_what_cannot_be_read_in_one_way(text: str) -> None:
    with pytest.raises(UnreadableError):
        read(text)


@pytest.mark.parametrize(
    ("text", "value", "step"),
    [
        ("025", Fraction(25), 0),
        ("-0.50", Fraction(-1, 2), Fraction(1, 100)),
        (".4", Fraction(2, 5), Fraction(1, 10)),
        ("142.", Fraction(142), 0),
        ("58,500", Fraction(58500), 0),
        ("1 000", Fraction(1000), 0),
        ("1e-3", Fraction(1, 1000), Fraction(1, 1000)),
        (r"3.8\times 10^{3}", Fraction(3800), 100),
        (r"-\frac{-1}{2}", Fraction(1, 2), 0),
        (r"\frac34", Fraction(3, 4), 0),
        ("1 1/2", Fraction(3, 2), 0),
        (r"918\frac{1}{2}", Fraction(1837, 2), 0),
        (r"0.1\overline{6}", Fraction(1, 6), 0),
    ],
)
def test_read_number(text: str, value: Fraction, step: Fraction) -> None:
    number = read_number(text)
    assert number is not None
    assert (number.value, number.step) == (value, step)


@pytest.mark.parametrize(
    "text", ["1,2", "1,2345", "٣", "", "1/0", "1e999", r"2\frac{3}{2}", "1.2.3", r"\frac{1.2.3}{4}", "x"]
)
def test_what_is_no_plain_number(text: str) -> None:
    assert read_number(text) is None


def test_groups_keep_their_text() -> None:
    part = read("(1, x+1)")
    assert isinstance(part, Group)
    assert part.text == "(1, x+1)"
