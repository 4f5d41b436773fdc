"""What the algebra system decides in a worker process, called in this one."""

from __future__ import annotations

from fractions import Fraction

import pytest

from redi_lab.grading.algebra import equivalent
from redi_lab.grading.equivalence import Outcome
from redi_lab.grading.reading import Leaf, Number


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"(x+1)^2", r"x^2+2x+1"),
        (r"\sin^2 x+\cos^2 x", "1"),
        (r"10^{15}\sqrt{2}+1", r"10^{15}\sqrt{2}+1"),
        (r"x\sin y = 3", r"2x\sin y - 6 = 0"),
        (r"\{1, \sqrt{4}\}", r"\{1, 2\}"),
    ],
)
def test_equal_values_are_the_same(answer: str, gold: str) -> None:
    assert equivalent(Leaf(answer), Leaf(gold)) is Outcome.SAME


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"10^{15}\sqrt{2}+1", r"10^{15}\sqrt{2}"),
        (r"4\sqrt{5}", "9"),
        ("2x", "2x+1"),
        ("10^{15}+1", "10^{15}"),
        ("y=e^{-50}x", "y=e^{-40}x"),
        (r"\sqrt{8}", r"2\sqrt{3}"),
        ("x^2+1", "x^2+2"),
        (r"x\sin y = 3", r"x\sin y = 4"),
    ],
)
def test_values_that_differ_in_late_digits_are_not_the_same(answer: str, gold: str) -> None:
    assert equivalent(Leaf(answer), Leaf(gold)) in (Outcome.DIFFERENT, Outcome.DISAGREEMENT)


def test_rough_values_decide_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("redi_lab.grading.algebra._compare")
    assert equivalent(Leaf(r"4\sqrt{5}"), Leaf("9", number=Number(Fraction(9)))) is Outcome.DIFFERENT


def test_rough_values_decide_nothing_where_one_may_be_rounded() -> None:
    pi = Leaf("3.142", number=Number(Fraction(3142, 1000), Fraction(1, 1000)))
    assert equivalent(Leaf(r"\pi"), pi) is Outcome.SAME


def test_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redi_lab.grading.algebra.CPU_SECONDS", 0.3)
    assert equivalent(Leaf("10^{10^{10^{10}}}"), Leaf("7")) is Outcome.TIMEOUT
