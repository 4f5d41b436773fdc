"""What the algebra system decides in a worker process, called in this one."""

from __future__ import annotations

import pytest

from redi_lab.grading.algebra import equivalent
from redi_lab.grading.equivalence import Outcome
from redi_lab.grading.reading import Leaf


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
        ("10^{15}+1", "10^{15}"),
        ("y=e^{-50}x", "y=e^{-40}x"),
        (r"\sqrt{8}", r"2\sqrt{3}"),
        ("x^2+1", "x^2+2"),
        (r"x\sin y = 3", r"x\sin y = 4"),
    ],
)
def test_values_that_differ_in_late_digits_are_not_the_same(answer: str, gold: str) -> None:
    assert equivalent(Leaf(answer), Leaf(gold)) in (Outcome.DIFFERENT, Outcome.DISAGREEMENT)
