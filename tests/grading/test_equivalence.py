from __future__ import annotations

import random

import pytest
from redi_lab.evaluation.equivalence import Outcome, compare_answers

SAME = [
    ("073", "73"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    ("28,800", "28800"),
    ("100, 200", "100,200"),
    (r"\$32,348", "32348"),
    ("17.5", "17.5%"),
    ("60%", "0.6"),
    (r"28\%", "28"),
    (r"90^\circ", "90"),
    (r"125\text{ miles}", "125"),
    ("5 cm", r"5\text{ centimeters}"),
    (r"918\frac{1}{2}", "918.5"),
    ("0.333", r"\frac{1}{3}"),
    ("0.6054", r"\cos^{10}(\frac{\pi}{10})"),
    ("4.031882", "4.03188"),
    (r"3.83\times10^{35}", "3.83e35"),
    ("1, 2", "2, 1"),
    (r"\{1,2,2\}", "1,2"),
    (r"3+2\sqrt{2},3-2\sqrt{2}", r"3 \pm 2 \sqrt{2}"),
    ("(1, 2)", "1, 2"),
    ("x = 5", "5"),
    ("n=1, 2", "1, 2"),
    ("(5,2),(7,2)", "p=5,q=2;p=7,q=2"),
    ("y=2, x=1", "x=1, y=2"),
    (r"x \in (1, \infty)", "x > 1"),
    ("1 < x \\leq 3", "(1, 3]"),
    (r"(1,2)\cup(3,4)", r"(3,4)\cup(1,2)"),
    ("1-x^2-y^2=0", "x^2+y^2=1"),
    ("y = x^2+2x+1", "(x+1)^2"),
    (r"\frac{\sinh(at)}{a}", r"\frac{1}{2a}(\exp{a*t} - \exp{-a*t})"),
    (r"\lfloor\frac{n}{2}\rfloor+1", r"1+\lfloor n/2\rfloor"),
    ("(C) Plane", r"\text{(C)}"),
    (r"\text{Even}", "even"),
    (r"\left[\begin{array}{cc}1&\frac12\end{array}\right]", r"\begin{pmatrix}1 & 0.5\end{pmatrix}"),
    (r"\begin{pmatrix}1&\frac12\end{pmatrix}", r"\begin{bmatrix}1 & 0.5\end{bmatrix}"),
    ("1112122_3", "1112122"),
    ("11_2", "3_{10}"),
    (r"918\frac12", "918.5"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{\sqrt{3}}{3} \approx 0.577"),
    ("11:21", "V_{1}:V_{2}=11:21"),
]
DIFFERENT = [
    ("9007199254740993", "9007199254740992"),
    ("0.33", r"\frac{1}{3}"),
    ("100.4", "100"),
    ("32, 349", "32349"),
    ("5 cm", "5 m"),
    ("1", "1, 2"),
    ("1, 2", "1"),
    ("(2, 1)", "(1, 2)"),
    (r"\{1,2\}", "(1,2)"),
    ("[1, 2]", "(1, 2)"),
    ("x = 4", "5"),
    ("x > 5", "x < 5"),
    ("5", "a^2+b=0"),
    ("x^2+y^2=2", "x^2+y^2=1"),
    ("(A)", "(B) line"),
    ("Friday", "Monday"),
    ("1:00", "12:00"),
    ("5", "(1, 2)"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1&3\end{pmatrix}"),
    ("1112112_3", "1112122_3"),
    ("11_3", "11_2"),
    (r"\lfloor\frac{n+1}{2}\rfloor", r"\lfloor\frac{n}{2}\rfloor"),
    ("2x", "2x+1"),
]
OTHER = [
    ("no solution", "7", Outcome.KIND),
    ("k/2", "K/2", Outcome.LETTER_CASE),
    ("9 boys", "9 children", Outcome.UNITS),
    ("on Monday", "Monday", Outcome.WORDING),
    ("9^{9^{9^9}}", "7", Outcome.TOO_LARGE),
    ("a" * 30, "7", Outcome.PROSE),
    (r"\sin 30^\circ", "0.5", Outcome.UNDECIDED),
    (r"\sum_{k=1}^n k", "n(n+1)/2", Outcome.UNDECIDED),
    (r"\sqrt{x^2}", "x", Outcome.UNDECIDED),
    (r"1\leq|z|\leq2", r"z\in[-2,-1]\cup[1,2]", Outcome.UNDECIDED),
    (r"(0,1)\cup[1,2)", "(0,2)", Outcome.UNDECIDED),
    ("0", "a^2+b=0", Outcome.UNDECIDED),
    ("x=1", "y=1", Outcome.UNDECIDED),
]


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_same(answer: str, gold: str) -> None:
    assert compare_answers(answer, gold) is Outcome.SAME


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_different(answer: str, gold: str) -> None:
    assert compare_answers(answer, gold) is Outcome.DIFFERENT


@pytest.mark.parametrize(("answer", "gold", "outcome"), OTHER)
def test_what_is_left_open_and_why(answer: str, gold: str, outcome: Outcome) -> None:
    assert compare_answers(answer, gold) is outcome


def test_no_text_raises() -> None:
    """Random strings of the alphabet that answers are written in, broken in every way."""
    generator = random.Random(0)
    alphabet = [
        *"0123456789.,;:=<>+-*/^_!|%$ abxfeiC'(){}[]⟦⟧±≤√²\x00\ud800",
        r"\frac",
        r"\sqrt",
        r"\pi",
        r"\text{",
        "\\",
    ]
    alphabet += [
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        "&",
        r"\\",
        r"\{",
        r"\}",
        r"\cup",
        r"\in",
        r"\approx",
        r"\sin",
        "and",
    ]
    texts = ["".join(generator.choices(alphabet, k=generator.randint(1, 14))) for _ in range(3000)]
    for answer, gold in zip(texts[::2], texts[1::2], strict=True):
        assert isinstance(compare_answers(answer, gold), Outcome)
