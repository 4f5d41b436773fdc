from __future__ import annotations

import random
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redi_lab.grading.equivalence import Outcome, compare_answers
from redi_lab.grading.extraction import extract_answer, gold_answer
from redi_lab.grading.reading import Leaf

SAME = [
    ("073", "73"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    ("28,800", "28800"),
    ("1 000", "1000"),
    (r"\$32,348", "32348"),
    ("5 dollars", r"\$5"),
    ("17.5", "17.5%"),
    ("60%", "0.6"),
    (r"75\text{ percent}", r"75\%"),
    (r"90^\circ", "90"),
    (r"125\text{ miles}", "125"),
    ("5 cm", r"5\text{ centimeters}"),
    (r"9.8\text{ m/s}^2", r"9.8\mathrm{~m}/\mathrm{s}^{2}"),
    ("9 apples", "9"),
    (r"918\frac{1}{2}", "918.5"),
    (r"918\frac12", "918.5"),
    ("0.333", r"\frac{1}{3}"),
    (r"0.\overline{3}", r"\frac13"),
    ("4.031882", "4.03188"),
    (r"3.83\times10^{35}", "3.83e35"),
    ("1, 2", "2, 1"),
    (r"\{1,2,2\}", "1,2"),
    (r"1 \pm 2", "1+2, 1-2"),
    ("(1, 2)", "1, 2"),
    ("x = 5", "5"),
    ("AB=5", "5"),
    ("n=1, 2", "1, 2"),
    ("(5,2),(7,2)", "p=5,q=2;p=7,q=2"),
    ("(1,2),(2,1)", "(x,y)=(1,2),(2,1)"),
    ("y=2, x=1", "x=1, y=2"),
    ("y = 2x", "f(x) = 2x"),
    ("x \\in [1, 2)", "[1,2)"),
    ("(C) Plane", r"\text{(C)}"),
    ("option A", "A"),
    (r"\textbf{(A) }5", "A"),
    (r"\text{Even}", "even"),
    ("1112122_3", "1112122"),
    ("11:21", "V_{1}:V_{2}=11:21"),
    (r"3{:}30", "3:30"),
    ("∅", r"\varnothing"),
    (r"\{\}", r"\emptyset"),
    ("1.5", r"x = \frac{3}{2} \approx 1.6"),
]
DIFFERENT = [
    ("9007199254740993", "9007199254740992"),
    ("0.33", r"\frac{1}{3}"),
    ("100.4", "100"),
    ("2,002", "2"),
    ("1,001", "(1,1)"),
    ("1", "1, 2"),
    ("1, 2", "1"),
    ("(2, 1)", "(1, 2)"),
    ("2,1", "x=1,y=2"),
    (r"\{1,2\}", "(1,2)"),
    ("[1, 2]", "(1, 2)"),
    ("x = 4", "5"),
    ("2.7\\approx3", "3"),
    ("(A)", "(B) line"),
    ("Friday", "Monday"),
    ("5", "(1, 2)"),
    ("9" * 400, "0.5"),
    ("(1,2,3,4)" * 40 + "x", "7"),
]
UNCLEAR = [
    ("no solution", "7", Outcome.KIND),
    ("5 is wrong", "5", Outcome.KIND),
    ("a" * 30, "7", Outcome.KIND),
    ("9 boys", "9 children", Outcome.UNITS),
    ("5 cm", "5 km", Outcome.UNITS),
    ("5 dollars", "5 cents", Outcome.UNITS),
    ("€5", r"\$5", Outcome.UNITS),
    ("1:20", "12:00", Outcome.NOTATION),
    ("11_2", "3_{10}", Outcome.NOTATION),
    (r"1, \sqrt{2}", r"\sqrt{2}", Outcome.NOTATION),
    (r"100\text{ cm}", r"1\text{ m}", Outcome.UNITS),
    ("5 million", "5", Outcome.KIND),
    ("5 millions", "5", Outcome.KIND),
    (r"20\%\text{ less}", r"20\%\text{ more}", Outcome.UNITS),
    ("1%", "1", Outcome.UNITS),
    ("on Monday", "Monday", Outcome.WORDING),
    ("x=1", "y=1", Outcome.NAMES),
    ("f(1)=3", "f(2)=3", Outcome.NAMES),
    ("(y,x)=(1,2)", "(x,y)=(1,2)", Outcome.NAMES),
    ("2x=6", "6", Outcome.EQUATION),
    ("0", "a^2+b=0", Outcome.EQUATION),
    ("f^{-1}(x)", r"\frac{1}{f(x)}", Outcome.NOTATION),
    ("5!!", "15", Outcome.NOTATION),
    ("a)b", "A", Outcome.NOTATION),
    ("1.000.000", "1000000", Outcome.NOTATION),
    ("32, 349", "32349", Outcome.NOTATION),
    ("1,234", "(1,234)", Outcome.NOTATION),
    ("1:2", "2:4", Outcome.NOTATION),
    ("]0,1]", "(0,1]", Outcome.NOTATION),
    ("", "", Outcome.NOTATION),
    ("9^{9^{9^9}}", "7", Outcome.SIZE),
    ("7", "10^{10^{10^{10}}}", Outcome.SIZE),
    (r"(10^{10})!", "7", Outcome.SIZE),
    ("((9!)!)!", "7", Outcome.SIZE),
    (r"\{,\}", "1, 2", Outcome.NOTATION),
    ("()", "1, 2", Outcome.NOTATION),
]
FOR_ALGEBRA = [
    (r"\sin 30^\circ", "0.5"),
    (r"\sum_{k=1}^n k", "n(n+1)/2"),
    (r"\sqrt{x^2}", "x"),
    (r"2\sqrt{2}", r"\sqrt{8}"),
    ("5 cm", "5 m"),  # a letter alone is a variable
    (r"1\leq|z|\leq2", r"z\in[-2,-1]\cup[1,2]"),
    (r"(0,1)\cup[1,2)", "(0,2)"),
    (r"4\sqrt{5}", "9"),
    ("2x", "2x+1"),
    ("2^{2^{2n}}", "7"),
    ("(n+1)!", "7"),
    ("x^2+y^2=1", "y^2=1-x^2"),
    (r"\begin{pmatrix}1&\frac12\end{pmatrix}", r"\begin{bmatrix}1 & 0.5\end{bmatrix}"),
]


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_same(answer: str, gold: str) -> None:
    assert compare_answers(answer, gold) is Outcome.SAME


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_different(answer: str, gold: str) -> None:
    assert compare_answers(answer, gold) is Outcome.DIFFERENT


@pytest.mark.parametrize(("answer", "gold", "outcome"), UNCLEAR)
def test_what_is_unclear_and_why(answer: str, gold: str, outcome: Outcome) -> None:
    assert compare_answers(answer, gold) is outcome


@pytest.mark.parametrize(("answer", "gold"), FOR_ALGEBRA)
def test_what_is_left_to_algebra(answer: str, gold: str) -> None:
    assert compare_answers(answer, gold) is Outcome.ALGEBRA


def test_algebra_decides_the_parts_of_a_list() -> None:
    asked = []

    def algebra(answer: Leaf, gold: Leaf) -> Outcome:
        asked.append((answer.text, gold.text))
        return Outcome.SAME

    assert compare_answers(r"(2\sqrt{2}, 3)", r"(\sqrt{8}, 3)", algebra) is Outcome.SAME
    assert asked == [(r"2\sqrt{2}", r"\sqrt{8}")]


PIECES = [
    *"0123456789.,;:=<>+-*/^_!|%$ abxfeiC'(){}[]⟦⟧±≤√²°＄\n\x00\ud800",
    *(r"\frac", r"\sqrt", r"\pi", r"\text{", "\\", r"\begin{pmatrix}", r"\end{pmatrix}", "&", r"\\", r"\{", r"\}"),
    *(
        r"\cup",
        r"\in",
        r"\approx",
        r"\sin",
        " and ",
        "cm",
        " apples",
        "(1,2)",
        r"\overline{",
        "1,234",
        r"\boxed{",
        "**",
    ),
    *("The answer is ", "####", " is: ", "e9", r"\times 10^"),
]


def test_no_text_raises() -> None:
    """Random strings of what answers are written in, broken in every way."""
    generator = random.Random(0)
    texts = ["".join(generator.choices(PIECES, k=generator.randint(1, 14))) for _ in range(3000)]
    for answer, gold in zip(texts[::2], texts[1::2], strict=True):
        assert isinstance(compare_answers(answer, gold), Outcome)


REPEATED = st.tuples(
    st.lists(st.sampled_from(PIECES), max_size=5).map("".join),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=5).map("".join),
).map(lambda parts: (parts[0] + parts[1] * (2000 // len(parts[1])))[:1990] + parts[2])
"""2,000 characters at most reach the comparison; an expression that backtracks would take hours."""


def read_and_compare(text: str) -> None:
    compare_answers(text, "7")
    compare_answers("(1, x+1)", text)
    gold_answer(text)
    for answers in ("boxed", "marker", "last_number"):
        extract_answer(text * 20, answers)


@settings(max_examples=10, deadline=None)
@given(REPEATED)
def test_time_is_bounded_for_any_repetition(text: str) -> None:
    began = time.process_time()
    read_and_compare(text)
    assert time.process_time() - began < 60


@settings(max_examples=2, deadline=None)
@given(REPEATED)
def test_memory_is_bounded_for_any_repetition(text: str) -> None:
    """Apart from the time, since to follow every allocation takes several times as long."""
    tracemalloc.start()
    read_and_compare(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20
