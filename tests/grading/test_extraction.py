from __future__ import annotations

from fractions import Fraction

import pytest

from redi_lab.grading.extraction import extract_answer, gold_answer, normalise, plain_number, spell_symbols


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{216}", "216"),
        (r"so \boxed { 216 }.", "216"),
        (r"\boxed{1} no, wait: \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\begin{matrix}1\\2\end{matrix}}", r"\begin{matrix}1\\2\end{matrix}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\fbox{7}", "7"),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        (r"\[\boxed{(1,2)}, \quad \boxed{(2,1)}\]", "(1,2), (2,1)"),
        (r"\boxed{3} then \boxed{4", None),
        (r"\boxed{}", None),
        ("work\n#### 18", "18"),
        ("work\nA: 18\n", "18"),
        ("#### 17\n#### 18", "18"),
        (r"#### 17 but \boxed{18}", "18"),
        ("Therefore, the final answer is: $x = 3$. ", "$x = 3$"),
        ("The Final Answer is 12.", "12"),
        ("Final Answer: she walked for 3 hours. I hope it is correct.", "3"),
        ("The final answer is that $x=4$ in the end.", "$x=4$"),
        ("18", "18"),
        ("28 pct", "28 pct"),
        (r"Therefore $x < 5$ is the solution.", "$x < 5$"),
        ("I think it is 18 or so", None),
        ("7" * 301, None),
        ("", None),
    ],
)
def test_extract_answer(text: str, expected: str | None) -> None:
    assert extract_answer(text) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (r"$\left( 3, \frac{\pi}{2} \right)$", r"(3,\frac{\pi}{2})"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"\$7.50", "7.50"),
        (r"28 \%", "28%"),
        (r"\text{(C)}", "C"),
        (r"x \leftarrow y", r"x\leftarrow y"),
        ("two words", "two words"),
    ],
)
def test_normalise(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("025", Fraction(25)),
        ("-0.50", Fraction(-1, 2)),
        (".4", Fraction(2, 5)),
        ("142.", Fraction(142)),
        ("58,500", Fraction(58500)),
        ("11,111,111,100.5", Fraction("11111111100.5")),
        ("1,2", None),
        ("1,2345", None),
        ("1e9", None),
        ("1/2", None),
        ("٣", None),
        ("", None),
    ],
)
def test_plain_number(text: str, expected: Fraction | None) -> None:
    assert plain_number(text) == expected


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ("18", "18"),
        ("work\n#### 18", "18"),
        (r"\boxed{1} papers and \boxed{2} bins", "1, 2"),
        (r"We get \boxed{5}." + " padding" * 50 + r" so \boxed{6}.", "6"),
        (r"\text{(C)}", r"\text{(C)}"),
        ("the set of all even integers above two", "the set of all even integers above two"),
    ],
)
def test_gold_answer(gold: str, expected: str) -> None:
    assert gold_answer(gold) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x²+1", "x^{2}+1"),
        ("1.22x10⁻¹⁸", r"1.22\times 10^{-18}"),
        ("√53", r"\sqrt{53}"),
        ("12π", r"12\pi "),
        ("a₁₂", "a_{12}"),
        ("14{,}916", "14,916"),
        (r"(3,\\frac{1}{2})", r"(3,\frac{1}{2})"),
        (r"\begin{pmatrix}1\\x\end{pmatrix}", r"\begin{pmatrix}1\\x\end{pmatrix}"),
    ],
)
def test_spell_symbols(text: str, expected: str) -> None:
    assert spell_symbols(text) == expected
