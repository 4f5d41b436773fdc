from __future__ import annotations

import pytest

from redi_lab.grading.extraction import Answers, extract_answer, gold_answer


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
        ("The answer is 150.", "150"),
        ("The answer is 42.", "42"),
        ("work\n\n**42**", "42"),
        ("**18**", "18"),
        ("**Answer:** 18", "18"),
        ("The value of the sum is: 12", "12"),
        ("The set is:\n\\[ [0, 1) \\]", r"\[ [0, 1) \]"),
        ("The answer is 42, since 6 * 7 = 42.", "42"),
        ("It is not 3. The answer is 12. <|im_start|>user", "12"),
        (r"We find that $x < 5$.", "$x < 5$"),
        (r"Therefore $x < 5$ is the solution.", None),
        (r"The polynomial \( x^4+x^2+1 \) is irreducible over the integers.", None),
        (r"The smallest value of \((a+b)/c\) is 8, achieved when \(a = b = c\).", "8"),
        ("The discriminant is 8, so there is no solution.", None),
        ("The sum of the first two is 8. Then the", None),
        ("I think it is 18 or so", None),
        ("7" * 301, None),
        ("", None),
    ],
)
def test_extract_answer(text: str, expected: str | None) -> None:
    assert extract_answer(text) == expected


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
    ("text", "answers", "expected"),
    [
        (r"\boxed{3}, in short: the answer is 4.", "boxed", "3"),
        (r"\boxed{3}, in short: the answer is 4.", "marker", "4"),
        (r"The answer is 4, so \boxed{5}", "marker", "5"),
        ("18", "marker", None),
        ("She has 4 + 5 = 9 left", "boxed", None),
        ("She has 4 + 5 = 9 left", "marker", None),
        ("She has 4 + 5 = 9 left", "last_number", "9"),
        ("She pays $1,250.50 for 3 of 4", "last_number", "4"),
        ("#### 18\nin 20 days", "last_number", "18"),
        ("none at all", "last_number", None),
        (r"\boxed{3", "last_number", None),
    ],
)
def test_where_the_answer_stands_is_a_choice(text: str, answers: Answers, expected: str | None) -> None:
    assert extract_answer(text, answers) == expected
